"""Accuracy against budget in the report: the numbers of the file, and only where it has any."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from reports import build_report, curvefigure, style
from reports.rundata import load_run
from reports.summary import summarise
from tests.fakes import FakeRun, fake_record, run

BUDGETS = ("0.8125", "0.625")


class Keeps(FakeRun):
    """Keeps what it is asked for, in three of its four layers."""

    def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
        result = super().evaluate(session, method, bench, **options)
        if getattr(method, "kv", None):
            kept = (method.kv * 4 - 1) / 3
            result.records.update({doc: fake_record(kept, int(doc)) for doc in result.records})
        return result


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "study"
    methods = ("fastv", "divprune", "random", "random:seed=1", "blind")
    assert run(out, Keeps(), methods=methods, budgets=BUDGETS) == 0
    build_report(out)
    return out


def section(path: Path) -> str:
    page = (path / "report.md").read_text(encoding="utf-8")
    return page.partition("## Accuracy against budget")[2].partition("\n## ")[0]


def test_the_section_has_the_numbers_of_the_file(path: Path) -> None:
    said = section(path)
    rows = [r for r in rows_of(path / "curves.csv") if r["bench"] == "(average)"]
    assert {(r["curve"], r["against"]) for r in rows} == {
        ("fastv", "dense"), ("fastv", "random"), ("divprune", "dense"), ("divprune", "fastv"),
    }  # fmt: skip
    for row in rows:
        if row["against"] in ("dense", "random"):
            shown = f"{100 * float(row['area']):+.1f}".replace("-", "−")
            assert (shown.lstrip("+") if float(shown.replace("−", "-")) == 0 else shown) in said
    assert "At KV 0.8125 and 0.625 " in said
    assert "comes nearest to dense on average" in said
    assert "settled above none of 1 other" in said or "settled above 1 of 1 other" in said
    assert "of 1 pair of methods are settled" in said


def test_the_figure_has_a_panel_a_bench_and_the_average_first(path: Path) -> None:
    rows = rows_of(path / "figures" / "curves.csv")
    assert [*dict.fromkeys(r["bench"] for r in rows)] == ["(average)", "gqa", "pope"]
    mine = [r for r in rows if (r["curve"], r["bench"]) == ("fastv", "gqa")]
    assert [(r["budget"], float(r["kv"]), float(r["tokens"])) for r in mine] == [
        ("0.625", 0.625, 10.0), ("0.8125", 0.8125, 13.0),
    ]  # fmt: skip
    scores = {r["label"]: r for r in rows_of(path / "accuracy.csv") if r["bench"] == "gqa"
              and r["headline"] == "1"}  # fmt: skip
    for row in mine:
        score = scores[f"fastv kv={row['budget']}"]
        names = {"value": "value", "ci_low": "ci_low", "ci_high": "ci_high"}
        assert all(float(row[a]) == pytest.approx(100 * float(score[b])) for a, b in names.items())
    seeds = [r for r in rows if (r["curve"], r["bench"]) == ("random", "gqa")]
    assert [(r["rows"], r["ci_low"]) for r in seeds] == [("2", ""), ("2", "")]


def test_lines_that_cannot_be_are_left_out_and_said(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(path, out)
    rows = rows_of(out / "curves.csv")
    for row in rows:
        if (row["bench"], row["curve"], row["against"]) == ("(average)", "fastv", "random"):
            row["ci_low"] = "0.9"
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    build_report(out)
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "curves.csv: 1 line(s) that cannot be, left out." in page
    (out / "curves.csv").unlink()  # an older run: the figure stays
    build_report(out)
    assert "comes nearest" not in section(out)
    assert "curves.svg" in section(out)


def test_no_section_at_one_budget(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, methods=("fastv:kv=0.625", "random"), bench=("gqa",)) == 0
    build_report(out)
    assert section(out) == ""


def test_the_conditions_say_which_cells_another_run_answered(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"
    methods = ("fastv", "divprune", "uniform")
    assert run(out, Keeps(), methods=methods, budgets=BUDGETS, reuse=(str(path),)) == 0
    build_report(out)
    page = (out / "report.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if "Answers of other runs" in line)
    assert "10 of 14 cells from study (cpu, 20" in line
    assert "dense, fastv kv=0.8125" in line


def test_a_panel_that_has_no_line_yet_is_left_out(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = curvefigure.points

    def one_budget_on_average(summary: Any, ranked: Any, curve: Any, bench: str) -> Any:
        return list(real(summary, ranked, curve, bench))[: 1 if bench == "(average)" else 9]

    summary = summarise(load_run(path))
    monkeypatch.setattr(curvefigure, "points", one_budget_on_average)
    with style.context():
        known = curvefigure.curves(summary)
        drawn = curvefigure.draw(summary, known, tmp_path, style.Palette(summary.series))
    assert "(average)" not in drawn.csv_text and ",gqa," in drawn.csv_text
