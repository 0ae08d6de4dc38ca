"""Which answers changed against dense: two rows of equal accuracy may still differ in many."""

from __future__ import annotations

import math

from reports import text
from reports.cell import Series
from reports.summary import Summary
from reports.tables import Cell, Column, Table, name_cell

INTRO = (
    "Documents that dense has right and the method wrong, and the other way round, on the same "
    "documents (for graded scores: fell and rose). A method may lose few points and still answer "
    "many documents differently. Which ones: python -m modsuite view RUN."
)


def table(summary: Summary) -> Table | None:
    """Methods by benches: right to wrong / wrong to right; None without the counts."""
    benches = [b for b in summary.benches if any(_known(summary, s, b) for s in summary.series)]
    if not benches:
        return None
    columns = [Column("Method", numeric=False)]
    for bench in benches:
        unit = f"right → wrong / wrong → right, {_paired(summary, bench)}"
        columns.append(Column(bench, unit, mini=summary.is_mini_bench(bench)))
    rows = [
        [name_cell(series)] + [_cell(summary, series, bench) for bench in benches]
        for series in summary.series
        if not series.is_reference
    ]
    return Table("changes", "Answers that changed", columns, rows)


def _known(summary: Summary, series: Series, bench: str) -> bool:
    score = summary.score(series, bench)
    return score is not None and not math.isnan(score.right_to_wrong) and score.n_paired > 0


def _paired(summary: Summary, bench: str) -> str:
    scores = [summary.score(s, bench) for s in summary.series]
    counts = {int(s.n_paired) for s in scores if s is not None and s.n_paired > 0}
    low, high = min(counts), max(counts)
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def _cell(summary: Summary, series: Series, bench: str) -> Cell:
    score = summary.score(series, bench)
    if score is None or not _known(summary, series, bench):
        return Cell(text.GAP, tone="gap")
    lost, won, n = score.right_to_wrong, score.wrong_to_right, score.n_paired
    shown = f"{text.number(lost, 0)} / {text.number(won, 0)}"
    shares = f"{text.percent(lost / n, 1)} / {text.percent(won / n, 1)}"
    return Cell(shown, sub=shares, sort=(lost + won) / n)
