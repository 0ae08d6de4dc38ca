"""The figure beside the first table: every row's average with its interval, best first."""

from __future__ import annotations

import math
from pathlib import Path

from methods import BLIND, REFERENCE
from reports import labels, points, text
from reports.points import Level, Row
from reports.ranking import Ranked, Ranking
from reports.sheet import Drawn, Sheet
from reports.style import CONTROL, INK, Palette
from reports.summary import Summary

HEADER = ("model", "label", "value", "ci_low", "ci_high", "kv", "delta", "delta_ci_low") + (
    "delta_ci_high", "verdict",
)  # fmt: skip
MOST = 24
"""More rows than a figure can name: the table has all."""


def draw(summary: Summary, ranking: Ranking, folder: Path, palette: Palette) -> Drawn | None:
    """One panel; None where fewer than two rows have an average."""
    rows = [r for r in ranking.rows if r.complete and not math.isnan(_value(summary, r)[0])][:MOST]
    if len(rows) < 2:
        return None
    _, height = labels.inches([r.series.short for r in rows])
    sheet = Sheet("ranking", 1, width=4.2, height=0.75 + max(0.26, height) * len(rows), columns=1)
    mini = summary.is_mini_model or any(summary.is_mini_bench(b) for b in summary.benches)
    values = [_value(summary, r) for r in rows]
    names = [r.series.short for r in rows]
    shown = [
        Row(r.series.short, *found, palette.colour(r.series), palette.marker(r.series))
        for r, found in zip(rows, values, strict=True)
    ]
    lines = []
    for method, colour in ((REFERENCE, INK), (BLIND, CONTROL)):
        found = {v[0] for r, v in zip(rows, values, strict=True) if r.series.method == method}
        if len(found) == 1:  # with several models a line would belong to one of them only
            lines.append(Level("", found.pop(), colour, dashed=method == BLIND))
    points.draw(sheet.panel("", mini), shown, _axis(summary, ranking), lines)
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
