"""The figure beside the first table of times: what was measured, and what FLOPs promise."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from reports import labels, text
from reports.cell import Series
from reports.sheet import Drawn, Sheet
from reports.style import HUES, INK, MARKERS
from reports.timing import Board, Timed, conditions

MOST_ROWS = 30
HEADER = ("workload", "model", "label", "median_ms", "speedup", "ci_low", "ci_high") + (
    "flops_ratio", "realisation",
)  # fmt: skip


def draw(board: Board, folder: Path, mark: bool | str) -> Drawn | None:
    """One panel, rows best first; None where nothing has a speed-up."""
    rows = [row for row in board.methods if _known(board, row, board.works)]
    if not rows:
        return None
    works, shown = board.telling, rows[:MOST_ROWS]
    _, row = labels.inches([r.short or r.label for r in shown])
    height = max(row, 0.12 + 0.12 * len(works))
    sheet = Sheet("speedup", 1, width=4.4, height=0.8 + 0.19 * len(works) + height * len(shown),
                  columns=1)  # fmt: skip
    axes = sheet.panel("", mark)
    _points(axes, board, [r.short or r.label for r in shown], shown, works)
    entries = [e for row in shown for e in _known(board, row, works)]
    said = "; ".join(f"{e.series.label} on {board.names[e.workload]}: {_gain(e)}" for e in entries)
    caption = (
        "Speed-up of the whole call over dense with its 95 % interval, rows best first. Upright "
        "stroke: the FLOPs ratio, which it would reach if all of the saving became time. "
        f"{conditions(entries)}."
    )
    left = len(board.works) - len(works), len(rows) - len(shown)
    more = [text.plural(n, noun) for n, noun in zip(left, ("workload", "row"), strict=True) if n]
    caption += f" {text.listing(more)} more in the table." if more else ""
    table: list[list[object]] = [[*HEADER]]
    table += [_line(e) for row in rows for e in _known(board, row, board.works)]
    title = "Speed-up over dense, end to end"
    return sheet.save(folder, title, caption, [f"{said}."], table)


def _known(board: Board, series: Series, works: list[str]) -> list[Timed]:
    found = (board.get(series, work) for work in works)
    return [e for e in found if e is not None and not math.isnan(e.speedup)]


def _points(
    axes: Axes, board: Board, names: list[str], rows: list[Series], works: list[str]
) -> None:
    told = [board.names[work] for work in works]
    gains, ratios = [], []
    for name, row in zip(names, rows, strict=True):
        for entry in _known(board, row, works):
            whole, work = entry.phases["end_to_end"], board.names[entry.workload]
            # Its median is the value and its range the interval: seaborn draws those of data only.
            values = (whole.speedup, whole.speedup_low, whole.speedup_high)
            gains += [(name, work, entry.speedup if math.isnan(v) else v) for v in values]
            ratios.append((name, work, whole.flops_ratio))
    look = {
        "x": "value", "y": "row", "hue": "work", "order": names, "hue_order": told, "ax": axes,
        "palette": list(HUES[: len(works)]), "linestyle": "none", "estimator": "median",
        "dodge": 0.25 * (len(works) - 1),
    }  # fmt: skip
    columns = ["row", "work", "value"]
    sns.pointplot(pd.DataFrame(ratios, columns=columns), markers="|", errorbar=None, legend=False,
                  markersize=9, markeredgewidth=1.2, **look)  # fmt: skip
    sns.pointplot(pd.DataFrame(gains, columns=columns), markers=list(MARKERS[: len(works)]),
                  errorbar=("pi", 100), markersize=4.5, err_kws={"linewidth": 1.6},
                  legend=len(works) > 1, **look)  # fmt: skip
    axes.axvline(1.0, color=INK, linewidth=0.8, zorder=0)
    axes.set(xlabel="Speed-up over dense, end to end (×)", ylabel="")
    axes.grid(visible=False, axis="y")
    if len(works) > 1:
        sns.move_legend(axes, "lower left", bbox_to_anchor=(0, 1), title=None, frameon=False)


def _gain(entry: Timed) -> str:
    return entry.phases["end_to_end"].gain


def _line(entry: Timed) -> list[object]:
    whole = entry.phases["end_to_end"]
    numbers = [whole.median, whole.speedup, whole.speedup_low, whole.speedup_high]
    numbers += [whole.flops_ratio, whole.realisation]
    shown = ["" if math.isnan(n) else n for n in numbers]
    return [entry.workload, entry.series.model, entry.series.label, *shown]
