"""A comparison of two runs for the terminal and as Markdown."""

from __future__ import annotations

import math
import os
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from harness.common.console import Console
from reports import markdown, text
from reports.diff import Diff, Row, compare
from reports.errors import ReportError
from reports.files import write

TITLES = ("Method", "Bench", "A", "B", "B − A", "p", "n", "Cost B/A", "Remark")
LEGEND = (
    "B − A in points with its 95 % interval, paired on n shared documents; p is corrected over all "
    "rows (Holm); bold is significant and nothing else. Cost is the prefill's FLOPs."
)
SAME = "No recorded condition differs."


def show_diff(a: Path, b: Path, out: Path | None = None) -> None:
    """Print the comparison; with ``out`` write it as Markdown too: a file NAME.md, or a folder.

    Raises:
        ReportError: the runs cannot be compared, or the file cannot be written.
    """
    if out is not None and (out.is_dir() or out.suffix.lower() not in (".md", ".markdown")):
        if not out.is_dir() and (out.exists() or out.suffix[1:].isalpha()):
            raise ReportError(f"--out: {out} is neither a folder nor a Markdown file (NAME.md).")
        out = out / "diff.md"
    found = compare(a, b)
    if out is not None:
        try:
            write(out, page(found))
        except OSError as error:
            raise ReportError(f"cannot write {out}: {error.strerror or error}") from error
    # A file or a pipe has no width of its own: never cut a row there.
    console = Console(width=None if os.isatty(1) else 200)
    console.print(f"A  {a}\nB  {b}\n", markup=False, highlight=False)
    for line in _conditions(found):
        console.print(line, markup=False, highlight=False)
    table = Table(box=SIMPLE_HEAD)
    for i, title in enumerate(TITLES):
        table.add_column(title, justify="right" if 2 <= i <= 7 else "left")
    for row in found.rows:
        cells = [escape(cell) for cell in _cells(row, _scale(found, row.bench))]
        if row.significant:
            cells[4] = f"[bold]{cells[4]}[/bold]"
        table.add_row(*cells)
    console.print(table)
    for line in [LEGEND, *_rest(found)]:
        console.print(line, markup=False, highlight=False)


def page(found: Diff) -> str:
    """The same as a Markdown page."""
    lines = [f"# {markdown.escape(found.a.name)} (A) and {markdown.escape(found.b.name)} (B)", ""]
    lines += [*(f"- {markdown.escape(line.strip())}" for line in _conditions(found)), ""]
    lines += [f"| {' | '.join(TITLES)} |", "| --- | --- |" + " ---: |" * 6 + " --- |"]
    for row in found.rows:
        cells = [markdown.escape(cell) for cell in _cells(row, _scale(found, row.bench))]
        if row.significant:
            cells[4] = f"**{cells[4]}**"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", LEGEND, *(f"\n{markdown.escape(line)}" for line in _rest(found)), ""]
    )


def _conditions(found: Diff) -> list[str]:
    if not found.conditions:
        return [SAME]
    head = "Conditions that differ (differences below are not only differences of the methods):"
    return [head, *(f"  {name}: {one} → {other}" for name, one, other in found.conditions)]


def _scale(found: Diff, bench: str) -> float:
    values = [abs(v) for r in found.rows if r.bench == bench for v in (r.a, r.b)]
    known = [v for v in values if not math.isnan(v)]
    return 100.0 if known and max(known) <= 1 else 1.0


def _cells(row: Row, unit: float) -> list[str]:
    ci = text.interval(row.low * unit, row.high * unit, signed=True)
    delta = " ".join(filter(None, (text.number(row.delta * unit, signed=True), ci)))
    if row.significant:
        delta = f"{'▲' if row.delta > 0 else '▼'} {delta}"
    p = "< 0.001" if row.p_adjusted < 0.001 else text.number(row.p_adjusted, 3)
    count = str(row.shared) if row.shared else text.GAP
    return [
        row.label, row.bench, text.number(row.a * unit), text.number(row.b * unit), delta, p,
        count, text.number(row.cost_ratio, 3), row.remark,
    ]  # fmt: skip


def _rest(found: Diff) -> list[str]:
    lines = [
        f"Only in {name}: {', '.join(cells)}."
        for name, cells in (("A", found.only_a), ("B", found.only_b))
        if cells
    ]
    return lines + [f"Notice, {said}" for said in found.notices]
