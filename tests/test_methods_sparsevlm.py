"""SparseVLM, both versions: the released tables, plain references, budgets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import parse
from methods.dpc import cluster
from tests import naive_choosers
from tests.naive import Naive
from tests.naive_choosers import clustered
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


def test_clusters_against_a_plain_reference_in_a_ragged_batch() -> None:
    draw = np.random.default_rng(1)
    x, jitter = draw.normal(size=(3, 12, 5)), draw.random(size=(3, 12)) * 1e-6
    sizes = [(12, 4), (7, 2), (3, 1)]
    real = torch.arange(12) < torch.tensor([[m] for m, _ in sizes])
    limits = torch.tensor([[c] for _, c in sizes])
    centres, owner = cluster(torch.tensor(x), real, limits, 4, torch.tensor(jitter))
    for i, (m, c) in enumerate(sizes):
        expected = clustered(x[i, :m], c, jitter[i, :m])
        assert (centres[i, :c].tolist(), owner[i, :m].tolist()) == expected


@pytest.mark.parametrize("spec", ["sparsevlm:cluster=2", "sparsevlm:version=2"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_sparsevlm_against_a_plain_pass(spec: str, attn: str) -> None:
    model = exact_norms(tiny_llava(layers=8, side=6, dtype=torch.float64, attn=attn))
    inputs = batch(model, [(3, [36], 6)])
    logits, (record,) = run(model, inputs, spec)
    method = parse(spec)
    naive = Naive(model, naive_sample(model, inputs, torch.zeros(0, dtype=torch.long), "doc 0"))
    expected = naive_choosers.run(naive, method)
    assert len(naive.x) - 9 == sum(method.kept(36, 8)[-1]) == len(kept(record))
    torch.testing.assert_close(logits[0, -1:], expected, rtol=1e-6, atol=1e-6)
