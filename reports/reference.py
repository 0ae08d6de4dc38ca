"""Published scores beside ours, from ``reference.csv``: nothing is judged here."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness.store import columns
from reports import text
from reports.csvio import Spec, read_table
from reports.rundata import Run
from reports.section import Section
from reports.summary import Summary
from reports.tables import Cell, Column, Table

FILE = Spec.of(columns.REFERENCE, "bench", "value", "source", "table", "label")
ANCHOR, TITLE = "reference", "Published scores beside ours"
SKIPPED = "skipped"
INTRO = (
    "Published figures in columns of their own. Ours stands beside one only where model, weights, "
    "method with its parameters, protocol, benchmark, metric and data are the same; where one of "
    "them differs, the row says which. Inside: the published value lies in our 95 % interval, "
    "which knows nothing of the error of theirs. Difference: ours to theirs."
)
SAID = {1.0: "inside", 0.0: "outside"}
LONG = 12


def load(run: Run) -> pd.DataFrame:
    """``reference.csv``; no rows where there is none."""
    frame = read_table(run.path / FILE.name, FILE, run.notices)
    return frame[frame["value"].notna()]


def section(summary: Summary) -> Section | None:
    """What stands beside a run that answered; None without a published row."""
    frame = load(summary.run)
    if not len(frame):
        return None
    name = repeated(summary.run)
    own = frame[frame["table"] == name]
    found = [
        _wide(own, summary.run) if len(own) else None,
        _long(frame[frame["ours"].notna()], "compared", "The same on both sides"),
    ]
    tables = tuple(table for table in found if table is not None)
    return Section(ANCHOR, TITLE, _said(frame, summary.run), tables=tables, about=INTRO)


def others(summary: Summary) -> Section | None:
    """Published rows of the run's model and benches that are not the same thing, folded."""
    frame = load(summary.run)
    rest = frame[frame["ours"].isna() & (frame["table"] != repeated(summary.run))]
    table = _long(rest, "unlike", "Published rows that are not the same")
    if table is None:
        return None
    return Section("unlike", "Further published scores", tables=(table,), folded=True, about=INTRO)


def _said(frame: pd.DataFrame, run: Run) -> str:
    """How many published values there are, and how many lie in our intervals."""
    judged = frame[frame["inside"].notna()]
    within = int((judged["inside"] == 1).sum())
    first = (
        f"Of {text.plural(len(frame), 'published value')}, {len(judged)} can be held against our "
        f"intervals: {within} lie inside."
    )
    if not len(judged):
        reason = frame["reason"].mode().iloc[0] if len(frame) else ""
        first = f"None of {text.plural(len(frame), 'published value')} can be held against ours"
        first += f" (most often: {reason})." if reason else "."
    out = [f"Left out: {line}." for line in run.get("published.left_out") or []]
    return " ".join([first, *out])


def repeated(run: Run) -> str:
    """The name of the published table that the run repeats or shows; empty without one."""
    return str(run.get("settings.printed", "published.name") or "")


def printed(run: Run) -> Table | None:
    """The table of a run that shows it as printed; None where there is none."""
    frame = load(run)
    own = frame[frame["table"] == repeated(run)]
    return _wide(own, run) if len(own) else None


def missing(run: Run) -> Table | None:
    """What was not here when the table should have been repeated, and what never can be."""
    lines = [str(line).partition(": ") for line in run.get("published.missing") or []]
    never = [str(line).partition(": ") for line in run.get("published.left_out") or []]
    lines += [(f"left out: {what}", "", why) for what, _, why in never]
    heads = [Column("Not here", numeric=False), Column("How to get it", numeric=False, prose=True)]
    rows = [[Cell(what, tone="name"), Cell(how or text.GAP)] for what, _, how in lines]
    return Table("missing", "Missing on this machine", heads, rows) if rows else None


def _wide(frame: pd.DataFrame, run: Run) -> Table:
    """A row a printed row, a column a printed column, ours below each value."""
    about = f"{run.get('published.paper')}, {run.get('published.table')}"
    name = about if run.get("published.paper") else repeated(run)
    keys = _columns(frame)
    costs = _costs(run)
    heads = [Column("Row", numeric=False), Column("Budget", "as printed", numeric=False)]
    heads += [_head(bench, metric) for bench, metric in keys]
    if costs:
        heads += [Column("TFLOPs", "ours, one rule"), Column("KV cache", "ours, one rule, %")]
    heads.append(Column("Why none is ours", numeric=False, prose=True))
    digits = {key: _decimals(_of(frame, key)["value"]) for key in keys}
    rows = []
    for label in frame["label"].unique():
        mine = frame[frame["label"] == label]
        row = [Cell(str(label), tone="name", sort=str(label))]
        row.append(Cell(str(mine["budget"].iloc[0]) or text.GAP))
        row += [_beside(_of(mine, key), digits[key]) for key in keys]
        if costs:
            found = costs.get(str(label), {})
            counted = [found.get(q, math.nan) for q in ("tflops", "kv")]
            row += [Cell(text.number(value, 2), sort=value) for value in counted]
        rows.append([*row, Cell(_reasons(mine) or text.GAP)])
    note = "Printed values; ours stands below one where it is the same thing."
    return Table("printed", f"As printed: {name}", heads, rows, note)


def _columns(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Bench and metric of every printed column, in the order of the rows that have the most."""
    rows = sorted((one for _, one in frame.groupby("label", sort=False)), key=len, reverse=True)
    return list(dict.fromkeys(k for r in rows for k in zip(r["bench"], r["metric"], strict=True)))


def _of(frame: pd.DataFrame, key: tuple[str, str]) -> pd.DataFrame:
    return frame[(frame["bench"] == key[0]) & (frame["metric"] == key[1])]


def _head(bench: str, metric: str) -> Column:
    plain = metric.partition(",")[0].replace("_", " ")
    return Column(bench.strip("()"), SKIPPED if metric.startswith(SKIPPED) else plain)


def _beside(found: pd.DataFrame, digits: int) -> Cell:
    if not len(found):
        return Cell(text.GAP, tone="gap")
    line = next(found.itertuples())
    value = text.number(line.value, digits)
    if math.isnan(line.ours):
        return Cell(value, sort=line.value)
    ours = f"ours {text.number(line.ours)}"
    ci = text.interval(line.ci_low, line.ci_high)
    return Cell(value, sub=ours, sub_ci=ci, note=SAID.get(line.inside, ""), sort=line.value)


def _reasons(frame: pd.DataFrame) -> str:
    """Why ours is empty in a row; what is said of means and skip shares is said of no bench."""
    benches = frame[~frame["bench"].str.startswith("(")]
    said = dict.fromkeys(str(reason) for reason in benches["reason"] if reason)
    return "; ".join(said)


def _costs(run: Run) -> dict[str, dict[str, float]]:
    """Ours under one rule, by row and quantity."""
    found: dict[str, dict[str, float]] = {}
    for line in run.published.itertuples():
        if not math.isnan(line.one_rule):
            found.setdefault(str(line.row), {})[str(line.quantity)] = line.one_rule
    return found


def _long(frame: pd.DataFrame, name: str, title: str) -> Table | None:
    """A row a published value."""
    if not len(frame):
        return None
    titles = ("Bench", "Published row", "Protocol", "Metric")
    heads = [Column(t, numeric=False) for t in titles]
    heads += [Column("Published"), Column("Ours", "95 % CI"), Column("Difference", "points")]
    heads += [Column("In our interval", numeric=False), Column("Source", numeric=False)]
    heads.append(Column("Remark", numeric=False, prose=True))
    rows = [_line(line) for line in frame.itertuples()]
    return Table(name, title, heads, rows, searchable=len(rows) > LONG)


def _line(line: Any) -> list[Cell]:
    ours = Cell(text.number(line.ours), text.interval(line.ci_low, line.ci_high), sort=line.ours)
    return [
        Cell(str(line.bench), tone="name", sort=str(line.bench)),
        Cell(str(line.label), sub=str(line.ours_label), sort=str(line.label)),
        Cell(str(line.protocol)),
        Cell(str(line.metric).partition(",")[0].replace("_", " ")),
        Cell(f"{line.value:g}", sort=line.value),
        ours,
        Cell(text.number(line.difference, signed=True), sort=line.difference),
        Cell(SAID.get(line.inside, text.GAP)),
        Cell(str(line.source)),
        Cell(str(line.reason) or text.GAP),
    ]


def _decimals(values: pd.Series) -> int:
    return max((len(f"{v:g}".partition(".")[2]) for v in values), default=0)
