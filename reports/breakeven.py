"""Where a method beats dense end to end: image tokens by batch by answer length, in one chart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from reports import grid, labels, text
from reports.cell import Series
from reports.heatmap import COLOURS
from reports.ranktable import name_cell
from reports.sheet import Drawn, Sheet
from reports.summary import Summary
from reports.tables import Cell, Column, Table
from reports.timing import Board, Timed, conditions

MARKS = {"faster": "▲ ", "slower": "▼ "}
MOST_ROWS, MOST_NAMES = 40, 6
WIDTH, HEIGHT = 0.74, 0.26  # inches of a cell
SIDE_BY_SIDE = 6  # columns of panels that a page has room for beside each other
HEADER = ("model", "label", "n_image", "batch", "n_out", "n_text", "speedup", "ci_low") + (
    "ci_high", "status",
)  # fmt: skip

Setting = tuple[float, float, float]
"""Batch, new tokens, text tokens: what stays while image tokens grow."""


def sizes(board: Board) -> dict[str, Timed]:
    """Workload to one of its rows, which has its sizes."""
    return {work: board.of(work)[0] for work in board.works}


def is_map(board: Board) -> bool:
    """Whether there is more than one workload of different size to compare."""
    return len({(e.n_image, e.batch, e.n_out) for e in sizes(board).values()}) > 1


def settings(board: Board) -> dict[Setting, list[tuple[float, str]]]:
    """Setting to its workloads by image tokens."""
    found: dict[Setting, list[tuple[float, str]]] = {}
    for work, one in sizes(board).items():
        found.setdefault((one.batch, one.n_out, one.n_text), []).append((one.n_image, work))
    return {setting: sorted(places) for setting, places in sorted(found.items())}


@dataclass(frozen=True)
class Crossing:
    """Between which measured numbers of image tokens a method starts to pay; None: no such end."""

    above: float | None
    """The largest number at which it is not (surely) faster yet."""
    upto: float | None
    """The smallest number from which on every larger one measured is faster."""

    def __str__(self) -> str:
        if self.upto is None:
            return f"> {self.above:.0f} (largest measured)"
        if self.above is None:
            return f"≤ {self.upto:.0f} (smallest measured)"
        return f"> {self.above:.0f}, ≤ {self.upto:.0f}"


def crossing(row: list[tuple[float, str]]) -> Crossing:
    """Where a method starts to pay, of image tokens with verdicts, as far as was measured."""
    row = sorted(row)
    above = max((n for n, word in row if word != "faster"), default=None)
    upto = next((n for n, _ in row if above is None or n > above), None)
    return Crossing(above, upto)


def table(board: Board) -> Table | None:
    """Break-even by batch and answer length; None unless image tokens vary where these do not."""
    grown = {s: places for s, places in settings(board).items() if len(places) > 1}
    if not grown:
        return None
    texts = len({n_text for _, _, n_text in grown}) > 1
    columns = [Column("Method", numeric=False)]
    for batch, n_out, n_text in grown:
        unit = f"{text.number(n_out, 0)} new tokens"
        unit += f", {text.number(n_text, 0)} of text" if texts else ""
        columns.append(Column(f"Batch {text.number(batch, 0)}", unit))
    rows = []
    for series in board.methods:
        row = [name_cell(series)]
        for places in grown.values():
            known = [(n, word) for n, work in places if (word := _verdict(board.get(series, work)))]
            if not known:
                row.append(Cell(text.GAP))
                continue
            found = crossing(known)
            row.append(Cell(str(found), sort=math.inf if found.upto is None else found.upto))
        rows.append(row)
    return Table("breakeven", "Break-even", columns, rows, NOTE)


def _verdict(entry: Timed | None) -> str:
    whole = entry.whole if entry else None
    return whole.verdict if whole else ""


def finding(board: Board) -> str:
    """Which methods are faster in every place measured, in some, in none; controls left out."""
    groups: dict[str, list[str]] = {"every": [], "some": [], "none": []}
    gains: list[Timed] = []
    for series in board.methods:
        known = [e for work in board.works if (e := board.get(series, work)) and _verdict(e)]
        if not known or series.is_control:
            continue
        fast = [e for e in known if _verdict(e) == "faster"]
        name = series.short or series.label
        if len(fast) == len(known) == len(board.works):
            gains += fast
            groups["every"].append(name)
        elif fast:
            groups["some"].append(f"{name} ({len(fast)} of {len(known)})")
        else:
            groups["none"].append(name)
    parts = []
    if groups["every"]:
        least = _at(board, min(gains, key=lambda e: e.speedup))
        parts.append(f"everywhere measured {_cut(groups['every'])} (at least {least})")
    if groups["some"]:
        parts.append(f"in some places {_cut(groups['some'])}")
    if groups["none"]:
        parts.append(f"nowhere {_cut(groups['none'])}")
    return f"Faster than dense: {'; '.join(parts)}." if parts else ""


def _cut(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return text.listing([*names[:MOST_NAMES], f"{more} more"] if more > 0 else names)


def _at(board: Board, entry: Timed) -> str:
    name = entry.series.short or entry.series.label
    return f"{name} on {board.names[entry.workload]}: {entry.phases['end_to_end'].gain}"


def draw(summary: Summary, board: Board, folder: Path, mark: bool | str) -> Drawn | None:
    """One panel an answer length, rows best first; None for workloads of one size."""
    rows = [r for r in board.methods if any(_known(board, r, w) for w in board.works)]
    if not is_map(board) or not rows:
        return None
    shown = rows[:MOST_ROWS]
    panels: dict[float, list[str]] = {}
    for (_, n_out, _), places in settings(board).items():
        panels.setdefault(n_out, []).extend(work for _, work in places)
    left, row = labels.inches([r.short or r.label for r in shown])
    most = max(map(len, panels.values()))
    sheet = Sheet(
        "breakeven", len(panels), width=left + 0.2 + max(2.4, WIDTH * most),
        height=0.85 + max(HEIGHT, row) * len(shown),
        columns=1 if most > SIDE_BY_SIDE else min(3, len(panels)),
    )  # fmt: skip
    limit = _limit(board, shown)
    alts = []
    for n_out, works in sorted(panels.items()):
        axes = sheet.panel(f"{text.plural(int(n_out), 'new token')}", mark, covered=True)
        _panel(axes, summary, board, shown, works, limit)
        faster = [_at(board, e) for r in shown for w in works
                  if (e := board.get(r, w)) and _verdict(e) == "faster"]  # fmt: skip
        alts.append(f"{n_out:.0f} new tokens, faster than dense: {'; '.join(faster) or 'none'}.")
    entries = list(board.at.values())
    more = len(rows) - len(shown)
    caption = (
        "Speed-up over dense, end to end, by image tokens and batch. ▲ and blue: faster beyond "
        "the 95 % interval; ▼ and orange: slower; plain: the interval contains 1. "
        f"{conditions(entries)}."
    ) + (f" {text.plural(more, 'row')} more in the CSV." if more else "")
    lines: list[list[object]] = [[*HEADER]]
    lines += [_line(summary, board, r, w) for r in rows for w in board.works]
    return sheet.save(folder, "Where a method beats dense", caption, alts, lines)


def _known(board: Board, series: Series, work: str) -> bool:
    entry = board.get(series, work)
    return entry is not None and not math.isnan(entry.speedup)


def _limit(board: Board, rows: list[Series]) -> float:
    """The end of the scale, in doublings: methods set it, controls would leave them no colour."""
    chosen = [r for r in rows if not r.is_control] or rows
    gains = [e.speedup for r in chosen for w in board.works if (e := board.get(r, w))]
    return max([0.1, *(abs(math.log2(g)) for g in gains if g > 0)])


def _panel(
    axes: Axes, summary: Summary, board: Board, rows: list[Series], works: list[str], limit: float
) -> None:
    values, words = np.full((len(rows), len(works)), np.nan), []
    for y, series in enumerate(rows):
        words.append([_word(summary, board, series, work) for work in works])
        for x, work in enumerate(works):
            entry = board.get(series, work)
            if entry is not None and not math.isnan(entry.speedup):
                settled = _verdict(entry) in MARKS
                values[y, x] = math.log2(entry.speedup) if settled else 0.0
    one = sizes(board)
    columns = [_place(one[work]) for work in works]
    names = [r.short or r.label for r in rows]
    grid.draw(axes, values, names, columns, words, COLOURS, (-limit, limit))


def _place(entry: Timed) -> str:
    """Two lines below a column: image tokens (or the bench) and batch."""
    image = f"{entry.bench} {text.number(entry.n_image, 0)}".strip()
    return f"{image}\nbatch {text.number(entry.batch, 0)}"


def _word(summary: Summary, board: Board, series: Series, work: str) -> str:
    entry = board.get(series, work)
    if entry is None or math.isnan(entry.speedup):
        return "failed" if summary.cell(series, work).status == "failed" else "not timed"
    return MARKS.get(_verdict(entry), "") + text.number(entry.speedup, 2)


def _line(summary: Summary, board: Board, series: Series, work: str) -> list[object]:
    size, entry = sizes(board)[work], board.get(series, work)
    head = [series.model, series.label, size.n_image, size.batch, size.n_out, size.n_text]
    if entry is None or math.isnan(entry.speedup):
        return [*head, "", "", "", _word(summary, board, series, work)]
    whole = entry.phases["end_to_end"]
    numbers = (whole.speedup, whole.speedup_low, whole.speedup_high)
    return [*head, *("" if math.isnan(v) else v for v in numbers), _verdict(entry) or "timed"]


NOTE = (
    "Image tokens from which on the method is faster than dense end to end, between the two "
    "measured numbers named: the whole 95 % interval of the speed-up lies above 1 at the upper "
    "one and at every larger one, and not at the lower one."
)
