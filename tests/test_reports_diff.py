"""Two runs compared: known numbers, conditions first, and a polite no where nothing compares."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.command.cli import main
from harness.common.roots import ROOT
from reports.diff import Row, compare
from reports.diffview import page, show_diff
from reports.errors import ReportError
from tests.fixtures.runs import identity, write_run

SMALL: dict[str, Any] = {"methods": ("dense", "gamma"), "failed": (), "without_cost": ()}


def small(path: Path, **choices: Any) -> Path:
    return write_run(path, **{**SMALL, "benches": ("gqa",), **choices})


def answers(run: Path, label: str, scores: dict[str, float], target: str = "yes") -> None:
    """Samples of a cell, and the accuracy that belongs to them."""
    cell = str(identity(label, "gqa")[0])
    (run / "samples").mkdir(exist_ok=True)
    lines = [["doc_id", "score", "target"], *([d, v, f"{target} {d}"] for d, v in scores.items())]
    with (run / "samples" / f"{cell}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    change(run / "accuracy.csv", label, value=sum(scores.values()) / len(scores),
           ci_low="", ci_high="", n=len(scores))  # fmt: skip


def change(path: Path, label: str, **values: object) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["label"] == label:
            row.update({name: str(value) for name, value in values.items()})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def meta(run: Path, **values: object) -> None:
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def row_of(found: Any, label: str) -> Row:
    return next(row for row in found.rows if row.label == label)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return small(tmp_path / "a"), small(tmp_path / "b")


def test_paired_on_shared_documents(pair: tuple[Path, Path]) -> None:
    a, b = pair
    # 60 shared documents: 20 lost, 2 won; each run has 5 of its own.
    first = {str(i): float(i < 40) for i in range(60)} | {f"a{i}": 1.0 for i in range(5)}
    second = {str(i): float(20 <= i < 42) for i in range(60)} | {f"b{i}": 0.0 for i in range(5)}
    answers(a, "gamma", first)
    answers(b, "gamma", second)
    row = row_of(compare(a, b), "gamma")
    assert row.shared == 60
    assert row.delta == pytest.approx((2 - 20) / 60)
    assert row.low < row.delta < row.high < 0
    from scipy.stats import binomtest

    assert row.p_value == pytest.approx(binomtest(2, 22).pvalue)
    assert row.p_adjusted == pytest.approx(row.p_value)  # the only tested row
    assert (row.a, row.b) == (pytest.approx(45 / 65), pytest.approx(22 / 65))
    assert row.remark == "difference on shared documents"
    assert row.significant
    assert "**▼ −30.0 [" in page(compare(a, b))


def test_without_samples_the_plain_difference_has_no_interval(pair: tuple[Path, Path]) -> None:
    a, b = pair
    change(b / "accuracy.csv", "gamma", value="0.5", ci_low="", ci_high="")
    row = row_of(compare(a, b), "gamma")
    assert row.delta == pytest.approx(0.5 - row.a)
    assert row.low != row.low and not row.significant
    assert "not paired" in row.remark


@pytest.mark.parametrize("case", ["target", "metric", "data", "not a mean", "none shared"])
def test_what_does_not_compare_is_a_gap_with_its_reason(pair: tuple[Path, Path], case: str) -> None:
    a, b = pair
    scores = {str(i): float(i % 2) for i in range(20)}
    answers(a, "gamma", scores)
    answers(b, "gamma", scores, "no" if case == "target" else "yes")
    if case == "none shared":
        answers(b, "gamma", {f"x{i}": 1.0 for i in range(20)})
    if case == "metric":
        change(b / "accuracy.csv", "gamma", metric="anls")
    if case == "data":
        change(b / "cells.csv", "gamma", data="hub")
    if case == "not a mean":
        change(b / "accuracy.csv", "gamma", value="0.9")
    row = row_of(compare(a, b), "gamma")
    assert row.remark
    assert row.low != row.low and row.p_adjusted != row.p_adjusted
    if case != "not a mean":
        assert row.delta != row.delta


def test_conditions_that_differ_come_first(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = pair
    show_diff(a, b)
    assert "No recorded condition differs." in capsys.readouterr().out
    meta(b, dtype="bfloat16", versions={"python": "3.11.7", "torch": "9", "transformers": "5.23.0"})
    assert compare(a, b).conditions == [
        ("Precision", "float32", "bfloat16"),
        ("Version of torch", "2.13.0", "9"),
        ("Version of lmms-eval", "0.7.3", "not set"),
    ]
    show_diff(a, b)
    out = capsys.readouterr().out
    assert out.index("float32 → bfloat16") < out.index("gamma")


def test_cost_ratio_and_cells_of_one_run_only(tmp_path: Path) -> None:
    a = small(tmp_path / "a", methods=("dense", "gamma", "pmod"))
    b = small(tmp_path / "b", methods=("dense", "gamma", "mod"), failed=(("mod", "gqa"),))
    with (b / "cost.csv").open(encoding="utf-8") as file:
        values = [r for r in csv.DictReader(file) if r["label"] == "gamma"
                  and (r["scope"], r["convention"]) == ("llm_prefill", "causal")]  # fmt: skip
    change(b / "cost.csv", "gamma", tflops_mean=float(values[0]["tflops_mean"]) / 2)
    found = compare(a, b)
    assert row_of(found, "gamma").cost_ratio == pytest.approx(0.5)
    assert row_of(found, "dense").cost_ratio == pytest.approx(1.0)
    assert (found.only_a, found.only_b) == (["pmod on gqa"], [])
    assert any("failed, not compared: mod on gqa" in said for said in found.notices)


def test_same_parameters_in_another_order_are_the_same(tmp_path: Path) -> None:
    methods = ("dense", "fastv k=3 r=0.75")
    a, b = (small(tmp_path / name, methods=methods) for name in "ab")
    change(b / "cells.csv", "fastv k=3 r=0.75", params='{"r": "0.75", "k": "3"}')
    assert len(compare(a, b).rows) == 2
    change(b / "cells.csv", "fastv k=3 r=0.75", params='{"r": "0.5", "k": "3"}')
    assert len(compare(a, b).rows) == 1


def test_runs_that_do_not_compare_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = small(tmp_path / "a")
    other = small(tmp_path / "other", benches=("pope",))
    timed = small(tmp_path / "timed")
    meta(timed, settings={"throughput": True})
    (tmp_path / "empty").mkdir()
    for second, word in (
        (a, "same directory"), (other, "no finished cell in common"), (timed, "measured times"),
        (tmp_path / "absent", "not a directory"), (tmp_path / "empty", "holds no run"),
    ):  # fmt: skip
        with pytest.raises(ReportError, match=word):
            compare(a, second)
        assert main(["--diff", str(a), str(second)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["--diff", str(a), str(other), "--limit", "3"]) == 2
    assert main(["--diff", str(a)]) == 2


def test_nothing_is_written_unless_asked(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = pair
    before = sorted(tmp_path.rglob("*"))
    assert main(["--diff", str(a), str(b)]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["--diff", str(a), str(b), "--out", str(tmp_path / "d.txt")]) == 2
    assert main(["--diff", str(a), str(b), "--out", str(tmp_path / "d.md")]) == 0
    content = (tmp_path / "d.md").read_text(encoding="utf-8")
    lines = [line for line in content.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1


def test_it_loads_no_torch(pair: tuple[Path, Path]) -> None:
    code = (
        "import sys; from reports.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'lmms_eval', 'matplotlib'};"
        "print(sorted(heavy & {m.split('.')[0] for m in sys.modules})); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "diff", *map(str, pair)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_damaged_samples_and_a_newer_schema_are_said(pair: tuple[Path, Path]) -> None:
    a, b = pair
    scores = {str(i): float(i % 2) for i in range(20)}
    for run in pair:
        answers(run, "gamma", scores)
    meta(b, schema_version=99)
    cell = identity("gamma", "gqa")[0]
    path = b / "samples" / f"{cell}.csv"
    path.write_text(path.read_text()[:-2])
    found = compare(a, b)
    assert any("B: run.json has schema version 99" in said for said in found.notices)
    assert any("the last line is cut off" in said for said in found.notices)
    row = row_of(found, "gamma")
    assert row.low != row.low  # the samples no longer make up the score


def test_cells_that_a_run_no_longer_asks_for_are_left_out(tmp_path: Path) -> None:
    """A file of own data was changed and the run went on: its former cells stay in cells.csv."""
    from reports.rundata import load_run

    a, b = small(tmp_path / "a"), small(tmp_path / "b")
    now = [str(identity(label, "gqa")[0]) for label in SMALL["methods"]]
    with (a / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    former = [{**row, "cell_id": f"{n:016x}"} for n, row in enumerate(rows)]
    with (a / "cells.csv").open("a", encoding="utf-8", newline="") as file:
        csv.DictWriter(file, list(rows[0]), lineterminator="\n").writerows(former)
    meta(a, cells=now)
    assert load_run(a).cells["cell_id"].tolist() == now
    assert [row.remark for row in compare(a, b).rows].count("no score in A") == 0


def test_benches_of_like_names_have_files_of_their_own() -> None:
    from reports.text import file_names

    found = file_names(["gqa", "a-b.json", "a_b.json", "A b.json", "a_b_json"])
    assert found["gqa"] == "gqa" and found["a-b.json"] == "a_b_json"
    assert len({name.casefold() for name in found.values()}) == 5
