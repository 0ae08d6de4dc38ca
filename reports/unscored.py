"""Benches whose answers are there and whose scores are not, or are a judge's."""

from __future__ import annotations

from harness.store.submissions import files_of
from reports.section import Section
from reports.summary import Summary
from reports.tables import Cell, Column, Table, name_cell
from reports.text import GAP

WAITING = (
    "These cells are answered whole. Nothing stands in for their scores: a judge gives them "
    "(--judge RUN --judge-url URL --judge-model NAME), or the server of the test split that takes "
    "the file."
)
JUDGED = "A language model gave the scores of these benches: another one gives others."


def section(summary: Summary) -> Section | None:
    """What waits for a score, with its files, and who scored the rest; None without either."""
    waiting, judged = [], []
    for series in summary.series:
        for bench in summary.benches:
            cell = summary.cell(series, bench)
            row = [name_cell(series), Cell(bench, tone="name", sort=bench)]
            if cell.waits:
                files = ", ".join(files_of(summary.run.path, cell.cell_id))
                waiting.append([*row, Cell(cell.not_scored), Cell(files)])
            judges = dict.fromkeys((s.judge, s.temperature) for s in cell.scores if s.judge)
            judged += [[*row, Cell(judge), Cell(warm or GAP)] for judge, warm in judges]
    found = []
    if waiting:
        found.append(Table("unscored", "Not scored", _columns("Waits for", "Files"), waiting))
    if judged:
        found.append(Table("judges", "Scored by a judge", _columns("Judge", "Temperature"), judged))
    said = " ".join([WAITING] * bool(waiting) + [JUDGED] * bool(judged))
    return Section("unscored", "Not scored here", said, tables=tuple(found)) if found else None


def _columns(*titles: str) -> list[Column]:
    return [Column(title, numeric=False) for title in ("Method", "Bench", *titles)]
