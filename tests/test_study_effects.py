"""Intervals over seeds and documents, and the verdicts on claims."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from harness.statistics.sequential import Looks
from harness.study.claims import judge
from harness.study.effects import Effect, effect, judge_higher, judge_not_lower
from harness.study.spec import REFERENCE, Arm, Claim, Study
from harness.study.tables import Result


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


def test_at_a_look_seeds_that_tie_by_chance_count_no_more_than_others():
    scores = np.random.default_rng(0).normal(60, 20, 40)
    near = np.tile(scores, (3, 1))
    near[2, 0] += 1e-3
    for rows in (np.tile(scores, (3, 1)), near):
        assert effect([rows], [[""] * 40], looked=True).freedom == 2


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
    ("low", "high", "p", "p_margin", "expected"),
    [
        (1.0, 5.0, 0.01, 0.5, "reproduced"),
        (1.0, 5.0, 0.2, 0.5, "inconclusive"),  # significant alone, not after Holm
        (-5.0, -1.0, 0.01, 0.01, "not reproduced"),
        (-5.0, -1.0, 0.1, 0.1, "inconclusive"),  # below zero alone, not after Holm
        (-2.0, 0.5, 0.5, 0.01, "not reproduced"),  # an advantage of a point is excluded
        (-2.0, 0.5, 0.5, 0.1, "inconclusive"),  # the same, not after Holm
        (-2.0, 3.0, 0.5, 0.5, "inconclusive"),
    ],
)
def test_verdicts_on_higher(low, high, p, p_margin, expected):
    found = Effect((low + high) / 2, low, high, p)
    verdict, reason = judge_higher(found, p, p_margin, margin=1.0)
    assert verdict == expected
    assert ("both zero" in reason) == (verdict == "inconclusive" and low < 0 and high > 1)
    alone = low > 0 or high < 1
    assert ("not after Holm" in reason) == (verdict == "inconclusive" and alone)


@pytest.mark.parametrize(
    ("low", "high", "p", "p_margin", "expected"),
    [
        (-0.5, 2.0, 0.5, 0.01, "reproduced"),
        (-0.5, 2.0, 0.5, 0.1, "inconclusive"),
        (-5.0, -2.0, 0.01, 0.01, "not reproduced"),
        (-5.0, -0.1, 0.01, 0.5, "not reproduced"),
        (-5.0, -0.1, 0.1, 0.5, "inconclusive"),
        (-3.0, 2.0, 0.5, 0.5, "inconclusive"),
    ],
)
def test_verdicts_on_not_lower(low, high, p, p_margin, expected):
    found = Effect((low + high) / 2, low, high, p)
    verdict, reason = judge_not_lower(found, p, p_margin, margin=1.0)
    assert verdict == expected
    alone = low > -1 or high < 0
    assert ("not after Holm" in reason) == (verdict == "inconclusive" and alone)


def test_p_values_of_a_bound_turn_the_interval_round():
    scores = np.random.default_rng(4).normal(0, 3, (3, 40))
    found = effect([scores], [[""] * 40])
    assert found.p_of(0.0) == pytest.approx(found.p_value)
    assert [found.p_of(end) for end in (found.low, found.high)] == pytest.approx([0.05, 0.05])
    documents = np.tile(np.random.default_rng(5).normal(1, 3, 40), (2, 1))
    expected = scipy_stats.ttest_1samp(documents[0], -1.0).pvalue
    assert effect([documents], [[""] * 40]).p_of(-1.0) == pytest.approx(expected)


def claims_of(kind: str, shifts: list[float], margin: float = 1.0) -> list[dict]:
    """Rows of claims "arm i against dense", arm i being dense plus its shift, three seeds alike."""
    rng = np.random.default_rng(6)
    noise = rng.normal(0, 3, (len(shifts), 60))
    noise -= noise.mean(axis=1, keepdims=True)
    arms = [Arm(f"arm {i}", "mod") for i in range(len(shifts))]
    claims = [Claim(f"claim {i}", kind, f"arm {i}", REFERENCE) for i in range(len(shifts))]
    study = Study("s", "S", "p", "t", "r", tuple(arms), tuple(claims), margin=margin)
    rows = {REFERENCE: np.full(60, 50.0)}
    rows |= {a.name: 50.0 + s + n for a, s, n in zip(arms, shifts, noise, strict=True)}
    found = {}
    for arm in study.everyone:
        scores = [{"score": x, "image_id": str(i)} for i, x in enumerate(rows[arm.name])]
        found[arm.name] = Result(arm, {seed: {"scores": {"gqa": scores}} for seed in study.seeds})
    return judge(study, found, ["gqa"]).rows


@pytest.mark.parametrize(
    ("kind", "shift", "alone"),
    [("higher", 0.95, "reproduced"), ("higher", 0.05, "not reproduced"),
     ("not lower", -0.05, "reproduced"), ("not lower", -0.95, "not reproduced")],
)  # fmt: skip
def test_every_verdict_is_corrected_for_the_number_of_claims(kind, shift, alone):
    """p is about 0.02 for one claim; among six like it, Holm leaves none."""
    (one,) = claims_of(kind, [shift])
    assert one["verdict"] == alone
    six = claims_of(kind, [shift] * 6)
    for name in ("p_value", "p_margin"):
        adjusted = multipletests([row[name] for row in six], method="holm")[1]
        key = "p_adjusted" if name == "p_value" else "p_margin_adjusted"
        assert [row[key] for row in six] == pytest.approx(adjusted.tolist())
    assert {row["verdict"] for row in six} == {"inconclusive"}
    assert all("not after Holm" in row["reason"] for row in six)


# --- looks --------------------------------------------------------------------------------------
LOOKS = (4, 6, 8)


def looked_at(differences: list[np.ndarray]) -> list[dict]:
    """Rows of claims "arm i beats dense" by differences [8 seeds, documents], looks at 4, 6, 8."""
    arms = [Arm(f"arm {i}", "mod") for i in range(len(differences))]
    claims = [Claim(f"claim {i}", "higher", f"arm {i}", REFERENCE) for i in range(len(arms))]
    seeds = tuple(range(1, 9))
    study = Study("s", "S", "p", "t", "r", tuple(arms), tuple(claims), seeds=seeds, looks=LOOKS)
    scores = [np.full_like(differences[0], 50.0), *(50.0 + d for d in differences)]
    found = {}
    for arm, rows in zip(study.everyone, scores, strict=True):
        exams = {
            seed: {"scores": {"gqa": [{"score": x, "image_id": str(i)} for i, x in enumerate(row)]}}
            for seed, row in zip(seeds, rows, strict=True)
        }
        found[arm.name] = Result(arm, exams)
    return judge(study, found, ["gqa"]).rows


def test_a_decided_claim_keeps_its_verdict_whatever_comes():
    rng = np.random.default_rng(7)
    clear = rng.normal(20, 1, (8, 20))
    clear[4:] = -60.0  # the other claim's arm goes on, and this one's with it
    vague = rng.normal(0, 30, (8, 1)) + rng.normal(0, 1, (8, 20))
    settled, still_open = looked_at([clear, vague])
    assert (settled["verdict"], settled["look"], settled["seeds"]) == ("reproduced", 1, 4)
    assert settled["difference"] == pytest.approx(clear[:4].mean())
    level = Looks(LOOKS).levels[0]
    found = effect([clear[:4]], [[str(i) for i in range(20)]], level, looked=True)
    assert (settled["ci_low"], settled["ci_high"]) == pytest.approx((found.low, found.high))
    assert (still_open["verdict"], still_open["look"]) == ("inconclusive", 3)


def test_several_claims_and_looks_together_err_in_no_more_than_five_percent():
    """250 made-up studies of three arms that equal dense: how often any differs after Holm."""
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(250):
        arms = [rng.normal(0, 3, (8, 1)) + rng.normal(0, 5, (8, 12)) for _ in range(3)]
        rows = looked_at(arms)
        wrong += any(row["p_adjusted"] < 0.05 for row in rows)
    assert wrong / 250 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 250)
