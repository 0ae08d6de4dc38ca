"""Published numeric traits of the methods' own code that no other test holds, each with its source.

`fact` ids name the sheet and section where a trait was read or checked by running the official
code. What a method does is asked of the method itself: routing of a whole pass at the true depth
and image length (narrow random weights), or one decision on constructed scores. The trained
methods are in test_witness_trained.py; all other traits stand beside their methods:
test_methods*.py, test_budgets.py, test_ledger.py, test_published.py, test_engine_training.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.cost.ledger import fastv_rule, sample_cost
from harness.engine import routed
from harness.families.catalog import shape_of
from harness.store.record import IMAGE
from methods import mmtok
from methods.dpc import cluster, noise
from tests.similarity_tools import everywhere, states
from tests.tiers import some
from tests.tiny import batch, tiny_llava
from tests.tower_tools import one_crop
from tests.witness_tools import NEXT, SMALL, VICUNA, parsed, record_of, tokens

# --- budgets_and_metrics.md 1: what "N tokens" really is, LLaVA-1.5 (N = 576, L = 32) ------------
LAYER_MEANS = [
    # spec, layer mean, token-layer budget B
    ("fastv:r=0.66667", 216, 0.375),  # K=2 keep 192
    ("fastv:r=0.77778", 156, 0.271),  # K=2 keep 128
    ("fastv:r=0.88889", 96, 0.167),  # K=2 keep 64
    ("fastv:k=3:r=0.88889", 112, 0.194),  # K=3 keep 64
    ("fastv:r=0.75", 171, 0.297),  # K=2 keep 144; fastv.md 7, Gumpest/SparseVLMs#12: 171, not 144
    ("fastv", 306, 0.531),  # the headline K=2, R=50 %
    ("sparsevlm", 206.5, 0.359),
    ("sparsevlm:budget=128", 145.4, 0.252),
    ("sparsevlm:budget=96", 114.1, 0.198),
    ("sparsevlm:budget=64", 82.3, 0.143),
    ("sparsevlm:version=2", 206.8, 0.359),
    ("sparsevlm:version=2:budget=128", 144.1, 0.250),
    ("sparsevlm:version=2:budget=96", 113.9, 0.198),
    ("sparsevlm:version=2:budget=64", 81.8, 0.142),
    ("pyramiddrop", 270, 0.469),
    ("llavolta", 306, 0.531),  # K=2, S=2
    ("pmod", 309, 0.537),  # beta = 0.5
    # mod.md 5: odd layers at 12.5 %: 56.25 % KV
    ("mod", 324, 0.5625),
]


# Of each method, and of each of its versions, one is asked in the default tier.
TOLD = {"fastv", "fastv:k=3:r=0.88889", "sparsevlm", "sparsevlm:version=2", "pyramiddrop"}
TOLD |= {"llavolta", "pmod", "mod"}


@pytest.mark.parametrize(
    ("spec", "mean", "share"),
    [pytest.param(*one, marks=[pytest.mark.slow] * (one[0] not in TOLD)) for one in LAYER_MEANS],
)
def test_real_layer_means_of_llava_1_5(spec: str, mean: float, share: float) -> None:
    found = tokens(spec)
    assert len(found) == 32
    assert np.mean(found) == pytest.approx(mean, abs=0.26 if spec == "pmod" else 0.06)
    assert np.mean(found) / 576 == pytest.approx(share, abs=6e-4)


@pytest.mark.parametrize("kept", some([192, 128, 64], 64))
@pytest.mark.parametrize(
    "spec",
    [
        "fastervlm:keep={k}", "visionzip:dominant={d}:contextual={c}", "scope:keep={k}",
        "divprune:tokens={k}", "cdpruner:relevance=words:keep={k}", "mmtok:keep={k}",
    ],
)  # fmt: skip
def test_methods_before_the_model_keep_their_nominal_number_in_every_layer(
    spec: str, kept: int
) -> None:
    """Section 1, first row; VisionZip counts class token and contextual tokens: 54 + 10 is 64."""
    contextual = {192: 30, 128: 20, 64: 10}[kept]
    assert tokens(spec.format(k=kept, d=kept - contextual, c=contextual)) == [kept] * 32


# --- pruning_methods.md 10 -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dominant", "contextual", "others", "stride"),
    [(162, 30, 415, 13), (108, 20, 469, 23), (54, 10, 523, 52), (27, 5, 550, 110)],
)
def test_visionzip_counts_and_stride_of_a_whole_crop(
    dominant: int, contextual: int, others: int, stride: int
) -> None:
    """R of 577 tokens are no dominant ones; merge targets are every s-th of them, the first C.

    The class token looks most at the last D - 1 patches, so that the others are 0, 1, 2, ...;
    contextual tokens are seen where two states (target, mean of what joined) have been summed.
    """
    x = [[float(i), 1.0] for i in range(577)]
    looks = [float(i) for i in range(576)]
    group = [min(max(i - 1, 0) // stride, contextual - 1) for i in range(577)]
    keys = np.eye(contextual)[group]  # everyone's nearest target is the one before it
    spec = f"visionzip:tokens={dominant + contextual}:dominant={dominant}:contextual={contextual}"
    seq = one_crop(x, keys, looks)
    event = parsed(spec).before(seq)
    columns = torch.arange(576)
    slots = columns[event.assign[0] == columns]
    left = event.states[0][slots]
    assert len(slots) == dominant + contextual
    summed = slots[left[:, 1] > 1.5].tolist()  # no target is without followers here
    assert 577 - dominant == others
    assert summed == [i * stride for i in range(contextual)]


def test_visionzip_function_default_is_221_tokens() -> None:
    assert tokens("visionzip:dominant=191:contextual=30") == [221] * 32


def test_pyramiddrop_layers_of_eight() -> None:
    assert tokens("pyramiddrop") == [576] * 8 + [288] * 8 + [144] * 8 + [72] * 8


def test_illava_language_half_keeps_n_minus_r_from_layer_8() -> None:
    """pruning_methods.md 7: r = round(N * .3) = 173; one merged token in the best slot of r + 1."""
    assert tokens("illava:vit_remove=0") == [576] * 8 + [403] * 24


def test_sparsevlm_recycles_alike_only_under_the_same_seed() -> None:
    """Tie-break of the clustering: U(0, 1) * 1e-6 on the density; all else is equal here."""
    points, real = torch.eye(12)[None], torch.ones(1, 12, dtype=torch.bool)

    def centres(seed: int, name: str = "doc") -> list[int]:
        seq: Any = SimpleNamespace(hidden=points, identities=[name])
        jitter = noise(seq, [(12, 4)], 12, seed)
        assert ((jitter >= 0) & (jitter < 1e-6)).all()
        found: list[int] = cluster(points, real, torch.tensor([[4]]), 4, jitter)[0][0].tolist()
        return found

    assert centres(0) == centres(0)
    assert len({tuple(centres(seed)) for seed in range(5)}) == 5
    assert centres(0) != centres(0, "another")


# --- newer_methods.md 5, last row: K = N, a blank image, K = 1 -----------------------------------
BEFORE = ["fastervlm", "visionzip", "prumerge", "prumerge:plus=1", "scope", "divprune"]
BEFORE += ["cdpruner:relevance=words", "mmtok"]


@pytest.mark.parametrize("spec", BEFORE)
@pytest.mark.parametrize("kept", [1, 20, 36])
def test_a_blank_image_leaves_k_different_tokens(spec: str, kept: int) -> None:
    model = tiny_llava(side=6)
    inputs = batch(model, [(3, [36], 4)])
    inputs["pixel_values"].zero_()
    model.model.vision_tower.embeddings.position_embedding.weight.data.zero_()
    with torch.no_grad():
        plain = model(**inputs).logits
        with routed(model, parsed(f"{spec}:tokens={kept}")) as run:
            logits = model(**inputs).logits
            (record,) = run.records()
    assert record.processed_per_layer(IMAGE).tolist() == [kept] * 4
    assert torch.isfinite(logits).all()
    if kept == 36 and not spec.startswith(("visionzip", "prumerge")):  # these two write new states
        assert torch.equal(logits, plain)


def test_fastervlm_indices_ascend_whatever_the_scores() -> None:
    looks = np.random.default_rng(1).permutation(576).astype(float)
    seq = one_crop(np.zeros((577, 2)), np.zeros((577, 2)), looks.tolist())
    event = parsed("fastervlm:keep=144").before(seq)
    kept = torch.nonzero(event.keep[0]).flatten().tolist()
    assert kept == sorted(np.argsort(-looks)[:144].tolist())
    assert event.counts == [144]


def test_mmtok_takes_unseen_tokens_when_nothing_is_left_to_cover() -> None:
    x = states([[1.0, 2, 3, 4]] * 8)
    real = torch.ones(1, 1, dtype=torch.bool)
    worth = parsed("mmtok").worth(x, x, everywhere(x), x[:, :1], real)
    picks, gains = mmtok.cover(worth, everywhere(x), 8)
    assert sorted(picks[0].tolist()) == list(range(8))
    assert gains[0, 1:].tolist() == pytest.approx([0.0] * 7, abs=1e-6)


# --- fastv.md ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("k", "pruned", "seven", "thirteen"), [(5, 0.5, 0.596, 0.583), (2, 0.9, 0.202, 0.192)]
)
def test_fastv_flops_ratios(k: int, pruned: float, seven: float, thirteen: float) -> None:
    """fastv.md 5, the two rows that tests/test_published.py does not have: n = 612 = 36 + 576."""
    for model, ratio in ((SMALL, seven), ("llava-hf/llava-1.5-13b-hf", thirteen)):
        shape = shape_of(model)
        method = parsed(f"fastv:k={k}:r={pruned}")
        cut = np.full(shape.layers, 612)
        cut[k:] -= 576 - method.kept(576)
        found = fastv_rule(shape, cut) / fastv_rule(shape, np.full(shape.layers, 612))
        assert found == pytest.approx(ratio, abs=9e-4)  # R = .9: 58 tokens stay, not 57.6


def test_fastv_flops_of_all_layers() -> None:
    """fastv.md 5: 3.18e12 multiply-accumulates of all 32 layers by the README's formula."""
    assert fastv_rule(shape_of(SMALL), np.full(32, 612)) / 2 == pytest.approx(3.18e12, rel=2e-3)


def test_fastv_stores_the_scoring_layer_once() -> None:
    """fastv.md 4: n = 631, K = 3, six layers; a port stored layer K-1 twice (1262 entries)."""
    model = tiny_llava(layers=6, side=24)
    inputs = batch(model, [(35, [576], 20)])
    with torch.no_grad(), routed(model, parsed("fastv:k=3")):
        cache = model(**inputs, use_cache=True).past_key_values
    lengths = [layer.keys.shape[2] for layer in cache.layers]
    assert lengths == [631, 631, 631, 343, 343, 343]


# --- llavolta.md ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("k", "stride", "ratio", "kv"),
    [
        (2, 8, 5.565, 0.180), (2, 4, 3.368, 0.297), (2, 2, 1.882, 0.531),
        (16, 8, 1.778, 0.562), (16, 2, 1.333, 0.750),
    ],
)  # fmt: skip
def test_llavolta_compression_ratios(k: int, stride: int, ratio: float, kv: float) -> None:
    """llavolta.md 2: CR = T / (K + (T - K) / S), its inverse is the layer mean of the KV share."""
    found = np.mean(tokens(f"llavolta:k={k}:stride={stride}")) / 576
    assert found == pytest.approx(kv, abs=6e-4)
    assert 1 / found == pytest.approx(ratio, abs=6e-4)


@pytest.mark.parametrize(("stride", "offset"), [(2, 0), (8, 3)])
def test_llavolta_positions_of_a_window(stride: int, offset: int) -> None:
    """llavolta.md 1: positions are meaned and truncated: p for S = 2, p + 3 for S = 8."""
    n = 24 * 2
    seq = one_crop(np.zeros((n + 1, 2)), np.zeros((n + 1, 2)), [0.0] * n)
    start = 35
    seq.position_ids = torch.arange(start, start + n)[None]
    seq.spans = [[(0, n)]]
    seq.info = VICUNA
    event = parsed(f"llavolta:k=2:stride={stride}").layer(2, seq)
    slots = torch.arange(0, n, stride)
    assert event.counts == [n // stride]
    found = seq.position_ids[0][event.place[0][slots]]
    means = seq.position_ids.view(-1, stride).double().mean(dim=1)
    assert found.tolist() == means.trunc().long().tolist()
    assert found.tolist() == (slots + start + offset).tolist()


def test_llavolta_pools_newlines_along_on_next() -> None:
    """llavolta.md 1: p-MoD's published FLOPs fit floor(2928 / 2) = 1464 pooled tokens.

    Windows never cross images here, which one image cannot show.
    """
    assert tokens("llavolta", NEXT) == [2928] * 2 + [1464] * 30
    cost = sample_cost(record_of("llavolta", NEXT), shape_of(NEXT), itemsize=2)
    assert cost.prefill["paper-pmod"] == pytest.approx(21.30, abs=6e-3)  # p-MoD, Table 5
