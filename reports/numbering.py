"""How rows number the tokens they keep: a column of the tables of accuracies, a line on top."""

from __future__ import annotations

from dataclasses import replace

from reports import text
from reports.cell import Series
from reports.summary import Summary
from reports.tables import Cell, Column, Table

TITLE = "Positions"
WORDS = {"original": "original", "compact": "anew"}
WARNING = (
    "Rows number the tokens they keep in two ways (column Positions): by their original position "
    "ids, or anew without gaps. That alone can move an accuracy by more than the choice of tokens: "
    "compare rows that number alike."
)


def differ(summary: Summary) -> bool:
    """Whether rows of the run number their tokens in more than one way."""
    return len({summary.positions(series) for series in summary.series} - {""}) > 1


def with_column(summary: Summary, table: Table) -> Table:
    """A table whose rows begin with the method, with the numbering behind it where rows differ."""
    if not differ(summary) or not table.columns or table.columns[0].title != "Method":
        return table
    known = {series.label: summary.positions(series) for series in summary.series}
    columns = [table.columns[0], Column(TITLE, numeric=False), *table.columns[1:]]
    rows = [[row[0], cell(known.get(row[0].main, "")), *row[1:]] for row in table.rows]
    return replace(table, columns=columns, rows=rows)


def cell(kind: str) -> Cell:
    """How a row numbers, in a word."""
    shown = WORDS.get(kind, kind) or text.GAP
    return Cell(shown, tone="name" if kind else "gap", sort=shown)


def condition(summary: Summary) -> list[tuple[str, str]]:
    """For the box of conditions: who numbers how; nothing where nobody says."""
    found: dict[str, list[Series]] = {}
    for series in summary.series:
        found.setdefault(summary.positions(series), []).append(series)
    kinds = [kind for kind in WORDS if kind in found]
    if len(kinds) < 2:
        said = {"original": "original", "compact": "numbered anew"}
        return [("Position ids", said[kind]) for kind in kinds]
    parts = [f"{WORDS[kind]}: {text.series_names(found[kind])}" for kind in kinds]
    return [("Position ids", "; ".join(parts))]
