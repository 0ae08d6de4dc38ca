"""Planner, planned method, layer probe, and rank correlations."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import methods
from harness.engine import routed
from harness.layers.correlation import as_table, correlate, spearman
from harness.layers.plans import allocate, dense_but, papers, prd, top_dense
from methods.base import MethodError, ModelInfo
from methods.plan import Planned
from methods.pmod import PMoD
from methods.probe import SkipLayer
from tests.tiny import batch, tiny_llava

ROUNDING = 5e-5
SCORES = st.lists(st.floats(-50, 50), min_size=2, max_size=40)


# --- planner ------------------------------------------------------------------------------------
@given(SCORES, st.floats(0.01, 1.0))
def test_a_plan_meets_its_budget_and_follows_the_scores(scores: list[float], budget: float) -> None:
    shares = allocate(scores, budget)
    assert sum(shares) / len(shares) == pytest.approx(budget, abs=ROUNDING)
    assert all(0 <= share <= 1 for share in shares)
    ordered = [shares[i] for i in np.argsort(scores, kind="stable")]
    assert ordered == sorted(ordered)


@given(SCORES, st.floats(0.05, 0.9), st.floats(0.01, 0.1))
def test_a_higher_budget_takes_from_no_layer(
    scores: list[float], budget: float, more: float
) -> None:
    pairs = zip(allocate(scores, budget), allocate(scores, budget + more), strict=True)
    assert all(high >= low - ROUNDING for low, high in pairs)


@given(st.integers(3, 48), st.floats(0.01, 1.0))
def test_the_cosine_schedule_meets_any_budget(depth: int, budget: float) -> None:
    shares = prd(depth, budget)
    assert sum(shares) / depth == pytest.approx(budget, abs=2 * ROUNDING)
    assert all(a >= b - ROUNDING for a, b in pairwise(shares))


@pytest.mark.parametrize("depth", [12, 32, 40])
def test_at_its_own_budget_it_is_the_papers_schedule(depth: int) -> None:
    ratios = PMoD().ratios(depth)
    assert prd(depth, sum(ratios) / depth) == pytest.approx(ratios, abs=ROUNDING)


def test_every_paper_schedule_costs_the_same_and_parses() -> None:
    for depth in (12, 32):
        found = papers(depth, 0.5375)
        assert [p.name for p in found] == ["prd", "constant", "gamma-default", "fastv"]
        for plan in found:
            assert plan.kv == pytest.approx(0.5375, abs=2 * ROUNDING)
            assert methods.parse(plan.spec).spec
    assert [p.name for p in papers(12, 0.15)] == ["prd"]  # two dense layers cost more


def test_dense_layers_that_cost_more_than_the_budget_make_no_plan() -> None:
    assert dense_but({0, 1}, 4, 0.4) is None
    top = top_dense([1, 9, 9, 2, 9, 9], 0.8)
    assert top is not None
    assert top.retention == (0.4, 1.0, 1.0, 0.4, 1.0, 1.0)


# --- the planned method -------------------------------------------------------------------------
@pytest.mark.parametrize("rank", ["attention", "even", "random"])
def test_the_cache_holds_the_planned_shares(rank: str) -> None:
    model = tiny_llava(layers=4)
    inputs = batch(model, [(3, [16], 5), (2, [16, 16], 9)])
    method = methods.parse(f"plan:steps=1.0+0.5+0.25+0.0:rank={rank}")
    with routed(model, method) as run:
        run.set_samples(["a", "b"])
        model.generate(**inputs, max_new_tokens=3, do_sample=False)
        records = run.records()
    for record in records:
        image = record.processed_by_kind()[:, 2]
        n = record.n_image
        assert image.tolist() == [n, n // 2, n // 4, 0]


def test_a_plan_longer_than_the_model_is_refused() -> None:
    with pytest.raises(MethodError, match="3 steps for a model of 2 layers"):
        Planned(steps=(1.0, 0.5, 0.2)).check(ModelInfo(2, 8, 2, 2, 4))
    with pytest.raises(MethodError, match=r"0\.\.1"):
        methods.parse("plan:steps=1.0+1.2")


# --- the probe ----------------------------------------------------------------------------------
@pytest.mark.parametrize("at", [0, 1, 3])
def test_skipping_a_layer_is_removing_it(at: int) -> None:
    model = tiny_llava(layers=4)
    inputs = batch(model, [(3, [16], 5), (2, [16], 9)])
    shorter = copy.deepcopy(model)
    text = shorter.model.language_model
    del text.layers[at]
    for i, layer in enumerate(text.layers):
        layer.self_attn.layer_idx = i
    text.config.num_hidden_layers = 3
    want = shorter.generate(**inputs, max_new_tokens=5, do_sample=False)
    with routed(model, SkipLayer(at=at)) as run:
        assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), want)
        assert all(r.processed_by_kind()[at].sum() == 0 for r in run.records())
        mine = model(**inputs, use_cache=False).logits
    theirs = shorter(**inputs, use_cache=False).logits
    real = inputs["attention_mask"].bool()
    assert torch.allclose(mine[real], theirs[real], atol=1e-5)


# --- correlations -------------------------------------------------------------------------------
def test_rho_and_its_interval_over_layers_are_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    found = spearman(x, y)
    want = stats.spearmanr(x, y)
    assert found.rho == pytest.approx(want.statistic)
    assert found.p_value == pytest.approx(want.pvalue)
    z = np.arctanh(want.statistic)
    bounds = np.tanh([z - 1.959964 / 3, z + 1.959964 / 3])  # 1 / sqrt(12 - 3)
    assert [found.ci_low, found.ci_high] == pytest.approx(bounds, abs=1e-6)


def test_a_constant_measure_has_no_correlation() -> None:
    assert spearman(np.ones(5), np.arange(5.0)).rho is None


@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_over_documents_is_scipys_bootstrap(paired: bool) -> None:
    rng = np.random.default_rng(1)
    levels = np.arange(6.0)
    x = as_table((levels + rng.normal(size=(30, 6)) * 6).tolist(), range(30))
    y = as_table((levels + rng.normal(size=(30, 6)) * 6).tolist(), range(30))
    found = correlate(x, y, paired)

    def statistic(i: Any, j: Any = None) -> float:
        j = i if j is None else j
        return stats.spearmanr(x.values[i].mean(0), y.values[j].mean(0)).statistic

    data = (np.arange(30),) if paired else (np.arange(30), np.arange(30))
    interval = stats.bootstrap(
        data, statistic, n_resamples=600, vectorized=False, method="percentile", rng=rng
    ).confidence_interval
    assert found.documents_low == pytest.approx(interval.low, abs=0.15)
    assert found.documents_high == pytest.approx(interval.high, abs=0.15)


def test_documents_of_one_image_are_drawn_together_and_held_apart() -> None:
    table = as_table([[1.0, 2, 3, 4]] * 3 + [[4.0, 3, 2, 1]] * 3, ["a", "a", "b", "b", "c", "d"])
    assert table.rest(3).images == ("c", "d")  # the other document of b went with the first three
    one = as_table([[1.0, 2, 3, 4]] * 2, ["a", "a"])
    assert correlate(one, one, True).documents_low is None
