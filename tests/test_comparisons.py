"""Every pair of rows: closed forms, equality with accuracy.csv, and what must not hang on what."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from harness.command.cli import main
from harness.common.errors import UsageError
from harness.readouts.averages import average_rows
from harness.readouts.comparisons import Comparisons
from harness.readouts.controls import Contender, positions_of
from harness.readouts.fronts import AVERAGE, Subject
from harness.readouts.matrix import Matrix
from harness.statistics import stats
from harness.store import columns
from harness.store.csvfile import read_rows
from harness.store.folder import read_run_json
from tests.fakes import DOCUMENTS, FakeRun, run

Scores = Mapping[str, Sequence[float]]
NUMBERS = ("n", "images", "delta", "ci_low", "ci_high", "margin", "p_value", "comparable")


def cell(
    label: str,
    scores: Sequence[float],
    bench: str = "gqa",
    kv: float | None = 0.5,
    better: bool = True,
    per_image: int = 1,
    first: int = 0,
    prefill: float = 1.0,
) -> Contender:
    """A finished cell; `first` is its first document, `per_image` documents share an image."""
    about = dict.fromkeys(columns.CELL, "") | {
        "cell_id": f"{label}/{bench}", "model": "m", "method": label.split()[0], "label": label,
        "bench": bench, "params": json.dumps({"label": label}),
    }  # fmt: skip
    docs = {str(first + i): float(score) for i, score in enumerate(scores)}
    images = {doc: f"i{int(doc) // per_image}" for doc in docs}
    costs = dict.fromkeys(docs, prefill)
    return Contender(Subject(about, "acc", docs, better, costs, images), kv, positions_of(about))


def matrix(cells: Sequence[Contender]) -> Matrix:
    found = Matrix(0)
    found.update(cells)
    return found


def compared(cells: Sequence[Contender], margin: float = 1.0) -> list[dict[str, Any]]:
    several = len({c.subject.about["bench"] for c in cells}) > 1
    return Comparisons(0, margin).rows(matrix(cells), several)


def pair(rows: Sequence[Mapping[str, Any]], a: str, b: str, bench: str = "gqa") -> Any:
    (found,) = [r for r in rows if (r["a"], r["b"], r["bench"]) == (a, b, bench)]
    return found


def right(hits: int, of: int) -> list[float]:
    return [1.0] * hits + [0.0] * (of - hits)


def test_a_case_counted_by_hand() -> None:
    """30 documents won and 10 lost: McNemar's exact test on 40, and the first row is the later."""
    dense = cell("dense", right(70, 100), kv=1.0)
    mine = cell("mine", right(60, 70) + right(30, 30))
    other = cell("fastv", right(70, 100), kv=0.51)
    rows = compared([mine, other, dense])
    assert [(r["a"], r["b"]) for r in rows] == [
        ("mine", "dense"), ("fastv", "dense"), ("fastv", "mine"),
    ]  # fmt: skip
    one = pair(rows, "fastv", "mine")
    assert (one["delta"], one["n"], one["images"]) == (-0.2, 100, 100)
    tail = sum(math.comb(40, k) for k in range(30, 41)) / 2**40
    assert one["p_value"] == pytest.approx(2 * tail)
    assert (one["comparable"], one["p_adjusted"], one["verdict"]) == (1, one["p_value"], "worse")
    assert one["ci_low"] < -0.2 < one["ci_high"] < 0
    same = pair(rows, "fastv", "dense")
    assert (same["delta"], same["p_value"], same["comparable"]) == (0.0, 1.0, 0)
    assert same["ci_low"] < 0 < same["ci_high"]
    assert "verdict" not in same and "p_adjusted" not in same


@pytest.mark.parametrize(
    ("a", "kv_a", "b", "kv_b", "yes"),
    [
        ("mine", 0.5, "fastv", 0.515, 1),
        ("mine", 0.5, "fastv", 0.516, 0),
        ("mine", None, "fastv", 0.5, 0),
        ("mine", 0.995, "dense", 1.0, 0),  # it drops tokens
        ("mine", 1.0, "dense", 1.0, 1),
        ("mine", 0.01, "blind", 0.0, 0),
        ("mine", 1.0, "fastv", 1.0, 1),
    ],
)
def test_what_is_comparable(a: str, kv_a: float, b: str, kv_b: float, yes: int) -> None:
    (row,) = compared([cell(b, right(9, 20), kv=kv_b), cell(a, right(8, 20), kv=kv_a)])
    assert (row["comparable"], "verdict" in row) == (yes, bool(yes))


def test_holm_runs_over_comparable_pairs_and_benches_and_apart_over_the_average() -> None:
    rng = np.random.default_rng(2)
    cells = [cell(label, rng.random(80) < level, bench, kv)  # type: ignore[arg-type]
             for bench in ("gqa", "pope")
             for label, level, kv in (
                 ("dense", 0.9, 1.0), ("a", 0.8, 0.5), ("b", 0.7, 0.5), ("c", 0.5, 0.5),
                 ("d", 0.6, 0.3))]  # fmt: skip
    rows = compared(cells)
    for family in (
        [r for r in rows if r["bench"] != AVERAGE],
        [r for r in rows if r["bench"] == AVERAGE],
    ):
        inside = [r for r in family if "p_adjusted" in r]
        assert {(r["a"], r["b"]) for r in inside} == {("b", "a"), ("c", "a"), ("c", "b")}
        expected = multipletests([r["p_value"] for r in inside], method="holm")[1]
        assert [r["p_adjusted"] for r in inside] == pytest.approx(expected.tolist())


def test_the_average_is_of_shares_of_the_scales() -> None:
    """90 against 60 points of 100, 0.5 against 0.4: (0.3 + 0.1) / 2. Less is better: left out."""
    cells = [
        *(cell(name, [score] * 20, "points") for name, score in (("b", 60.0), ("a", 90.0))),
        *(cell(name, right(hits, 10), "share") for name, hits in (("b", 4), ("a", 5))),
        *(cell(name, [score] * 10, "errors", better=False) for name, score in (("b", 3), ("a", 9))),
    ]
    rows = compared(cells)
    one = pair(rows, "a", "b", AVERAGE)
    assert one["delta"] == pytest.approx(0.2)
    assert (one["n"], one["images"], one["metric"], one["margin"]) == (
        30,
        30,
        "mean of 2 benches",
        0.01,
    )
    assert pair(rows, "a", "b", "points")["margin"] == 1.0
    assert pair(rows, "a", "b", "errors")["verdict"] == "worse"
    mine = next(r for r in average_rows(matrix(cells)) if r["label"] == "a")
    assert mine["average"] == pytest.approx((0.9 + 0.5) / 2)
    assert (mine["benches"], mine["of_benches"]) == (2, 2)


def test_the_average_of_equal_rows_differs_by_nothing() -> None:
    cells = [cell(name, right(hits, 30), bench) for bench, hits in (("gqa", 20), ("pope", 9))
             for name in ("b", "a")]  # fmt: skip
    one = pair(compared(cells), "a", "b", AVERAGE)
    assert (one["delta"], one["p_value"], one["p_adjusted"]) == (0.0, 1.0, 1.0)
    assert one["ci_low"] < 0 < one["ci_high"]
    assert one["verdict"] == "inconclusive"  # on so few


def test_the_average_of_a_bench_written_twice_is_drawn_apart() -> None:
    """Two benches are independent evidence: the interval shrinks by the root of two."""
    rng = np.random.default_rng(3)
    rows = {name: (rng.random(400) < 0.6).astype(float).tolist() for name in ("b", "a")}
    found = compared([cell(n, row, bench) for bench in ("gqa", "pope") for n, row in rows.items()])
    single, whole = pair(found, "a", "b"), pair(found, "a", "b", AVERAGE)
    widths = [one["ci_high"] - one["ci_low"] for one in (whole, single)]
    assert widths[0] / widths[1] == pytest.approx(2**-0.5, rel=0.07)
    assert whole["delta"] == pytest.approx(single["delta"])


def test_rows_are_paired_on_what_both_answered() -> None:
    long, short = cell("b", right(50, 80)), cell("a", right(30, 40), first=20)
    one = pair(compared([long, short]), "a", "b")
    both = [float(i < 50) for i in range(20, 60)]
    expected = stats.paired(right(30, 40), both, [f"i{i}" for i in range(20, 60)], 0)
    assert expected is not None
    assert (one["n"], one["delta"], one["p_value"]) == (40, expected.delta.value, expected.p_value)
    assert one["ci_low"] == pytest.approx(expected.delta.low, abs=1e-12)
    assert compared([long, cell("a", right(3, 9), first=100)]) == []


scores = st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=24, max_size=24)


@settings(max_examples=25, deadline=None)
@given(st.lists(scores, min_size=4, max_size=4), st.permutations(range(3)))
def test_another_row_changes_no_pairs_numbers(rows: list[list[float]], order: list[int]) -> None:
    """Nor does the order of the rows; turned round, a difference has the other sign."""
    labels = ["a", "b", "c", "d"]
    every = [cell(labels[i], rows[i], per_image=2) for i in (*order, 3)]
    all_, few = compared(every), compared([c for c in every if c.subject.about["label"] != "c"])
    for row in few:
        other = pair(all_, row["a"], row["b"])
        assert [other[k] for k in NUMBERS] == [row[k] for k in NUMBERS]
    for row in compared(every[::-1]):
        other = pair(all_, row["b"], row["a"])
        assert (other["delta"], other["p_value"]) == (-row["delta"], row["p_value"])
        # By what was drawn: means lie a step apart, which one image of two documents makes.
        assert other["ci_low"] == pytest.approx(-row["ci_high"], abs=1 / 12 + 1e-9)
        paired = stats.paired(*(rows[labels.index(row[k])] for k in "ab"),
                              [i // 2 for i in range(24)], 0)  # fmt: skip
        assert paired is not None and paired.p_value == row["p_value"]
        assert row["ci_high"] == pytest.approx(paired.delta.high, abs=1e-12)


def test_cell_by_cell_ends_where_all_at_once_does() -> None:
    rng = np.random.default_rng(4)
    cells = [cell(label, (rng.random(60) < 0.6).astype(float).tolist(), bench, per_image=2)
             for bench in ("gqa", "pope") for label in ("dense", "a", "b", "c")]  # fmt: skip
    found, growing = Matrix(0), Comparisons(0)
    for count in range(1, len(cells) + 1):
        found.update(cells[:count])
        rows = growing.rows(found, several=True)
    assert rows == compared(cells)
    assert average_rows(found) == average_rows(matrix(cells))


def test_averages_counted_by_hand() -> None:
    cells = [
        cell("dense", right(16, 20), kv=1.0, prefill=4.0), cell("a", right(12, 20), prefill=1.0),
        cell("dense", right(30, 40), "pope", 1.0, prefill=8.0),
        cell("a", right(30, 40), "pope", 0.3, prefill=2.0), cell("late", right(9, 20)),
    ]  # fmt: skip
    dense, mine, late = average_rows(matrix(cells))
    assert dense["average"] == pytest.approx(0.775) and dense["of_dense"] == 1.0
    assert mine["average"] == pytest.approx(0.675)
    assert mine["of_dense"] == pytest.approx(0.675 / 0.775)
    assert mine["of_dense_low"] < mine["of_dense"] < mine["of_dense_high"]
    assert (mine["kv"], mine["tflops_prefill"], mine["prefill_of_dense"]) == (0.4, 1.5, 0.25)
    assert (mine["n"], mine["images"], mine["benches"], mine["of_benches"]) == (60, 60, 2, 2)
    assert "average" not in late and "of_dense" not in late  # of other benches it would be
    assert (late["benches"], late["of_benches"], late["kv"]) == (1, 2, 0.5)


def test_a_run_writes_what_accuracy_csv_says_of_dense(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, FakeRun(), methods=("fastv", "random", "blind"), bench=("gqa", "pope")) == 0
    rows = read_rows(out / "comparisons.csv")
    assert list(rows[0]) == list(columns.COMPARISONS)
    assert [r["bench"] for r in rows] == ["gqa"] * 6 + ["pope"] * 6 + [AVERAGE] * 6
    told = [r for r in read_rows(out / "accuracy.csv") if r["p_value"]]
    assert len(told) == 6
    for row in told:
        one = pair(rows, row["label"], "dense", row["bench"])
        names = ("delta", "delta_ci_low", "delta_ci_high", "p_value", "margin", "n_paired")
        ours = ("delta", "ci_low", "ci_high", "p_value", "margin", "n")
        assert [float(one[k]) for k in ours] == pytest.approx(
            [float(row[k]) for k in names], abs=1e-12
        )
    averages = read_rows(out / "averages.csv")
    assert list(averages[0]) == list(columns.AVERAGES)
    assert [r["label"] for r in averages] == ["dense", "fastv", "random", "blind"]
    assert averages[0]["n"] == str(2 * DOCUMENTS)


def test_the_average_of_one_bench_is_that_bench(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, FakeRun(), bench=("gqa",)) == 0
    scored = {
        r["label"]: r for r in read_rows(out / "accuracy.csv") if r["metric"] == "exact_match"
    }
    for row in read_rows(out / "averages.csv"):
        ours = [row[k] for k in ("average", "ci_low", "ci_high", "n")]
        assert ours == [scored[row["label"]][k] for k in ("value", "ci_low", "ci_high", "n")]
    assert {r["bench"] for r in read_rows(out / "comparisons.csv")} == {"gqa"}


def test_a_row_that_failed_on_a_bench_has_no_average(tmp_path: Path) -> None:
    class Broken(FakeRun):
        def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
            self.fail = {"fastv": RuntimeError("no")} if bench.name == "pope" else {}
            return super().evaluate(session, method, bench, **options)

    out = tmp_path / "run"
    assert run(out, Broken()) == 3
    rows = {r["label"]: r for r in read_rows(out / "averages.csv")}
    assert rows["fastv"]["average"] == rows["fastv"]["of_dense"] == ""
    assert (rows["fastv"]["benches"], rows["fastv"]["of_benches"]) == ("1", "2")
    assert rows["random"]["average"] != ""
    whole = [(r["a"], r["b"]) for r in read_rows(out / "comparisons.csv") if r["bench"] == AVERAGE]
    assert whole == [("random", "dense")]


def test_a_rival_is_named_once_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(out, FakeRun(), methods=("fastv", "random"), against=("fastv:k=2",)) == 0
    assert read_run_json(out)["against"] == ["fastv"]
    assert "against" not in read_run_json(out)["settings"]
    assert run(out, FakeRun(), methods=("fastv", "random")) == 0  # the same run
    assert read_run_json(out)["against"] == ["fastv"]
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert (
        main(["--plots-only", str(out), "--against", "random", "--out", str(tmp_path / "a")]) == 0
    )
    assert {p: p.read_bytes() for p in before} == before
    assert main(["--derive", str(out), "--against", "random,dense", "--quiet"]) == 0
    assert read_run_json(out)["against"] == ["random", "dense"]
    capsys.readouterr()


@pytest.mark.parametrize("name", ["fastvv", "fastv:k=3", "fastv:nothing=1", ":"])
def test_a_rival_that_no_row_is(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="--against: unknown row") as refused:
        run(out, FakeRun(), against=(name,))
    assert not out.exists()
    assert all(label in str(refused.value) for label in ("dense", "fastv", "random"))
    assert run(out, FakeRun()) == 0
    for flag in ("--plots-only", "--derive"):
        assert main([flag, str(out), "--against", name, "--quiet"]) == 2
        assert "--against: unknown row" in capsys.readouterr().err
    assert "against" not in read_run_json(out)


def test_a_method_at_several_budgets_is_all_of_its_rows(tmp_path: Path) -> None:
    out = tmp_path / "run"
    methods = ("fastv:kv=0.75", "fastv:kv=0.5", "random")
    assert run(out, FakeRun(), methods=methods, bench=("gqa",), against=("fastv",)) == 0
    assert read_run_json(out)["against"] == ["fastv kv=0.75", "fastv kv=0.5"]
    assert run(out, FakeRun(), methods=methods, bench=("gqa",), against=("fastv:kv=.5",)) == 0
    assert read_run_json(out)["against"] == ["fastv kv=0.5"]


@pytest.mark.slow
def test_intervals_of_the_average_cover_and_its_test_holds_its_level() -> None:
    """Two benches of unlike size, images shared by two documents, a true difference and none."""
    rng = np.random.default_rng(5)
    trials, covered, alarms = 300, 0, 0

    def one(n: int, level: float) -> list[float]:
        image = np.repeat(rng.random(n // 2), 2)
        return ((0.5 * image + 0.5 * rng.random(n)) < level).astype(float).tolist()

    for _ in range(trials):
        cells = [cell(label, one(n, level), bench, per_image=2)
                 for bench, n in (("gqa", 120), ("pope", 60))
                 for label, level in (("b", 0.4), ("a", 0.4), ("c", 0.6))]  # fmt: skip
        rows = compared(cells)
        # P((u + v) / 2 < t) is 2 t^2 below a half, by symmetry 1 - 2 (1 - t)^2 above it
        truth = (1 - 2 * 0.4**2) - 2 * 0.4**2
        wide = pair(rows, "c", "a", AVERAGE)
        covered += wide["ci_low"] <= truth <= wide["ci_high"]
        alarms += pair(rows, "a", "b", AVERAGE)["p_value"] < 0.05
    assert 270 <= covered <= 298  # 95 % of 300, four standard deviations
    assert alarms <= 30  # 5 %, four
