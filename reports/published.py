"""A paper's cost table beside ours, from ``published.csv``: what it prints, and ours twice."""

from __future__ import annotations

import math
from typing import Any

from reports import text
from reports.rundata import Run
from reports.tables import Cell, Column, Table

COUNTED = {"tflops": 2, "kv": 2}
"""Quantities that the ledger counts, with the decimals of ours."""


def title(run: Run) -> str:
    """The section's heading: which table of which paper."""
    return f"Beside the paper: {run.get('published.table') or 'its own figures'}"


def intro(run: Run) -> str:
    """What the columns are, and what must be said of the whole table."""
    paper, about = run.get("published.paper"), run.get("published.title")
    first = f"{paper}: {about}. " if paper and about else ""
    notes = " ".join(str(note) for note in run.get("published.notes") or [])
    return (first + READING + notes).strip()


READING = (
    "Prefill of one prompt. The paper's rule gives its own figure again; one rule counts every row "
    "alike: the same prompt, causal attention, the LM head on the last position. Differences are "
    "ours to the paper's. "
)


def comparison(run: Run) -> Table | None:
    """One row a row of the paper's table: FLOPs and KV cache; None where the paper counts none."""
    frame = run.published[run.published["quantity"].isin(list(COUNTED))]
    if frame["paper_value"].isna().all():
        return None
    columns = [Column("Row", numeric=False), Column("TFLOPs", "paper")]
    columns += [Column("TFLOPs", "ours, the paper's rule"), Column("TFLOPs", "ours, one rule")]
    columns += [Column("KV cache", "paper, %"), Column("KV cache", "ours, the paper's rule, %")]
    columns += [Column("KV cache", "ours, one rule, %"), Column("Counted with", numeric=False)]
    columns.append(Column("Remark", numeric=False))
    rows = []
    for name in frame["row"].unique():
        lines = {str(line.quantity): line for line in frame[frame["row"] == name].itertuples()}
        row = [Cell(str(name), tone="name", sort=str(name))]
        for quantity, digits in COUNTED.items():
            row += _three(lines.get(quantity), digits)
        first = next(iter(lines.values()))
        rows.append([*row, Cell(str(first.setting) or text.GAP), Cell(_remark(lines) or text.GAP)])
    return Table("published", "Beside the paper", columns, rows) if rows else None


def measured(run: Run) -> Table | None:
    """The paper's own measurements, which nothing here repeats; None when it has none."""
    frame = run.published[~run.published["quantity"].isin(list(COUNTED))]
    titles = ("Row", "Figure", "Unit", "Measured on", "Remark")
    columns = [Column(t, numeric=False) for t in titles]
    columns.insert(2, Column("Paper"))
    rows = []
    for line in frame.itertuples():
        value = Cell(_plain(line.paper_value), sort=line.paper_value)
        words = [Cell(str(w) or text.GAP) for w in (line.unit, line.hardware, line.note)]
        rows.append([Cell(str(line.row), tone="name"), Cell(str(line.quantity)), value, *words])
    return Table("measured", "Measured by the paper", columns, rows) if rows else None


def _three(line: Any, digits: int) -> list[Cell]:
    """The paper's figure, ours under its rule and ours under one rule."""
    if line is None:
        return [Cell(text.GAP)] * 3
    unit = "points" if line.difference_unit == "points" else "%"
    cells = [Cell(_plain(line.paper_value), sort=line.paper_value)]
    for value, difference in (
        (line.paper_rule, line.paper_rule_difference),
        (line.one_rule, line.one_rule_difference),
    ):
        away = "" if math.isnan(difference) else f"{text.number(difference, 2, signed=True)} {unit}"
        cells.append(Cell(text.number(value, digits), sub=away, sort=value))
    return cells


def _plain(value: float) -> str:
    return text.GAP if math.isnan(value) else f"{value:g}"


def _remark(lines: dict[str, Any]) -> str:
    """The row's note, and why a figure of it cannot be had."""
    said = [str(line.note) for line in lines.values() if line.note]
    names = {"tflops": "TFLOPs", "kv": "KV"}
    said += [
        f"{names[quantity]} not reproducible: {line.reason}."
        for quantity, line in lines.items()
        if line.reason
    ]
    return " ".join(dict.fromkeys(said))
