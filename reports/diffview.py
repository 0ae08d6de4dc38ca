"""A comparison of two runs for the terminal and as Markdown: what is settled, then the tables."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from harness.common.console import Console
from reports import markdown, text
from reports.diff import Condition, Diff, Row, compare
from reports.errors import ReportError
from reports.files import write
from reports.versus import Versus

SAME = "No recorded condition differs."
MINI = "Numbers on mini data."
MOST = 3  # conditions of other cells that are named before the rest is counted


@dataclass(frozen=True)
class Sheet:
    """One table: a row that is settled is bold in the column of the difference."""

    titles: tuple[str, ...]
    right: range
    """Columns of numbers."""
    rows: list[tuple[list[str], bool]]
    legend: str
    difference: int


def show_diff(a: Path, b: Path, out: Path | None = None, against: Sequence[str] = ()) -> None:
    """Print the comparison; with ``out`` write it as Markdown too: a file NAME.md, or a folder.

    Raises:
        ReportError: the runs cannot be compared, or the file cannot be written.
    """
    if out is not None and (out.is_dir() or out.suffix.lower() not in (".md", ".markdown")):
        if not out.is_dir() and (out.exists() or out.suffix[1:].isalpha()):
            raise ReportError(f"--out: {out} is neither a folder nor a Markdown file (NAME.md).")
        out = out / "diff.md"
    found = compare(a, b, against)
    if out is not None:
        try:
            write(out, page(found))
        except OSError as error:
            raise ReportError(f"cannot write {out}: {error.strerror or error}") from error
    # A file or a pipe has no width of its own: never cut a row there.
    console = Console(width=None if os.isatty(1) else 200)

    def say(lines: Sequence[str]) -> None:
        for line in lines:
            console.print(line, markup=False, highlight=False)

    say([f"A  {a}", f"B  {b}", "", *sentences(found), "", *_conditions(found)])
    for sheet in sheets(found):
        table = Table(box=SIMPLE_HEAD)
        for i, title in enumerate(sheet.titles):
            table.add_column(title, justify="right" if i in sheet.right else "left")
        for row, settled in sheet.rows:
            cells = [escape(cell) for cell in row]
            if settled:
                cells[sheet.difference] = f"[bold]{cells[sheet.difference]}[/bold]"
            table.add_row(*cells)
        console.print(table)
        say([sheet.legend])
    say([*_aside(found), *_rest(found)])


def page(found: Diff) -> str:
    """The same as a Markdown page."""
    lines = [f"# {markdown.escape(found.a.name)} (A) and {markdown.escape(found.b.name)} (B)", ""]
    lines += [*(f"- {markdown.escape(line)}" for line in sentences(found)), ""]
    lines += [*(f"- {markdown.escape(line.strip())}" for line in _conditions(found)), ""]
    for sheet in sheets(found):
        align = (" ---: |" if i in sheet.right else " --- |" for i in range(len(sheet.titles)))
        lines += [f"| {' | '.join(sheet.titles)} |", "|" + "".join(align)]
        for row, settled in sheet.rows:
            cells = [markdown.escape(cell) for cell in row]
            if settled:
                cells[sheet.difference] = f"**{cells[sheet.difference]}**"
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", sheet.legend, ""]
    if found.aside:
        lines += ["<details><summary>Conditions of cells that are not compared</summary>", ""]
        lines += [f"- {markdown.escape(_said(one))}" for one in found.aside]
        lines += ["", "</details>", ""]
    return "\n".join([*lines, *(f"{markdown.escape(line)}\n" for line in _rest(found))])


# --- what is settled -------------------------------------------------------------------------
def sentences(found: Diff) -> list[str]:
    """One line each for what moved between the runs and for every row against the others."""
    moved = [
        f"{row.label} on {row.bench}: B is {_by(row.delta, row.low, row.high, _scale(found, row))} "
        f"{'above' if row.delta > 0 else 'below'} A."
        for row in found.rows
        if row.significant
    ]
    if not moved and any(not math.isnan(row.p_adjusted) for row in found.rows):
        moved = ["No cell of both runs moved beyond chance."]
    lines = [MINI] if found.mini else []
    return [*lines, *moved, *_against(found.versus)]


def _against(rows: Sequence[Versus]) -> Iterator[str]:
    """A row's sentences: benches where something is settled, then the others together."""
    for one in dict.fromkeys(row.one for row in rows):
        mine = [row for row in rows if row.one == one]
        alike = [row for row in mine if row.verdict]
        if not alike:
            yield f"{one} has another KV budget than {_names(mine)}: differences below, no verdict."
            continue
        open_: dict[str, list[str]] = {}
        for bench in dict.fromkeys(row.bench for row in alike):
            here = [row for row in alike if row.bench == bench]
            rest = [row for row in here if not row.settled]
            if len(rest) == len(here):
                open_.setdefault(_names(rest), []).append(bench)
                continue
            told = [
                f"{verb} {text.listing([_one(row) for row in here if row.verdict == verdict])}"
                for verb, verdict in (("beats", "better"), ("loses to", "worse"))
                if any(row.verdict == verdict for row in here)
            ]
            more = f"; not separable from {_names(rest)}" if rest else ""
            yield f"{one} {' and '.join(told)} on {bench} at the same KV{more}."
        for names, benches in open_.items():
            yield f"{one} is not separable from {names} on {text.listing(benches)} at the same KV."


def _one(row: Versus) -> str:
    return f"{row.other} by {_by(row.delta, row.low, row.high, row.unit)}"


def _by(delta: float, low: float, high: float, unit: float) -> str:
    """How far apart, without its sign, with the interval on the same side."""
    if delta < 0:
        delta, low, high = -delta, -high, -low
    return f"{text.number(delta * unit)} {text.interval(low * unit, high * unit)}".strip()


def _names(rows: Sequence[Versus]) -> str:
    return text.listing(list(dict.fromkeys(row.other for row in rows)))


# --- conditions and tables -------------------------------------------------------------------
def _conditions(found: Diff) -> list[str]:
    if not found.conditions:
        return [SAME]
    head = "Conditions that differ (differences below are not only differences of the methods):"
    return [head, *(f"  {_said(one)}" for one in found.conditions)]


def _said(one: Condition) -> str:
    return f"{one[0]}: {one[1]} → {one[2]}"


def _scale(found: Diff, row: Row) -> float:
    values = [abs(v) for r in found.rows if r.bench == row.bench for v in (r.a, r.b)]
    known = [v for v in values if not math.isnan(v)]
    return 100.0 if known and max(known) <= 1 else 1.0


def sheets(found: Diff) -> list[Sheet]:
    """The cells of both runs, then method against method; a table without rows is absent."""
    a, b = (f"{name}: {p}" if p else name for name, p in zip("AB", found.protocols, strict=True))
    same = Sheet(
        ("Method", "Bench", a, b, "B − A", "p", "n", "Cost B/A", "Remark"),
        range(2, 8),
        [(_cells(row, _scale(found, row)), row.significant) for row in found.rows],
        "B − A in points with its 95 % interval, paired on n shared documents; p is corrected over "
        "all rows (Holm); bold is significant and nothing else. Cost is the prefill's FLOPs.",
        4,
    )
    other = Sheet(
        ("Row", "Against", "Bench", "Row − against", "p", "n", "KV", "Verdict", "Remark"),
        range(3, 7),
        [(_versus(row), row.settled) for row in sorted(found.versus, key=_order)],
        "Row − against in points with its 95 % interval, paired on n documents, images drawn "
        "whole. KV is what each keeps of the image's cache; p (Holm over these pairs) and the "
        "verdict stand where both keep as much, within 1.5 points.",
        3,
    )
    return [sheet for sheet in (same, other) if sheet.rows]


def _cells(row: Row, unit: float) -> list[str]:
    delta = _delta(row.delta, row.low, row.high, unit, row.significant)
    count = str(row.shared) if row.shared else text.GAP
    return [
        row.label, row.bench, text.number(row.a * unit), text.number(row.b * unit), delta,
        _p(row.p_adjusted), count, text.number(row.cost_ratio, 3), row.remark,
    ]  # fmt: skip


def _versus(row: Versus) -> list[str]:
    delta = _delta(row.delta, row.low, row.high, row.unit, row.settled)
    kv = f"{text.percent(row.kv)}, {text.percent(row.kv_other)}"
    remark = row.remark or ("" if row.comparable else "other budget")
    return [
        row.one, row.other, row.bench, delta, _p(row.p_adjusted),
        str(row.n) if row.n else text.GAP, kv, row.verdict, remark,
    ]  # fmt: skip


def _order(row: Versus) -> bool:
    return not row.comparable  # what has a verdict comes first


def _delta(delta: float, low: float, high: float, unit: float, settled: bool) -> str:
    ci = text.interval(low * unit, high * unit, signed=True)
    shown = " ".join(filter(None, (text.number(delta * unit, signed=True), ci)))
    return f"{'▲' if delta > 0 else '▼'} {shown}" if settled else shown


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else text.number(value, 3)


def _aside(found: Diff) -> list[str]:
    """One line for the terminal, which folds nothing."""
    names = list(dict.fromkeys(one[0].split(".")[0] for one in found.aside))
    more = [f"{len(names) - MOST} more"] if len(names) > MOST else []
    shown = text.listing([*names[:MOST], *more])
    return [f"Conditions of cells that are not compared, left out: {shown}."] if names else []


def _rest(found: Diff) -> list[str]:
    lines = [
        f"Only in {name}: {', '.join(cells)}."
        for name, cells in (("A", found.only_a), ("B", found.only_b))
        if cells
    ]
    return lines + [f"Notice, {said}" for said in found.notices]
