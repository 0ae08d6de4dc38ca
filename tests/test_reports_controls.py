"""What the report says of methods and controls at equal budget: the file's numbers, marks, gaps."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.bench.loop import Sample
from reports import build_report, controls
from reports.rundata import load_run
from reports.summary import Summary, summarise
from reports.tables import cells, overview
from tests.fakes import FakeRun, run

Rows = list[dict[str, str]]


def rows_of(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class Strong(FakeRun):
    """fastv is always right on pope and no better than random on gqa."""

    def _samples(self, method: Any, bench: Any, **options: Any) -> Sequence[Sample]:
        found = super()._samples(method, bench, **options)
        right = method.name == "fastv" and bench.name == "pope"
        return [replace(s, score=1.0) for s in found] if right else found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "study"
    assert run(out, Strong(), methods=("fastv", "random", "random:seed=1", "blind")) == 0
    build_report(out)
    return out


def copy(path: Path, to: Path) -> Path:
    to.mkdir(exist_ok=True)
    for name in ("run.json", "cells.csv", "accuracy.csv", "cost.csv", "routing.csv"):
        shutil.copy(path / name, to / name)
    shutil.copy(path / "controls.csv", to / "controls.csv")
    return to


def read(path: Path) -> tuple[Summary, controls.Rivals]:
    summary = summarise(load_run(path))
    return summary, controls.load(summary)


def test_mark_stands_where_the_file_says_not_above_and_nowhere_else(path: Path) -> None:
    summary, rivals = read(path)
    file = {(r["label"], r["bench"]): r["verdict"] for r in rows_of(path / "controls.csv")
            if r["control"] == "random"}  # fmt: skip
    assert file == {("fastv", "gqa"): "not above", ("fastv", "pope"): "above"}
    table = overview(summary, marks=rivals.marks)
    marked = {
        (row[0].main, bench)
        for row in table.rows
        for bench, cell in zip(summary.benches, row[1:3], strict=True)
        if cell.mark
    }
    assert marked == {("fastv", "gqa")}
    assert table.note.endswith(controls.FOOTNOTE)
    every = cells(summary, rivals.marks)
    assert [(r[0].main, r[1].main) for r in every.rows if r[3].mark] == [("fastv", "gqa")]
    assert controls.findings(rivals) == ["Not above random at the same budget: fastv on gqa."]


def test_the_mark_and_its_footnote_are_words_in_every_form(path: Path) -> None:
    html = (path / "report.html").read_text(encoding="utf-8")
    markdown = (path / "report.md").read_text(encoding="utf-8")
    tex = (path / "tables" / "paper.tex").read_text(encoding="utf-8")
    assert html.count(f'<span class="mark">{controls.MARK}</span>') == 2  # overview, every cell
    for shown in (html, markdown):
        assert controls.FOOTNOTE in shown
        assert "Not above random at the same budget: fastv on gqa." in shown
    line = next(x for x in markdown.splitlines() if x.startswith("| fastv |"))
    assert line.count(controls.MARK) == 1
    assert tex.split(r"\bottomrule")[0].count(r"$\dagger$") == 1
    assert r"$\dagger$: not above" in tex.split(r"\bottomrule")[1]


def test_table_has_the_numbers_of_the_file(path: Path) -> None:
    summary, rivals = read(path)
    table = controls.table(summary, rivals)
    assert table is not None
    titles = [column.title for column in table.columns]
    assert titles == ["Method", "Bench", "n", "KV cache", "Δ to random", "Δ to blind"]
    shown = {row[1].main: dict(zip(titles, row, strict=True)) for row in table.rows}
    for row in rows_of(path / "controls.csv"):
        title = f"Δ to {row['control']}"
        if title in titles:
            cell = shown[row["bench"]][title]
            assert cell.sort == float(row["delta"])
            low, high = (100 * float(row[f"delta_ci_{end}"]) for end in ("low", "high"))
            assert cell.ci == f"[{low:+.1f}, {high:+.1f}]".replace("-", "−")
            assert row["verdict"] in cell.sub
            assert cell.note == ("mean of 2 rows" if row["control"] == "random" else "")


def test_methods_without_a_random_row_are_named_with_the_flag(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, FakeRun(), methods=("fastv", "fastv:k=3")) == 0
    html = build_report(out).read_text(encoding="utf-8")
    said = "No random row at the budget and numbering of "
    assert f"{said}fastv (keeps 62.5 %) and fastv k=3 (keeps 62.5 %):" in html
    assert "--controls adds random" in html
    assert controls.MARK not in html
    summary, rivals = read(out)
    assert controls.table(summary, rivals) is None and not rivals.marks.on


def test_a_gap_on_one_bench_names_the_bench(path: Path, tmp_path: Path) -> None:
    copy(path, tmp_path)

    rows = rows_of(tmp_path / "controls.csv")
    blank = list(rows[0])[list(rows[0]).index("control_label") :]
    for row in rows:
        if (row["bench"], row["control"]) == ("pope", "random"):
            row.update(dict.fromkeys(blank, ""))
    write(tmp_path / "controls.csv", rows)
    summary, rivals = read(tmp_path)
    said = controls.missing_sentence(summary, rivals)
    assert said.startswith("No random row at the budget and numbering of fastv (keeps 62.5 %) on ")
    table = controls.table(summary, rivals)
    assert table is not None and table.note.startswith("A dash: no row")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00garbage", b"{}\n[1", b"cell_id\n1\n"])
def test_without_the_file_there_is_a_report_and_no_claim(
    path: Path, content: bytes | None, tmp_path: Path
) -> None:
    copy(path, tmp_path)
    if content is None:
        (tmp_path / "controls.csv").unlink()
    else:
        (tmp_path / "controls.csv").write_bytes(content)
    summary, rivals = read(tmp_path)
    assert not rivals.found and not rivals.marks.on and rivals.marks.note == ""
    assert controls.section(summary, rivals) is None
    assert controls.MARK not in build_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: row.update(p_adjusted=""),  # a verdict from no test
        lambda row: row.update(verdict="splendid"),
        lambda row: row.update(control="dense"),
        lambda row: row.update(delta_ci_low=""),
        lambda row: row.update(delta="0.9"),  # outside its interval
    ],
)
def test_a_row_that_cannot_be_is_left_out_and_said(
    path: Path, damage: Callable[[dict[str, str]], None], tmp_path: Path
) -> None:
    copy(path, tmp_path)
    rows = rows_of(tmp_path / "controls.csv")
    target = next(r for r in rows if (r["bench"], r["control"]) == ("gqa", "random"))
    damage(target)
    write(tmp_path / "controls.csv", rows)
    summary, rivals = read(tmp_path)
    assert "controls.csv: 1 line(s) that cannot be, left out." in summary.run.notices
    assert not rivals.marks.on
    assert len(rivals.found) == len(rows) - 1


def test_above_from_before_the_correction_is_read_as_not_above(path: Path, tmp_path: Path) -> None:
    copy(path, tmp_path)
    rows = rows_of(tmp_path / "controls.csv")
    target = next(r for r in rows if (r["bench"], r["control"]) == ("pope", "random"))
    assert target["verdict"] == "above"
    target.update(p_adjusted="0.06")
    write(tmp_path / "controls.csv", rows)
    summary, rivals = read(tmp_path)
    assert [(s.label, b) for s, b in rivals.marks.on] == [("fastv", "gqa"), ("fastv", "pope")]
    assert any("1 line(s) say “above” without" in notice for notice in summary.run.notices)


def test_rows_of_a_cell_that_is_no_longer_done_are_not_shown(path: Path, tmp_path: Path) -> None:
    copy(path, tmp_path)
    rows = rows_of(tmp_path / "cells.csv")
    for row in rows:
        if (row["label"], row["bench"]) == ("fastv", "gqa"):
            row.update(status="failed", error="out of memory")
    write(tmp_path / "cells.csv", rows)
    _, rivals = read(tmp_path)
    assert {bench for _, bench, _ in rivals.found} == {"pope"}
