"""The figure beside the first table: every row's average with its interval, best first."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import seaborn as sns

from methods import BLIND, REFERENCE
from reports import text
from reports.ranking import Ranked, Ranking
from reports.sheet import Drawn, Sheet
from reports.style import CONTROL, INK, Palette
from reports.summary import Summary

HEADER = ("model", "label", "value", "ci_low", "ci_high", "kv", "delta", "delta_ci_low") + (
    "delta_ci_high", "verdict",
)  # fmt: skip
MOST = 40
"""More rows than a figure can name: the table has all."""


def draw(summary: Summary, ranking: Ranking, folder: Path, palette: Palette) -> Drawn | None:
    """One panel; None where fewer than two rows have an average."""
    rows = [r for r in ranking.rows if r.complete and not math.isnan(_value(summary, r)[0])][:MOST]
    if len(rows) < 2:
        return None
    longest = max(len(r.series.short) for r in rows)
    left = min(1.9, 0.3 + 0.068 * longest)
    sheet = Sheet("ranking", 1, width=4.2, height=0.75 + 0.26 * len(rows),
                  bottom=0.45, top=0.3, left=left, columns=1)  # fmt: skip
    mini = summary.is_mini_model or any(summary.is_mini_bench(b) for b in summary.benches)
    axes = sheet.panel("", mini)
    names = [r.series.short for r in rows]
    values = [_value(summary, r) for r in rows]
    # Its median is the value and its range the interval: seaborn draws intervals of data only.
    frame = pd.DataFrame(
        [(n, x) for n, found in zip(names, values, strict=True) for x in found if x == x],
        columns=["row", "value"],
    )
    sns.pointplot(
        frame, x="value", y="row", hue="row", order=names, hue_order=names, ax=axes,
        palette={n: palette.colour(r.series) for n, r in zip(names, rows, strict=True)},
        estimator="median", errorbar=("pi", 100), linestyle="none", markersize=5,
        err_kws={"linewidth": 1.6}, legend=False,
    )  # fmt: skip
    for method, colour, dash in ((REFERENCE, INK, "-"), (BLIND, CONTROL, (0, (4, 3)))):
        levels = {v[0] for r, v in zip(rows, values, strict=True) if r.series.method == method}
        if len(levels) == 1:  # with several models a line would belong to one of them only
            axes.axvline(levels.pop(), color=colour, linewidth=0.8, linestyle=dash, zorder=0)
    axes.set(xlabel=_axis(summary, ranking), ylabel="")
    axes.grid(visible=False, axis="y")
    said = ", ".join(f"{n} {text.number(v[0])}" for n, v in zip(names, values, strict=True))
    caption = (
        f"{_axis(summary, ranking)} with 95 % CI, best first. Solid line: dense; dashed: blind, "
        f"the model without the image. {text.conditions(summary)}; {text.sample_count(summary)}."
    )
    more = len([r for r in ranking.rows if r.complete]) - len(rows)
    caption += f" {text.plural(more, 'row')} more in the table." if more > 0 else ""
    table: list[list[object]] = [
        [*HEADER],
        *[_row(r, v) for r, v in zip(rows, values, strict=True)],
    ]
    return sheet.save(folder, "Accuracy, best first", caption, [f"{said}."], table)


def _value(summary: Summary, row: Ranked) -> tuple[float, float, float]:
    """Value and interval as shown; of a single bench its own score."""
    if len(summary.benches) == 1:
        score = summary.score(row.series, summary.benches[0])
        if score is None:
            return math.nan, math.nan, math.nan
        unit = text.factor(summary, summary.benches[0])
        return score.value * unit, score.low * unit, score.high * unit
    return 100 * row.average, 100 * row.low, 100 * row.high


def _axis(summary: Summary, ranking: Ranking) -> str:
    if len(summary.benches) == 1:
        return f"{summary.benches[0]}, {text.metric_name(summary, summary.benches[0])}"
    return f"Average of {text.plural(ranking.benches, 'bench', 'benches')} (%)"


def _row(row: Ranked, value: tuple[float, float, float]) -> list[object]:
    numbers = (*value, row.kv, row.delta, row.delta_low, row.delta_high)
    shown = ["" if math.isnan(n) else n for n in numbers]
    return [row.series.model, row.series.label, *shown, row.verdict]
