"""The table a run ends with in the terminal: headline metric of every cell, difference to dense."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from harness.options.runtime import DENSE
from harness.options.workload import is_workload
from harness.store.tables import read_rows

MARKS = {"better": "+", "worse": "−", "non-inferior": "=", "inconclusive": "?"}
SAME = "≡"
LEGEND = (
    "difference to dense: + better, − worse, = not worse by the margin, ? cannot tell, "
    f"{SAME} the same answers"
)


def summary_table(run_dir: Path) -> Table:
    """Methods by benches, from accuracy.csv and cells.csv. Shares are in percent."""
    rows = [row for row in read_rows(run_dir / "accuracy.csv") if row["headline"] == "1"]
    scores = {(row["label"], row["bench"]): row for row in rows}
    cells = [r for r in read_rows(run_dir / "cells.csv") if not is_workload(r["bench"])]
    failed = {(r["label"], r["bench"]) for r in cells if r["status"] == "failed"}
    labels = dict.fromkeys([r["label"] for r in rows] + [label for label, _ in failed])
    benches = dict.fromkeys([r["bench"] for r in rows] + [bench for _, bench in failed])
    shares = {b: all(float(r["value"]) <= 1 for r in rows if r["bench"] == b) for b in benches}
    numbered = {row["label"]: row["positions"] for row in rows}
    kinds = set(numbered.values()) - {""}
    table = Table(box=SIMPLE_HEAD)
    table.add_column("method")
    if len(kinds) > 1:  # numbering alone can move an accuracy: compare rows that number alike
        table.add_column("positions")
    for bench in benches:
        table.add_column(f"{bench}, %" if shares[bench] else bench, justify="right")
    for label in labels:
        texts = []
        for bench in benches:
            row = scores.get((label, bench))
            missing = "failed" if (label, bench) in failed else ""
            texts.append(missing if row is None else score_text(row, 100 if shares[bench] else 1))
        table.add_row(label, *([numbered.get(label, "")] if len(kinds) > 1 else []), *texts)
    return table


def score_text(row: Mapping[str, str], scale: int) -> str:
    """`74.2 (−1.3 ?)`: value, difference and the verdict's mark; dense has the value only.

    A row that missed its budget has what was asked and what came in the place of the mark.
    """
    text = f"{float(row['value']) * scale:.1f}"
    if row["method"] == DENSE or not row["delta"]:
        return text
    same = row["same_answers"] == (row["n_paired"] or row["n"]) and float(row["delta"]) == 0
    mark = SAME if same else MARKS.get(row["verdict"], "")
    if row["budget_within"] == "0":
        digits = "g" if row["budget_unit"] == "tokens" else ".3g"
        asked, got = (format(float(row[name]), digits) for name in ("budget_asked", "budget_met"))
        mark = f"asked {asked}, got {got}"
    delta = f"{float(row['delta']) * scale:+.1f}".replace("-", "−")
    return f"{text} ({' '.join((delta, mark)).strip()})"
