"""Who beats the controls at equal budget: a case counted by hand, budgets, seeds, corrections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from harness.readouts.controls import Contender, Controls, positions_of
from harness.readouts.fronts import Subject
from harness.statistics import stats
from harness.statistics.budgets import BUDGET_POINTS
from harness.store import columns
from harness.store.csvfile import read_rows
from tests.fakes import FakeRun, run

DOCS = [str(i) for i in range(100)]


def contender(
    label: str,
    right: range | list[int],
    kv: float | None = 0.5,
    bench: str = "gqa",
    better: bool = True,
    images: bool = False,
    **params: Any,
) -> Contender:
    """A row that has the documents in `right` right; with `images` two documents share one."""
    about = dict.fromkeys(columns.CELL, "") | {
        "cell_id": f"{label}/{bench}", "method": label.split()[0], "label": label, "bench": bench,
        "params": json.dumps(params),
    }  # fmt: skip
    scores = {doc: float(int(doc) in right) for doc in DOCS}
    shared = {doc: f"i{int(doc) // 2}" if images else f"i{doc}" for doc in DOCS}
    main = Subject(about, "exact_match", scores, better, {}, shared)
    return Contender(main, kv, positions_of(about))


def row_of(rows: list[dict[str, Any]], label: str, control: str = "random") -> dict[str, Any]:
    (found,) = [r for r in rows if (r["label"], r["control"]) == (label, control)]
    return found


def test_a_constructed_case_counted_by_hand() -> None:
    """good: 90 of 100 right; even: 60, of which 10 are not random's 60; random: 60."""
    rows = Controls(0).rows(
        [
            contender("dense", range(95), 1.0),
            contender("good", range(90)),
            contender("even", range(10, 70)),
            contender("random", range(60)),
        ]
    )
    assert [(r["label"], r["control"]) for r in rows] == [
        (label, control)
        for label in ("good", "even")
        for control in ("random", "uniform", "pool", "downsample", "blind")
    ]
    good, even = row_of(rows, "good"), row_of(rows, "even")
    assert (good["value"], good["control_value"], good["n"]) == (0.9, 0.6, 100)
    assert good["delta"] == pytest.approx(0.3)
    assert 0.19 < good["delta_ci_low"] < 0.23 and 0.36 < good["delta_ci_high"] < 0.41
    assert good["p_value"] == pytest.approx(2 * 0.5**30)  # 30 won, none lost
    assert good["p_adjusted"] == pytest.approx(2 * good["p_value"])  # the smaller of two
    assert good["verdict"] == "above"
    assert (even["delta"], even["p_value"], even["p_adjusted"]) == (0.0, 1.0, 1.0)
    assert even["delta_ci_low"] < 0 < even["delta_ci_high"]
    assert even["verdict"] == "not above"


def test_higher_but_not_surely_so_is_not_above() -> None:
    rows = Controls(0).rows([contender("fastv", range(63)), contender("random", range(2, 62))])
    one = row_of(rows, "fastv")
    assert one["delta"] == pytest.approx(0.03)  # 3 won (0, 1, 62), none lost
    assert one["delta_ci_low"] <= 0
    assert one["verdict"] == "not above"


def test_less_is_better_turns_the_verdict_and_not_the_difference() -> None:
    lower = [
        contender("fastv", range(20), better=False),
        contender("random", range(60), better=False),
    ]
    one = row_of(Controls(0).rows(lower), "fastv")
    assert one["delta"] == pytest.approx(-0.4)
    assert one["verdict"] == "above"


@pytest.mark.parametrize(
    ("points", "same"), [(0.0, True), (1.4, True), (BUDGET_POINTS, True), (1.6, False)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_budgets_agree_within_the_tolerance(points: float, same: bool, sign: int) -> None:
    other = contender("random", range(60), 0.5 + sign * points / 100)
    one = row_of(Controls(0).rows([contender("fastv", range(90)), other]), "fastv")
    assert ("delta" in one, one.get("verdict")) == ((True, "above") if same else (False, None))


@pytest.mark.parametrize("control", ["random", "uniform", "pool"])
def test_a_control_at_another_budget_or_bench_is_no_match(control: str) -> None:
    rows = Controls(0).rows(
        [
            contender("fastv", range(90)),
            contender("unrecorded", range(90), None),
            contender(control, range(60), 0.25),
            contender(control, range(60), bench="pope"),
        ]
    )
    assert all("verdict" not in r and "delta" not in r for r in rows)
    assert row_of(rows, "fastv", control)["kv_ratio_vision"] == 0.5


def test_blind_stands_against_every_budget() -> None:
    rows = Controls(0).rows(
        [contender("fastv", range(90), 0.3), contender("blind", range(50), 0.0)]
    )
    assert row_of(rows, "fastv", "blind")["verdict"] == "above"
    assert "delta" not in row_of(rows, "fastv", "random")


def test_several_seeds_are_averaged_document_by_document() -> None:
    seeds = [
        contender(f"random seed={i}", range(30 * i, 30 * i + 60)) for i in range(3)
    ]  # 60, 60, 40
    away = contender("random seed=9", range(100), 0.6)
    one = row_of(Controls(0).rows([contender("fastv", range(90)), *seeds, away]), "fastv")
    assert one["control_rows"] == 3
    assert one["control_label"] == "random seed=0 | random seed=1 | random seed=2"
    mean = [sum(s.subject.scores[d] for s in seeds) / 3 for d in DOCS]
    assert one["control_value"] == pytest.approx(sum(mean) / 100) == pytest.approx(160 / 300)
    ours = [float(i < 90) for i in range(100)]
    expected = stats.paired(ours, mean, [f"i{d}" for d in DOCS], 0)
    assert expected is not None
    assert (one["delta_ci_low"], one["delta_ci_high"]) == (expected.delta.low, expected.delta.high)


def test_images_are_drawn_whole() -> None:
    """Both questions of an image gained: half as many independent facts, a wider interval."""
    found = {}
    for images in (False, True):
        rows = [
            contender("fastv", range(70), images=images),
            contender("random", range(60), images=images),
        ]
        found[images] = row_of(Controls(0).rows(rows), "fastv")
    assert found[True]["delta_ci_low"] < found[False]["delta_ci_low"]
    assert found[False]["p_value"] == pytest.approx(binomtest(10, 10).pvalue)
    assert found[True]["p_value"] == pytest.approx(
        2 * 0.5**5, abs=0.02
    )  # five images, signs flipped


def test_holm_is_over_all_methods_and_benches_of_one_control() -> None:
    subjects = [
        contender(label, right, bench=bench)
        for bench in ("gqa", "pope")
        for label, right in (
            ("fastv", range(72)), ("pmod", range(66)), ("random", range(60)), ("blind", range(70)),
        )
    ]  # fmt: skip
    rows = Controls(0).rows(subjects)
    for control in ("random", "blind"):
        family = [r for r in rows if r["control"] == control]
        assert len(family) == 4
        expected = multipletests([r["p_value"] for r in family], method="holm")[1]
        assert [r["p_adjusted"] for r in family] == pytest.approx(expected.tolist())


def test_above_is_by_the_adjusted_p_value() -> None:
    """Seven documents won and none lost: p = 0.016, and its interval lies above 0; with a second
    method in the family it is still above, with four it is not."""
    won = contender("won", range(67))
    random = contender("random", range(60))
    for others, word in ((1, "above"), (3, "not above")):
        rest = [contender(f"other{i}", range(61)) for i in range(others)]
        one = row_of(Controls(0).rows([won, *rest, random]), "won")
        assert one["delta_ci_low"] > 0
        assert one["p_adjusted"] == pytest.approx((others + 1) * binomtest(7, 7).pvalue)
        assert one["verdict"] == word


def test_a_run_writes_the_file_from_its_own_scores(tmp_path: Path) -> None:
    """fastv and random keep half everywhere in the fakes; uniform is not in the run."""
    out = tmp_path / "run"
    methods = ("fastv", "random", "random:seed=1", "blind")
    assert run(out, FakeRun(), methods=methods) == 0
    rows = read_rows(out / "controls.csv")
    assert list(rows[0]) == list(columns.CONTROLS)
    assert [(r["label"], r["bench"], r["control"]) for r in rows] == [
        ("fastv", bench, control)
        for bench in ("gqa", "pope")
        for control in ("random", "uniform", "pool", "downsample", "blind")
    ]
    accuracy = {(r["label"], r["bench"]): r for r in read_rows(out / "accuracy.csv")
                if r["metric"] == "exact_match"}  # fmt: skip
    cost = {(r["label"], r["bench"]): r for r in read_rows(out / "cost.csv")}
    for row in rows:
        where = ("fastv", row["bench"])
        assert row["kv_ratio_vision"] == cost[where]["kv_ratio_vision"]
        if row["control"] == "uniform":
            assert row["delta"] == row["verdict"] == row["control_label"] == ""
        if row["control"] == "random":
            assert (row["control_rows"], row["control_label"]) == ("2", "random | random seed=1")
            assert row["value"] == accuracy[where]["value"]
            seeds = [accuracy[name, row["bench"]] for name in ("random", "random seed=1")]
            mean = sum(float(r["value"]) for r in seeds) / 2
            assert float(row["control_value"]) == pytest.approx(mean)
            assert row["verdict"] == "not above"  # the fakes answer alike
    params = json.loads(rows[0]["params"])
    assert params["k"] == 2


def test_only_controls_that_number_their_tokens_alike_count() -> None:
    """Compact numbering alone costs 40 documents here; without a parameter they are original."""
    rows = Controls(0).rows(
        [
            contender("prune", range(50), positions="compact"),
            contender("merge", range(50), positions="original"),
            contender("other", range(50)),
            contender("random o", range(80), positions="original"),
            contender("random c", range(40), positions="compact"),
            contender("uniform o", range(80), positions="original"),
            contender("blind", range(30)),
        ]
    )
    assert row_of(rows, "prune")["control_label"] == "random c"
    assert row_of(rows, "prune")["verdict"] == "above"
    assert row_of(rows, "merge")["control_label"] == "random o"
    assert row_of(rows, "merge")["verdict"] == "not above"
    assert row_of(rows, "other")["control_label"] == "random o"
    assert "delta" not in row_of(rows, "prune", "uniform")  # none of its kind
    assert row_of(rows, "prune", "blind")["verdict"] == "above"  # it has nothing to number


def test_the_numbering_is_the_cells_and_not_its_parameters() -> None:
    """freevideollm numbers anew without a parameter; sparsevlm's says none and its version one."""
    params = {"cell_id": "x", "params": '{"positions": null}', "method": "sparsevlm"}
    assert positions_of({**params, "positions": "compact"}) == "compact"
    assert positions_of({**params, "positions": ""}) == "original"  # a file from before
    assert positions_of({**params, "method": "dense", "positions": ""}) == ""
