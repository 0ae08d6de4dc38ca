"""Intervals, tests and verdicts: known values, coverage, and what must not depend on order."""

from __future__ import annotations

import numpy as np
import pytest

from harness.statistics import stats


def test_wilson_interval_of_independent_binary_scores() -> None:
    interval = stats.mean_interval([1.0] * 8 + [0.0] * 2)
    assert interval is not None and interval.value == 0.8
    assert (interval.low, interval.high) == pytest.approx((0.49016, 0.94331), abs=1e-5)


def test_all_right_keeps_a_width_and_contains_the_mean() -> None:
    interval = stats.mean_interval([1.0] * 20)
    assert interval is not None and interval.high == 1.0
    assert interval.low is not None and 0.8 < interval.low < 0.9


def test_fractions_use_the_bootstrap_and_cover_the_truth() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(200):
        scores = rng.choice([0.0, 0.3, 0.6, 1.0], size=80, p=[0.3, 0.1, 0.1, 0.5])
        interval = stats.mean_interval(scores.tolist(), seed=trial)
        assert interval is not None and interval.low is not None and interval.high is not None
        hits += interval.low <= 0.59 <= interval.high
    assert 180 <= hits <= 199  # 95 % of 200, four standard deviations


def test_shared_images_widen_the_interval() -> None:
    # Every image answers all its 10 questions alike, so only 20 things were really observed.
    scores = [float(image % 2) for image in range(20) for _ in range(10)]
    images = [f"image-{image}" for image in range(20) for _ in range(10)]
    alone = stats.mean_interval(scores)
    shared = stats.mean_interval(scores, images)
    assert alone and shared and alone.low and shared.low
    assert (shared.value - shared.low) > 2.5 * (alone.value - alone.low)


def test_samples_without_an_image_id_stand_alone() -> None:
    groups = stats.cluster_ids(["a", None, "a", "", None], 5)
    assert groups.tolist() == [0, 1, 0, 2, 3]


def test_no_bounds_from_one_image_and_nothing_from_no_sample() -> None:
    interval = stats.mean_interval([1.0, 0.0], ["same", "same"])
    assert interval == stats.Interval(0.5, None, None)
    assert stats.mean_interval([]) is None
    assert stats.paired([], []) is None


def test_amounts_are_never_taken_for_hits() -> None:
    interval = stats.quantity_interval([0.0] * 30)
    assert interval == stats.Interval(0.0, 0.0, 0.0)


def test_exact_mcnemar() -> None:
    ours = [1.0] * 2 + [0.0] * 10 + [1.0] * 20
    dense = [0.0] * 2 + [1.0] * 10 + [1.0] * 20
    result = stats.paired(ours, dense)
    assert result is not None
    assert result.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert result.delta.value == pytest.approx(-0.25)
    assert result.delta.low is not None and result.delta.high is not None
    assert result.delta.low < -0.25 < result.delta.high < 0


def test_p_value_agrees_with_mcnemar_of_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    rng = np.random.default_rng(3)
    ours, dense = rng.integers(0, 2, 60).astype(float), rng.integers(0, 2, 60).astype(float)
    table = [[int(((ours == a) & (dense == b)).sum()) for b in (1, 0)] for a in (1, 0)]
    result = stats.paired(ours.tolist(), dense.tolist())
    assert result is not None
    assert result.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_sign_flip_agrees_with_mcnemar_on_the_same_data() -> None:
    ours = [1.0] * 3 + [0.0] * 11 + [1.0] * 40
    dense = [0.0] * 3 + [1.0] * 11 + [1.0] * 40
    exact = stats.paired(ours, dense)
    halved = stats.paired([s / 2 for s in ours], [s / 2 for s in dense])  # no 0/1 scores any more
    assert exact is not None and halved is not None
    assert halved.p_value == pytest.approx(exact.p_value, abs=0.01)


def test_questions_of_one_image_are_not_independent_evidence() -> None:
    ours = [0.0] * 40 + [1.0] * 60
    dense = [1.0] * 40 + [1.0] * 60
    images = [f"image-{i // 10}" for i in range(100)]  # four images lost, all ten questions each
    alone, shared = stats.paired(ours, dense), stats.paired(ours, dense, images)
    assert alone is not None and shared is not None
    assert alone.p_value < 1e-6
    assert shared.p_value == pytest.approx(2 / 2**4, abs=0.02)


def test_identical_rows_differ_by_nothing() -> None:
    result = stats.paired([0.3, 1.0, 0.0], [0.3, 1.0, 0.0])
    assert result is not None and result.p_value == 1.0
    assert result.delta.value == 0.0


@pytest.mark.parametrize(("n", "word"), [(4, "inconclusive"), (100, "inconclusive"), (1000, "=")])
def test_never_having_differed_proves_little_on_few_samples(n: int, word: str) -> None:
    """No lost document among n still allows a true loss of about 3/n (rule of three)."""
    result = stats.paired([1.0] * n, [1.0] * n)
    assert result is not None and result.delta.low is not None
    assert result.delta.low == pytest.approx(-3 / n, rel=0.4)
    verdict = stats.verdict(result.delta, 1.0, margin=0.01)
    assert verdict == ("non-inferior" if word == "=" else word)


def test_false_alarm_rate_under_no_difference() -> None:
    rng = np.random.default_rng(11)
    alarms = 0
    for trial in range(200):
        ours, dense = rng.random(30).round(1), rng.random(30).round(1)
        result = stats.paired(ours.tolist(), dense.tolist(), seed=trial)
        alarms += result is not None and result.p_value < 0.05
    assert alarms <= 22  # 5 % of 200, four standard deviations


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="different length"):
        stats.paired([1.0], [1.0, 0.0])


def test_holm() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_holm_agrees_with_statsmodels(count: int) -> None:
    from statsmodels.stats.multitest import multipletests

    p_values = (np.random.default_rng(count).random(count).round(1) / count).tolist()  # with ties
    assert stats.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_wilson_agrees_with_statsmodels() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for hits, n in ((0, 7), (3, 7), (7, 7), (411, 500)):
        interval = stats.mean_interval([1.0] * hits + [0.0] * (n - hits))
        assert interval is not None
        expected = proportion_confint(hits, n, method="wilson")
        assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("delta", "p_adjusted", "word"),
    [
        (stats.Interval(0.02, 0.005, 0.04), 0.01, "better"),
        (stats.Interval(-0.02, -0.04, -0.005), 0.01, "worse"),
        (stats.Interval(-0.004, -0.007, -0.001), 0.01, "worse"),  # small, but not by chance
        (stats.Interval(-0.002, -0.009, 0.004), 0.5, "non-inferior"),
        (stats.Interval(-0.002, -0.011, 0.004), 0.5, "inconclusive"),
        (stats.Interval(0.0, None, None), 1.0, "inconclusive"),
    ],
)
def test_verdict(delta: stats.Interval, p_adjusted: float, word: str) -> None:
    assert stats.verdict(delta, p_adjusted, stats.margin_for([0.0, 1.0])) == word


def test_margin_is_one_point_on_the_scale_of_the_scores() -> None:
    assert stats.margin_for([0.0, 0.5, 1.0]) == 0.01
    assert stats.margin_for([0.0, 50.0]) == 1.0
    assert stats.margin_for([0.0, 800.0]) == 8.0


def test_same_samples_same_bytes() -> None:
    scores = [0.3, 0.6, 1.0, 0.0] * 9
    assert stats.mean_interval(scores, seed=1) == stats.mean_interval(scores, seed=1)
    assert stats.paired(scores, scores[::-1], seed=1) == stats.paired(scores, scores[::-1], seed=1)
