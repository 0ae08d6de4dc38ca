"""Methods against the controls that spend what they spend: ``controls.csv``, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from harness.store import columns
from methods import CONTROLS
from reports import text
from reports.cell import ALPHA, Series
from reports.csvio import Spec, read_table
from reports.section import Section
from reports.summary import Summary
from reports.tables import Cell, Column, Marks, Table, name_cell

FILE = Spec.of(
    columns.CONTROLS,
    "cell_id",
    "method",
    "bench",
    "control",
    "delta",
    "delta_ci_low",
    "delta_ci_high",
    "verdict",
)
WORDS = {"above": "▲ above", "not above": "≯ not above"}
RANDOM = "random"
MARK = "≯ random"
"""Beside the accuracy of a method that is not shown to beat ``random`` at its budget."""

TITLE = "Against the controls"
FOOTNOTE = (
    f"{MARK}: not above the random control at the same budget and numbering: not significantly "
    f"better after correction (Holm; see “{TITLE}”)."
)
INTRO = (
    "Method minus control on the same documents, each control at the method's own budget: the mean "
    "shares of the image's KV cache lie at most 1.5 points apart, and both number the tokens they "
    "keep alike. Blind keeps nothing and stands against every budget. Several rows of one control "
    "(seeds) are averaged document by document. “Above” is a better score with p below 0.05 after "
    "Holm's correction over all methods and benches of one control; the intervals are row by row, "
    "not corrected."
)


@dataclass(frozen=True)
class Rival:
    """A method against one control on one bench; the numbers are NaN without a matched row."""

    control_label: str
    rows: float
    kv: float
    n: float
    delta: float
    low: float
    high: float
    p_adjusted: float
    verdict: str

    @property
    def is_matched(self) -> bool:
        return not math.isnan(self.delta)


@dataclass
class Rivals:
    """What is known of every method; nothing where the file is missing or does not fit."""

    found: dict[tuple[Series, str, str], Rival] = field(default_factory=dict)

    def of(self, series: Series, bench: str, control: str) -> Rival | None:
        return self.found.get((series, bench, control))

    @property
    def marks(self) -> Marks:
        """``MARK`` on the cells that do not beat ``random``, for the tables of accuracies."""
        on = {
            (series, bench): MARK
            for (series, bench, control), rival in self.found.items()
            if control == RANDOM and rival.verdict == "not above"
        }
        return Marks(on, FOOTNOTE if on else "")


def load(summary: Summary) -> Rivals:
    """Read ``controls.csv``; what cannot be is left out with a notice."""
    notices = summary.run.notices
    frame = read_table(summary.run.path / FILE.name, FILE, notices)
    wrong = _impossible(frame)
    if wrong.any():
        notices.append(f"{FILE.name}: {int(wrong.sum())} line(s) that cannot be, left out.")
        frame = frame[~wrong]
    old = (frame["verdict"] == "above") & ~(frame["p_adjusted"] < ALPHA)
    if old.any():
        frame.loc[old, "verdict"] = "not above"
        notices.append(
            f"{FILE.name}: {int(old.sum())} line(s) say “above” without an adjusted p below "
            f"{ALPHA:g}; read as not above."
        )
    cells = {cell.cell_id: key for key, cell in summary.cells.items() if cell.status == "done"}
    rivals = Rivals()
    for row in frame.itertuples():
        key = cells.get(str(row.cell_id))
        if key is not None and key[1] == str(row.bench):
            rivals.found[*key, str(row.control)] = Rival(
                str(row.control_label), row.control_rows, row.kv_ratio_vision, row.n, row.delta,
                row.delta_ci_low, row.delta_ci_high, row.p_adjusted, str(row.verdict),
            )  # fmt: skip
    return rivals


def _impossible(frame: pd.DataFrame) -> pd.Series:
    """Rows that no run writes: a foreign word, a verdict without or against its numbers."""
    low, high, delta = frame["delta_ci_low"], frame["delta_ci_high"], frame["delta"]
    wrong = ~frame["control"].isin(CONTROLS) | ~frame["verdict"].isin(["", *WORDS])
    told = frame["verdict"].isin(list(WORDS))
    numbers = ["delta", "delta_ci_low", "delta_ci_high", "n", "p_adjusted"]
    wrong |= told & frame[numbers].isna().any(axis=1)
    return wrong | (delta < low) | (delta > high)


def missing_sentence(summary: Summary, rivals: Rivals) -> str:
    """Names the methods without a random row at their budget, and the flag that adds one."""
    lacking: dict[str, dict[str, float]] = {}
    for (series, bench, control), rival in rivals.found.items():
        if control == RANDOM and not rival.is_matched:
            lacking.setdefault(series.label, {})[bench] = rival.kv
    if not lacking:
        return ""
    places = {}
    for label, found in lacking.items():
        kv = sum(found.values()) / len(found)
        kept = "" if math.isnan(kv) else f" (keeps {text.percent(kv, 1)})"
        places[f"{label}{kept}"] = list(found)
    everywhere = {len(found) for found in places.values()} == {len(summary.benches)}
    names = text.listing(list(places)) if everywhere else text.by_method(places)
    return (
        f"No random row at the budget and numbering of {names}: whether chance would do as well is "
        "not known. The flag --controls adds random, uniform, pool and downsample at every budget "
        "that is known before the run, numbered alike; beside a method that lets the images "
        "decide, ask for random:kv=...:positions=... by name."
    )


def findings(rivals: Rivals) -> list[str]:
    """Which methods are not shown to beat chance at their budget."""
    places: dict[str, list[str]] = {}
    for series, bench in rivals.marks.on:
        places.setdefault(series.label, []).append(bench)
    return [f"Not above random at the same budget: {text.by_method(places)}."] if places else []


def section(summary: Summary, rivals: Rivals) -> Section | None:
    """The table and the sentence; None where nothing is known."""
    if not rivals.found:
        return None
    found, missing = table(summary, rivals), missing_sentence(summary, rivals)
    return Section(
        "controls", TITLE, missing, tables=(found,) if found else (), about=INTRO if found else ""
    )


def table(summary: Summary, rivals: Rivals) -> Table | None:
    """A row a method and bench, a column a control that any of them was compared with."""
    names = [
        c for c in CONTROLS if any(k[2] == c and r.is_matched for k, r in rivals.found.items())
    ]
    if not names:
        return None
    columns = [Column("Method", numeric=False), Column("Bench", numeric=False)]
    columns += [Column("n"), Column("KV cache", "vision tokens kept")]
    columns += [Column(f"Δ to {name}", "95 % CI, points; p adjusted") for name in names]
    rows = []
    for series in summary.series:
        for bench in summary.benches:
            found = {name: rivals.of(series, bench, name) for name in names}
            if any(rival and rival.is_matched for rival in found.values()):
                rows.append(_row(summary, series, bench, found))
    note = "A dash: no row of that control at this budget and numbering." if _has_gap(rows) else ""
    return Table("controls", TITLE, columns, rows, note, searchable=len(rows) > 12)


def _has_gap(rows: list[list[Cell]]) -> bool:
    return any(cell.main == text.GAP for row in rows for cell in row)


def _row(
    summary: Summary, series: Series, bench: str, found: Mapping[str, Rival | None]
) -> list[Cell]:
    matched = [rival for rival in found.values() if rival and rival.is_matched]
    mini = "mini" if summary.is_mini_bench(bench) else ""
    low, high = min(r.n for r in matched), max(r.n for r in matched)
    count = f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
    kv = matched[0].kv
    head = [name_cell(series), Cell(bench, note=mini, tone="name", sort=bench)]
    head += [Cell(count, sort=low), Cell(text.percent(kv, 1), sort=kv)]
    return head + [_cell(rival, text.factor(summary, bench)) for rival in found.values()]


def _cell(rival: Rival | None, unit: float) -> Cell:
    if rival is None or not rival.is_matched:
        return Cell(text.GAP, tone="gap")
    ci = text.interval(rival.low * unit, rival.high * unit, signed=True)
    p = rival.p_adjusted
    shown = "" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {text.number(p, 3)}"
    words = ", ".join(filter(None, (WORDS.get(rival.verdict, ""), shown)))
    note = f"mean of {rival.rows:.0f} rows" if rival.rows > 1 else ""
    shown = text.number(rival.delta * unit, signed=True)
    return Cell(shown, ci, words, note=note, sort=rival.delta)
