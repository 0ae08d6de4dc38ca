"""`--diff` of methods that stand in one run only: the numbers of comparisons.csv, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from harness.command.cli import main
from minidata.identity import EARLIER, named
from minidata.tasks import data_files
from reports.diff import compare
from reports.diffview import page, sentences
from reports.errors import ReportError
from reports.versus import Versus
from tests.fakes import run
from tests.test_reports_diff import answers, change, meta, small


def pair(tmp_path: Path, kv: tuple[float, float] = (0.4, 0.41)) -> tuple[Path, Path]:
    """`gamma` in A only and `pmod` in B only, which keep these shares of the image's KV cache."""
    a = small(tmp_path / "a")
    b = small(tmp_path / "b", methods=("dense", "pmod"))
    for out, label, share in ((a, "gamma", kv[0]), (b, "pmod", kv[1])):
        change(out / "cost.csv", label, kv_ratio_vision=share)
    scores = {str(i): float(i < 40) for i in range(60)}
    answers(a, "gamma", scores)
    answers(b, "pmod", {doc: float(20 <= int(doc) < 42) for doc in scores})
    return a, b


def only(rows: list[Versus]) -> Versus:
    (row,) = rows
    return row


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("runs")
    wanted = {"all": ("fastv", "random", "uniform"), "a": ("fastv",), "b": ("random", "uniform")}
    for name, methods in wanted.items():
        assert run(base / name, methods=methods) == 0
    return {name: base / name for name in wanted}


def test_two_runs_say_what_one_run_with_all_rows_says(runs: dict[str, Path]) -> None:
    """Differences, intervals and p-values of comparisons.csv; Holm over the table of the diff."""
    found = compare(runs["a"], runs["b"]).versus
    assert len(found) == 4  # fastv with random and uniform, on two benches
    table = pd.read_csv(runs["all"] / "comparisons.csv")
    for row in found:
        named = {row.one.removesuffix(" (A)"), row.other.removesuffix(" (B)")}
        same = [{r.a, r.b} == named and r.bench == row.bench for r in table.itertuples()]
        (there,) = table[same].itertuples()
        sign = 1 if there.a == "fastv" else -1
        low, high = sorted((sign * there.ci_low, sign * there.ci_high))
        assert (row.delta, row.low, row.high) == pytest.approx((sign * there.delta, low, high))
        assert row.p_value == pytest.approx(there.p_value)
        assert (row.n, row.comparable) == (there.n, bool(there.comparable))
        assert row.margin == pytest.approx(there.margin)
    wanted = multipletests([row.p_value for row in found], method="holm")[1]
    assert [row.p_adjusted for row in found] == pytest.approx(list(wanted))


def test_a_settled_pair_is_one_sentence(tmp_path: Path) -> None:
    found = compare(*pair(tmp_path))
    row = only(found.versus)
    assert (row.one, row.other, row.verdict) == ("gamma (A)", "pmod (B)", "better")
    assert row.delta == pytest.approx(18 / 60)
    said = [line for line in sentences(found) if "gamma" in line]
    assert said[0].startswith("gamma (A) beats pmod (B) by 30.0 [")
    assert said[0].endswith("] on gqa at the same KV.")
    shown = page(found)
    assert shown.index("beats pmod") < shown.index("| Method |") < shown.index("| Row |")
    assert (found.only_a, found.only_b) == ([], [])


def test_what_is_not_separable_is_said_so(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    answers(b, "pmod", {str(i): float(i < 39) for i in range(60)})
    assert "gamma (A) is not separable from pmod (B) on gqa at the same KV." in sentences(
        compare(a, b)
    )


def test_less_is_better_where_the_bench_says_so(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    for out in (a, b):
        for cell in (out / "samples").glob("*.csv"):
            told = [{"headline": True, "higher_is_better": False}]
            cell.with_suffix(".metrics.json").write_text(json.dumps(told))
    assert only(compare(a, b).versus).verdict == "worse"


def test_another_budget_has_an_interval_and_no_verdict(tmp_path: Path) -> None:
    found = compare(*pair(tmp_path, kv=(0.4, 0.5)))
    row = only(found.versus)
    assert row.low < row.delta < row.high
    assert row.verdict == "" and row.p_adjusted != row.p_adjusted
    assert any("gamma (A) has another KV budget than pmod (B)" in s for s in sentences(found))


def test_against_names_rows_of_b_and_then_of_a(tmp_path: Path) -> None:
    a, b = pair(tmp_path)

    def named(*names: str) -> list[tuple[str, str]]:
        return [(row.one, row.other) for row in compare(a, b, names).versus]

    assert named("pmod") == [("dense (A)", "pmod (B)"), ("gamma (A)", "pmod (B)")]
    assert named("gamma") == [("dense (B)", "gamma (A)"), ("pmod (B)", "gamma (A)")]
    assert named("dense") == [("gamma (A)", "dense (B)")]


def test_a_row_of_neither_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = pair(tmp_path)
    capsys.readouterr()
    assert main(["--diff", str(a), str(b), "--against", "pmud"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--against" in line and "'pmud'" in line and "pmod" in line
    assert main(["--diff", str(a), str(b), "--against", "pmod"]) == 0


@pytest.mark.parametrize("case", ["target", "none shared", "metric", "no samples"])
def test_what_cannot_be_paired_is_a_gap_with_its_reason(tmp_path: Path, case: str) -> None:
    a, b = pair(tmp_path)
    scores = {str(i): 1.0 for i in range(20)}
    if case == "target":
        answers(b, "pmod", scores, "no")
    if case == "none shared":
        answers(b, "pmod", {f"x{doc}": 1.0 for doc in scores})
    if case == "metric":
        change(b / "accuracy.csv", "pmod", metric="anls")
    if case == "no samples":
        for path in (b / "samples").iterdir():
            path.unlink()
    row = only(compare(a, b).versus)
    assert row.remark and not row.verdict
    assert row.delta != row.delta


def test_other_data_are_refused_with_what_differs(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    for label in ("dense", "pmod"):
        change(b / "cells.csv", label, data="hub")
    found = compare(a, b)
    assert found.versus == []
    assert "gqa is not compared, its data are not the same: mini and hub." in found.notices
    assert ("Data of gqa", "mini", "hub") in found.conditions
    for out, label in ((a, "gamma"), (b, "pmod")):  # and nothing else to compare
        table = pd.read_csv(out / "cells.csv")
        table[table.label == label].to_csv(out / "cells.csv", index=False)
    with pytest.raises(ReportError, match="gqa is not compared, its data are not the same"):
        compare(a, b)


def test_mini_data_that_grew_are_compared_on_the_documents_of_both(tmp_path: Path) -> None:
    """A run on a file of before against one on the data that begin with it."""
    a, b = pair(tmp_path)
    now = named(data_files("gqa"))
    earlier = [(one.name, True) for one in EARLIER["gqa"]]
    for before, same in (*earlier, ("testdev.parquet@000000000000", False)):
        for out, name in ((a, before), (b, now)):
            table = pd.read_csv(out / "cells.csv").assign(data_source=name)
            table.to_csv(out / "cells.csv", index=False)
        if same:
            found = compare(a, b)
            assert only(found.versus).verdict == "better"
            assert not any(name.startswith("Data") for name, *_ in found.conditions)
        else:
            assert f"its data are not the same: mini {before} and mini {now}" in " ".join(
                compare(a, b).notices
            )


def test_conditions_of_other_cells_are_folded_away(tmp_path: Path) -> None:
    a, b = pair(tmp_path)

    def checkpoints(*names: str, file: str = "x") -> Any:
        return {name: {"files": {"w": file}} for name in names}

    meta(a, checkpoints=checkpoints("dense", "gamma"))
    meta(b, checkpoints=checkpoints("pmod") | checkpoints("dense", file="y"))
    found = compare(a, b)
    assert found.conditions == [("Checkpoint dense.files.w", "x", "y")]
    assert [one[0] for one in found.aside] == [
        "Checkpoint gamma.files.w", "Checkpoint pmod.files.w",
    ]  # fmt: skip
    shown = page(found)
    assert shown.index("Checkpoint dense") < shown.index("| Method |")
    assert shown.index("<details>") < shown.index("Checkpoint gamma")
