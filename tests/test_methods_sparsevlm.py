"""SparseVLM, both versions: the released tables, plain references, budgets."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from methods import parse
from methods.dpc import cluster
from tests.naive import Naive
from tests.routing_tools import exact_norms, naive_sample
from tests.similarity_tools import kept, run
from tests.tiny import batch, tiny_llava


# --- SparseVLM
@pytest.mark.parametrize(
    ("version", "budget", "counts", "mean"),
    [
        ("1.5", 192, [309, 204, 113], 206.5),
        ("1.5", 128, [312, 117, 39], 145.4),
        ("1.5", 96, [249, 55, 27], 114.1),
        ("1.5", 64, [82, 32, 18], 82.3),
        ("2", 192, [300, 200, 118], 206.8),
        ("2", 128, [238, 108, 60], 144.1),
        ("2", 96, [246, 54, 28], 113.9),
        ("2", 64, [66, 34, 20], 81.8),
    ],
)
def test_sparsevlm_counts_are_those_of_the_released_tables(
    version: str, budget: int, counts: list[int], mean: float
) -> None:
    method = parse(f"sparsevlm:version={version}:budget={budget}")
    found = [kept + merged for kept, merged in method.kept(576, 32)]
    assert found == counts
    layers = [576] * 3 + [found[0]] * 4 + [found[1]] * 9 + [found[2]] * 16
    assert abs(sum(layers) / 32 - mean) < 0.06
    assert [layer for layer, _ in method.stages(32)] == [2, 6, 15]


def test_sparsevlm_single_stages_of_the_other_port() -> None:
    method = parse("sparsevlm:layers=2:keep=180")
    for keep, merged in ((180, 12), (114, 14), (48, 16)):
        assert method.folded(576 - keep)[1] == merged


@pytest.mark.parametrize("version", ["1.5", "2"])
@pytest.mark.parametrize("amount", ["tokens=192", "ratio=0.25", "kv=0.7", "ratio=1.0"])
def test_sparsevlm_meets_a_budget_as_a_mean_over_layers(version: str, amount: str) -> None:
    method = parse(f"sparsevlm:version={version}:{amount}")
    for n, depth in ((576, 32), (144, 12), (2340, 32)):
        ends = [*(layer + 1 for layer, _ in method.stages(depth)), depth]
        total = n * ends[0]
        for i, (left, merged) in enumerate(method.kept(n, depth)):
            total += (left + merged) * (ends[i + 1] - ends[i])
        if method.target(n) > n * ends[0] / depth:  # else the first layers hold too much alone
            assert abs(total / depth - method.target(n)) < 0.6


def test_sparsevlm_scales_its_layers_to_the_depth() -> None:
    method = parse("sparsevlm")
    assert [layer for layer, _ in method.stages(40)] == [2, 8, 19]
    assert method.stages(12) == [(0, 300), (2, 200), (6, 110)]
    assert method.stages(5) == [(0, 200), (2, 110)]


def naive_cluster(x: np.ndarray, count: int, jitter: np.ndarray) -> tuple[list[int], list[int]]:
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)) / np.sqrt(x.shape[1])
    near = np.sort(distance, axis=1)[:, :count]
    density = np.exp(-(near**2).mean(axis=1)) + jitter
    worth = []
    for i in range(len(x)):
        denser = [distance[i, j] for j in range(len(x)) if density[j] > density[i]]
        worth.append(density[i] * (min(denser) if denser else distance.max()))
    centres = sorted(range(len(x)), key=lambda i: -worth[i])[:count]
    owner = [int(np.argmin([distance[i, c] for c in centres])) for i in range(len(x))]
    return centres, owner


def test_clusters_against_a_plain_reference_in_a_ragged_batch() -> None:
    draw = np.random.default_rng(1)
    x, jitter = draw.normal(size=(3, 12, 5)), draw.random(size=(3, 12)) * 1e-6
    sizes = [(12, 4), (7, 2), (3, 1)]
    real = torch.arange(12) < torch.tensor([[m] for m, _ in sizes])
    limits = torch.tensor([[c] for _, c in sizes])
    centres, owner = cluster(torch.tensor(x), real, limits, 4, torch.tensor(jitter))
    for i, (m, c) in enumerate(sizes):
        expected = naive_cluster(x[i, :m], c, jitter[i, :m])
        assert (centres[i, :c].tolist(), owner[i, :m].tolist()) == expected


@pytest.mark.parametrize("spec", ["sparsevlm:cluster=2", "sparsevlm:version=2"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_sparsevlm_against_a_plain_pass(spec: str, attn: str) -> None:
    """Tokens really leave and move here: the whole sequence is rebuilt at every stage."""
    model = exact_norms(tiny_llava(layers=8, side=6, dtype=torch.float64, attn=attn))
    inputs = batch(model, [(3, [36], 6)])
    logits, (record,) = run(model, inputs, spec)
    method = parse(spec)
    naive = Naive(model, naive_sample(model, inputs, torch.zeros(0, dtype=torch.long), "doc 0"))
    kinds = np.array([0] * 3 + [2] * 36 + [1] * 6)
    with torch.no_grad():
        x = naive.x.numpy()
        share = np.exp(x[3:39] @ x[39:].T)
        mean = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
        rows = np.zeros(45, dtype=bool)
        rows[39:] = mean > mean.mean()
        for layer in range(8):
            places = [place for place, _ in method.stages(8)]
            if layer - 1 in places:
                count, clusters = method.kept(36, 8)[places.index(layer - 1)]
                image = np.nonzero(kinds == 2)[0]
                order = sorted(image, key=lambda i: -score[i])
                stay = sorted({*order[:count], *np.nonzero(kinds != 2)[0]})
                last, parts, states = max(image), [], naive.x
                if clusters:
                    pruned = order[count:]
                    best = pruned[: int(0.3 * len(pruned)) + 1]
                    dice = naive_noise(len(best))
                    points = states[best].numpy()
                    _, owner = naive_cluster(points, clusters, dice)
                    for c in range(clusters):
                        mine = [i for i, o in zip(best, owner, strict=True) if o == c]
                        parts.append(states[mine].mean(dim=0, keepdim=True))
                front = [i for i in stay if i <= last]
                back = [i for i in stay if i > last]
                naive.x = torch.cat([states[front], *parts, states[back]])
                kinds = np.concatenate([kinds[front], np.full(clusters, 2), kinds[back]])
                rows = np.concatenate([rows[front], np.zeros(clusters, dtype=bool), rows[back]])
                original = naive.position[front + back]
                naive.position = torch.arange(len(kinds)) if clusters else original
                naive.alive = torch.ones(len(kinds), dtype=torch.bool)
            if layer in places:
                maps = naive.probabilities(layer, naive.alive, naive.position)
                if method.version == "2":
                    ones = torch.ones(len(kinds), 1, naive.size, dtype=torch.float64)
                    turned = naive.turned(ones, naive.position)[:, 0]
                    bias = turned @ turned.T / naive.size**0.5
                    maps = maps / bias.clamp(min=0.01 * naive.size**0.5)
                heads = maps[:, rows][:, :, kinds == 2].sum(dim=(1, 2)).argsort(descending=True)
                heads = heads[: round(14 * 4 / 32)] if method.version == "2" else heads
                score = maps[heads][:, rows].mean(dim=(0, 1)).numpy()
            naive.run_layer(layer)
        expected = model.lm_head(model.model.language_model.norm(naive.x[-1]))
    assert int((kinds == 2).sum()) == sum(method.kept(36, 8)[-1]) == len(kept(record))
    torch.testing.assert_close(logits[0, -1], expected, rtol=1e-6, atol=1e-6)


def naive_noise(count: int) -> np.ndarray:
    number = int.from_bytes(hashlib.sha256(b"0:doc 0").digest()[:7], "big")
    return 1e-6 * torch.rand(count, generator=torch.Generator().manual_seed(number)).numpy()
