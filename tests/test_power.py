"""Detectable differences and the smallest n: enumeration, simulation, and the real verdicts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial

from harness.jobs.grid import too_few
from harness.statistics import stats
from harness.statistics.power import detectable, mcnemar_power, smallest_n
from tests.fakes import DOCUMENTS, FakeRun, run, settings

TRIALS = 600


@cache
def rejected(wins: int, losses: int) -> bool:
    return wins + losses > 0 and binomtest(wins, wins + losses).pvalue < 0.05


def enumerated(n: int, share: float, effect: float) -> float:
    """Power over every table of wins, losses and ties."""
    chances = [(share + effect) / 2, (share - effect) / 2, 1 - share]
    return sum(
        float(multinomial.pmf([w, b, n - w - b], n, chances))
        for w in range(n + 1)
        for b in range(n + 1 - w)
        if rejected(w, b)
    )


@pytest.mark.parametrize(
    ("n", "share", "effect"), [(12, 0.5, 0.4), (30, 0.3, 0.25), (45, 0.2, 0.2), (45, 0.4, 0.0)]
)
def test_power_is_that_of_every_possible_table(n: int, share: float, effect: float) -> None:
    assert mcnemar_power(n, share, effect) == pytest.approx(enumerated(n, share, effect), abs=1e-9)


@pytest.mark.parametrize(("n", "lost", "won"), [(40, 9, 6), (40, 20, 20), (40, 0, 0), (40, 1, 0)])
def test_detectable_is_the_least_effect_with_eighty_percent(n: int, lost: int, won: int) -> None:
    same = n - lost - won
    effect = detectable(
        [0.0] * lost + [1.0] * (won + same), [1.0] * lost + [0.0] * won + [1.0] * same
    )
    assert effect is not None
    share = (lost + won) / n
    assert enumerated(n, max(share, effect), effect) == pytest.approx(0.8, abs=1e-6)
    less = 0.97 * effect
    assert enumerated(n, max(share, less), less) < 0.8


def detected(differences: np.ndarray, images: list[int] | None = None) -> float:
    """How often `paired` finds the rows' difference [trials, n]; dense is right on every other."""
    found = 0
    for trial, row in enumerate(differences):
        ours = np.where(row == 0, np.arange(row.size) % 2, row > 0).astype(float)
        result = stats.paired(ours.tolist(), (ours - row).tolist(), images, trial)
        assert result is not None
        found += result.p_value < 0.05
    return found / len(differences)


@pytest.mark.parametrize(("n", "moved"), [(200, 30), pytest.param(300, 0, marks=pytest.mark.slow)])
def test_the_promised_power_is_there_with_an_image_a_document(n: int, moved: int) -> None:
    dense = [1.0, 0.0] * (n // 2)
    ours = [1.0 - x if i < moved else x for i, x in enumerate(dense)]
    effect = detectable(ours, dense)
    assert effect is not None
    share = max(moved / n, effect)
    rng = np.random.default_rng(5)
    chances = [(share - effect) / 2, 1 - share, (share + effect) / 2]
    assert detected(rng.choice([-1.0, 0.0, 1.0], p=chances, size=(TRIALS, n))) >= 0.78


@pytest.mark.parametrize(
    ("size", "moved"),
    [
        (4, 0),
        pytest.param(4, 40, marks=pytest.mark.slow),
        pytest.param(10, 0, marks=pytest.mark.slow),
    ],
)
def test_the_promised_power_is_there_when_images_change_whole(size: int, moved: int) -> None:
    """Of 100 images, all answers of one change together; at the floor none was seen to."""
    images = [i for i in range(100) for _ in range(size)]
    dense = [float(i % 2) for i in images]
    ours = [1.0 - x if i < moved else x for i, x in zip(images, dense, strict=True)]
    effect = detectable(ours, dense, images)
    assert effect is not None
    share = max(moved / 100, effect)
    rng = np.random.default_rng(6)
    chances = [(share - effect) / 2, 1 - share, (share + effect) / 2]
    signs = rng.choice([-1.0, 0.0, 1.0], p=chances, size=(TRIALS, 100))
    assert detected(np.repeat(signs, size, axis=1), images) >= 0.78


def test_the_promised_power_is_there_when_images_change_in_part() -> None:
    """100 images of 4 questions: one, two or all four of them change, to one side."""
    sizes = np.array([1, 2, 4] * 10)  # answers changed in 30 of the images
    images = [i for i in range(100) for _ in range(4)]
    difference = np.zeros((100, 4))
    for image, (size, sign) in enumerate(zip(sizes, [1.0, -1.0] * 15, strict=True)):
        difference[image, :size] = sign
    ours = np.where(difference == 0, 1.0, difference > 0).ravel()
    effect = detectable(ours.tolist(), (ours - difference.ravel()).tolist(), images)
    assert effect is not None
    rng = np.random.default_rng(7)
    net = effect * 400 / (100 * 0.3 * sizes.mean())  # of the images that change, won minus lost
    rows = np.zeros((TRIALS, 100, 4))
    for row in rows:
        for image in (rng.random(100) < 0.3).nonzero()[0]:
            row[image, : rng.choice(sizes)] = 1.0 if rng.random() < (1 + net) / 2 else -1.0
    assert detected(rows.reshape(TRIALS, 400), images) >= 0.78


def test_detectable_without_any_difference() -> None:
    effect = detectable([1.0] * 200, [1.0] * 200)
    # At least six discordant documents, all lost: the fewest that the exact test can reject.
    assert effect is not None and 1 - binom_cdf(5, 200, effect) == pytest.approx(0.8, abs=1e-6)
    shared = detectable([1.0] * 200, [1.0] * 200, [i // 4 for i in range(200)])
    assert shared is not None and 1 - binom_cdf(5, 50, shared) == pytest.approx(0.8, abs=1e-6)
    assert detectable([0.4] * 50, [0.4] * 50) is None  # graded scores: nothing to go by
    assert detectable([1.0] * 5, [1.0] * 5) is None  # no effect is large enough


def binom_cdf(k: int, n: int, p: float) -> float:
    from scipy.special import bdtr

    return float(bdtr(k, n, p))


def test_detectable_of_copied_answers_and_other_scales() -> None:
    rng = np.random.default_rng(0)
    ours, dense = rng.integers(0, 2, 400).astype(float), rng.integers(0, 2, 400).astype(float)
    alone = detectable(ours.tolist(), dense.tolist())
    hundred = detectable((100 * ours).tolist(), (100 * dense).tolist())
    assert alone is not None and hundred == pytest.approx(100 * alone)
    images = [str(i // 4) for i in range(1600)]
    copies = np.repeat(ours, 4).tolist(), np.repeat(dense, 4).tolist()
    together = detectable(*copies, images)
    assert together == pytest.approx(alone)  # four copies of one answer are one answer
    twice = detectable(*copies)
    assert twice is not None and together is not None and together > 1.9 * twice


# --- the smallest n -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("margin", [0.005, 0.01, 0.05, 0.3])
def test_equal_rows_are_non_inferior_from_the_smallest_n_on(margin: float, size: int) -> None:
    images = [i // size for i in range(30 * size)]
    needed = smallest_n(margin, images)
    assert needed is not None and needed % size == 0
    for n, word in ((needed - size, "inconclusive"), (needed, "non-inferior")):
        for seed in range(5):
            same = stats.paired([1.0] * n, [1.0] * n, [i // size for i in range(n)], seed)
            assert same is not None
            assert stats.verdict(same.delta, same.p_value, margin) == word


def test_no_n_is_enough_for_a_margin_of_nothing() -> None:
    assert smallest_n(0.0) is None


def test_unseen_images_may_all_be_lost() -> None:
    """A method that loses all 10 answers of 1 % of the images loses a point: non-inferior within
    it is wrong. In 37 % of the samples of 100 images none is lost."""
    rng = np.random.default_rng(8)
    images = [i // 10 for i in range(1000)]
    wrong = 0
    for seed in range(300):
        ours = np.repeat(rng.random(100) >= 0.01, 10).astype(float)
        found = stats.paired(ours.tolist(), [1.0] * 1000, images, seed)
        assert found is not None
        wrong += stats.verdict(found.delta, found.p_value, 0.01) == "non-inferior"
    assert wrong / 300 <= 0.05


# --- before and after a run -----------------------------------------------------------------------


def test_a_run_says_before_it_starts_that_n_is_too_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run", quiet=False) == 0
    lines = capsys.readouterr().err.splitlines()
    said = [i for i, line in enumerate(lines) if line.startswith("non-inferior within 1 point")]
    assert len(said) == 1
    assert lines[said[0]].endswith(
        "takes at least 299 documents, even where nothing changes: "
        f"gqa has {DOCUMENTS}, pope has {DOCUMENTS}"
    )
    assert said[0] < next(i for i, line in enumerate(lines) if line.startswith("[1/"))


def test_the_line_goes_by_limit_margin_and_what_is_known(tmp_path: Path) -> None:
    def plan(limit: int | None, known: int | None, methods: tuple[str, ...] = ("fastv",)) -> str:
        job = FakeRun()
        bench = job.bench("gqa", job.model)
        bench.documents = known
        job.bench = lambda *args: bench  # type: ignore[method-assign]
        job.settings = settings(tmp_path, bench=("gqa",), limit=limit, methods=methods)
        job.resolve(tmp_path)
        return too_few(job.grid, 1.0)

    assert plan(None, 299) == plan(None, None) == plan(400, None) == ""
    assert plan(298, None).endswith("gqa has 298")
    assert plan(400, 200).endswith("gqa has 200")
    assert plan(10, 200, ("dense",)) == ""
