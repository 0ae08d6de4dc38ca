"""Intervals over seeds and documents, and the verdicts on claims."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.study.effects import Effect, effect, judge_higher, judge_not_lower


def test_without_seed_noise_the_interval_is_the_t_interval_of_the_documents():
    scores = np.random.default_rng(0).normal(60, 20, 40)
    found = effect([np.tile(scores, (3, 1))], [[""] * 40])
    low, high = scipy_stats.t.interval(0.95, 39, scores.mean(), scipy_stats.sem(scores))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_without_document_noise_the_interval_is_the_t_interval_of_the_seeds():
    seeds = np.array([60.0, 62.0, 67.0])
    found = effect([np.tile(seeds[:, None], (1, 40))], [[""] * 40])
    low, high = scipy_stats.t.interval(0.95, 2, seeds.mean(), scipy_stats.sem(seeds))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_documents_of_one_image_count_as_one():
    scores = np.random.default_rng(1).normal(60, 20, 20)
    alone = effect([np.tile(scores, (2, 1))], [[str(i) for i in range(20)]])
    repeated = np.repeat(scores, 5)
    names = [str(i) for i in range(20) for _ in range(5)]
    together = effect([np.tile(repeated, (2, 1))], [names])
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), rel=1e-9)


def test_an_image_of_several_benches_is_one_cluster():
    """Twice the same bench is that bench; twice other images would halve the variance."""
    scores = np.tile(np.random.default_rng(2).normal(60, 20, 30), (2, 1))
    names = [str(i) for i in range(30)]
    once = effect([scores], [names])
    twice = effect([scores, scores], [names, names])
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), rel=1e-9)
    apart = effect([scores, scores], [names, [f"other {n}" for n in names]])
    assert apart.high - apart.low < 0.75 * (once.high - once.low)


@pytest.mark.parametrize(("seed_sd", "document_sd"), [(0.0, 30.0), (4.0, 30.0), (4.0, 5.0)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seed_sd, document_sd):
    """500 made-up studies of three seeds on two benches whose true mean is 50."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(500):
        seeds = rng.normal(0, seed_sd, (3, 1))
        scores = [50 + seeds + rng.normal(0, document_sd, 60) + rng.normal(0, 10, (3, 60))
                  for _ in range(2)]  # fmt: skip
        found = effect(scores, [[""] * 60] * 2)
        hits += found.low <= 50 <= found.high
    assert hits / 500 >= 0.93


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (1.0, 5.0, 0.01, "reproduced"),
        (1.0, 5.0, 0.2, "inconclusive"),  # significant alone, not after Holm
        (-5.0, -1.0, 0.01, "not reproduced"),
        (-2.0, 0.5, 0.5, "not reproduced"),  # an advantage of a point is excluded
        (-2.0, 3.0, 0.5, "inconclusive"),
    ],
)
def test_verdicts_on_higher(low, high, p, expected):
    found = Effect((low + high) / 2, low, high, p)
    verdict, reason = judge_higher(found, p, margin=1.0)
    assert verdict == expected
    assert ("both zero" in reason) == (verdict == "inconclusive" and low < 0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.5, 2.0, "reproduced"), (-5.0, -2.0, "not reproduced"), (-5.0, -0.1, "not reproduced"),
     (-3.0, 2.0, "inconclusive")],
)  # fmt: skip
def test_verdicts_on_not_lower(low, high, expected):
    assert judge_not_lower(Effect((low + high) / 2, low, high, 0.5), margin=1.0)[0] == expected
