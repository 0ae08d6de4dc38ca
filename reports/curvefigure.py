"""The figure of accuracy against budget: a line a method before dense, controls and blind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from harness.store.curves import place_of
from reports import ranking, text
from reports.cell import NAN, Series
from reports.fronts import AVERAGE
from reports.sheet import Drawn, Sheet
from reports.style import CONTROL, INK, Palette
from reports.summary import Summary

HEADER = ("model", "curve", "bench", "budget", "kv", "tokens", "value", "ci_low", "ci_high", "rows")
DASHES: tuple[tuple[float, ...], ...] = ((1, 0), (5, 1.5), (1, 1))
"""Of methods, a round of the hues each."""
CONTROL_DASHES = {"random": "-", "uniform": "--", "pool": ":", "downsample": "-."}
LEAST = 0.04
"""Opacity of bands: the more there are, the paler, so that the lines are seen through them."""
LABELS = 0.42
"""Of the width of a panel: where the names stand, left of the smallest budget."""


@dataclass(frozen=True)
class Point:
    """One budget of a curve on one bench, in percent where the metric is a share."""

    kv: float
    value: float
    low: float
    high: float
    rows: int = 1
    """Seeds that are averaged: then without an interval."""


@dataclass(frozen=True)
class Curve:
    """Rows that differ in the budget only, in the run's order: a list a budget (seeds)."""

    label: str
    short: str
    model: str
    points: tuple[tuple[str, tuple[Series, ...]], ...]

    @property
    def first(self) -> Series:
        return self.points[0][1][0]

    @property
    def is_control(self) -> bool:
        return self.first.is_control


def curves(summary: Summary) -> list[Curve]:
    """Every method and control with two budgets or more."""
    rows = summary.run.cells
    params = dict(zip(rows["cell_id"], rows["params"], strict=True))
    found: dict[tuple[str, tuple[str, str]], dict[str, list[Series]]] = {}
    labels: dict[tuple[str, tuple[str, str]], str] = {}
    for series in summary.series:
        ids = [summary.cell(series, bench).cell_id for bench in summary.benches]
        said = next((params[i] for i in ids if params.get(i)), "")
        place = place_of(series.method, said, series.label) if said else None
        if place is not None:
            key = series.model, place.curve
            unit, value = place.budget
            labels.setdefault(key, place.label)
            budget = f"{value:g}{' tokens' if unit == 'tokens' else ''}"
            found.setdefault(key, {}).setdefault(budget, []).append(series)
    several = {key: points for key, points in found.items() if len(points) > 1}
    methods = [curve[0] for _, curve in several]
    return [
        Curve(labels[key], key[1][0] if methods.count(key[1][0]) == 1 else labels[key], key[0],
              tuple((budget, tuple(rows)) for budget, rows in points.items()))
        for key, points in several.items()
    ]  # fmt: skip


def places(summary: Summary) -> list[str]:
    """The panels: the average first, where there is one."""
    return [AVERAGE, *summary.answered] if len(summary.answered) > 1 else summary.answered


def value(summary: Summary, ranked: ranking.Ranking, one: Series, bench: str) -> Point | None:
    """Where a row stands on a bench or on the average; None without a value."""
    row = ranked.of(one)
    if bench == AVERAGE:
        if row is None or math.isnan(row.average):
            return None
        return Point(row.kv, 100 * row.average, 100 * row.low, 100 * row.high)
    score = summary.score(one, bench)
    if score is None:
        return None
    unit = text.factor(summary, bench)
    kv = summary.ratio(one, bench, "kv_vision")
    return Point(kv, score.value * unit, score.low * unit, score.high * unit)


def points(
    summary: Summary, ranked: ranking.Ranking, curve: Curve, bench: str
) -> Iterator[tuple[str, Point]]:
    """The budgets of a curve that all its rows have, smallest share of the cache first."""
    found = []
    for budget, rows in curve.points:
        known = [value(summary, ranked, row, bench) for row in rows]
        whole = [p for p in known if p is not None and not math.isnan(p.kv)]
        if len(whole) == len(rows) == 1:
            found.append((budget, whole[0]))
        elif len(whole) == len(rows):
            kv, mean = (sum(getattr(p, n) for p in whole) / len(whole) for n in ("kv", "value"))
            found.append((budget, Point(kv, mean, NAN, NAN, len(whole))))
    yield from sorted(found, key=lambda one: one[1].kv)


def draw(summary: Summary, known: Sequence[Curve], folder: Path, palette: Palette) -> Drawn:
    """One panel a bench and the average first."""
    ranked = ranking.load(summary)
    whole = places(summary)  # a panel without a line, while a run is on, is left out
    shown = [
        bench
        for bench in whole
        if any(len(list(points(summary, ranked, curve, bench))) > 1 for curve in known)
    ] or whole
    methods = [curve for curve in known if not curve.is_control]
    height = max(2.9, 1.1 + 0.17 * len(methods))
    sheet = Sheet("curves", len(shown), width=4.4, height=height, bottom=0.62, columns=3)
    table: list[list[object]] = [[*HEADER]]
    alts = []
    for bench in shown:
        mark = summary.is_mini_model or summary.is_mini_bench(bench)
        title = f"Average of {len(whole) - 1} benches" if bench == AVERAGE else bench
        axes = sheet.panel(title, mark)
        alts.append(_panel(axes, summary, ranked, known, bench, palette))
        table += list(_rows(summary, ranked, known, bench))
    return sheet.save(folder, "Accuracy against budget", _caption(summary, known), alts, table)


def _panel(
    axes: Axes, summary: Summary, ranked: ranking.Ranking, known: Sequence[Curve], bench: str,
    palette: Palette,
) -> str:  # fmt: skip
    """Draws one bench; returns it in words."""
    lines = {c: [p for _, p in points(summary, ranked, c, bench)] for c in known}
    lines = {c: found for c, found in lines.items() if len(found) > 1}
    for curve, found in lines.items():
        if curve.is_control:
            style = CONTROL_DASHES.get(curve.first.method, "-.")
            xy = [p.kv for p in found], [p.value for p in found]
            axes.plot(*xy, color=CONTROL, linewidth=0.8, linestyle=style, zorder=1)
    methods = {c: found for c, found in lines.items() if not c.is_control}
    _lines(axes, methods, palette)
    _levels(axes, summary, ranked, bench)
    xs = sorted({round(p.kv, 2): p.kv for found in lines.values() for p in found}.values())
    if xs:
        low, high = xs[0], xs[-1]
        width = (high - low) or high or 1
        room = width * LABELS / (1 - LABELS) if methods else 0.05 * width
        axes.set_xlim(low - room, high + 0.04 * width)
        _ticks(axes, xs, _tokens(summary, bench))
        _names(axes, methods, palette, low)
    name = "accuracy" if bench == AVERAGE else text.metric_name(summary, bench)
    tokens = _tokens(summary, bench)
    below = f" (below: tokens of {tokens:.4g})" if tokens else ""
    axes.set_xlabel(f"KV cache of the image kept{below}")
    axes.set_ylabel("accuracy (%)" if bench == AVERAGE else name)
    parts = [
        f"{c.short} {', '.join(f'{text.number(p.value)} at {text.percent(p.kv)}' for p in found)}"
        for c, found in methods.items()
    ]
    return f"{bench.strip('()')}: {'; '.join(parts)}."


def _lines(axes: Axes, methods: dict[Curve, list[Point]], palette: Palette) -> None:
    """A line with a band a method. The range of value and bounds is the band, the median the line:
    seaborn draws intervals of data only."""
    frame = pd.DataFrame(
        [
            (c.label, p.kv, y)
            for c, found in methods.items()
            for p in found
            for y in (p.value, *(b for b in (p.low, p.high) if not math.isnan(b)))
        ],
        columns=["curve", "kv", "value"],
    )
    if frame.empty:
        return
    rounds = {c.label: DASHES[i // 8 % len(DASHES)] for i, c in enumerate(methods)}
    sns.lineplot(
        frame, x="kv", y="value", hue="curve", style="curve", ax=axes, legend=False,
        palette={c.label: palette.colour(c.first) for c in methods},
        markers={c.label: palette.marker(c.first) for c in methods},
        dashes={name: "" if dash == (1, 0) else dash for name, dash in rounds.items()},
        estimator="median", errorbar=("pi", 100), linewidth=1.3, markersize=5, zorder=3,
        markeredgewidth=0,
        err_kws={"alpha": min(0.16, max(LEAST, 0.3 / len(methods))), "linewidth": 0},
    )  # fmt: skip


def _levels(axes: Axes, summary: Summary, ranked: ranking.Ranking, bench: str) -> None:
    """Dense as a line with its band, blind dashed; with several models they belong to none."""
    for series in summary.series:
        others = [s for s in summary.series if s.method == series.method]
        point = value(summary, ranked, series, bench)
        if point is None or len(others) > 1 or not (series.is_reference or series.is_blind):
            continue
        colour = INK if series.is_reference else CONTROL
        style = "-" if series.is_reference else (0, (4, 3))
        axes.axhline(point.value, color=colour, linewidth=0.9, linestyle=style, zorder=2)
        if series.is_reference and not math.isnan(point.low):
            axes.axhspan(point.low, point.high, color=colour, alpha=0.08, linewidth=0, zorder=0)
        axes.annotate(
            series.method, (1, point.value), xycoords=("axes fraction", "data"), xytext=(-2, 2),
            textcoords="offset points", ha="right", va="bottom", color=colour,
        )  # fmt: skip


def _ticks(axes: Axes, xs: Sequence[float], tokens: float) -> None:
    """A tick a budget, those too near to the one before left out."""
    kept: list[float] = []
    for x in xs:
        if not kept or x - kept[-1] > 0.09 * (xs[-1] - xs[0]):
            kept.append(x)
    names = [text.percent(x) + (f"\n{x * tokens:.3g}" if tokens else "") for x in kept]
    axes.set_xticks(kept, names)
    axes.grid(visible=False, axis="x")


def _names(axes: Axes, methods: dict[Curve, list[Point]], palette: Palette, low: float) -> None:
    """The methods' names left of their smallest budgets, in the order of their ends."""
    order = sorted(methods, key=lambda c: methods[c][0].value)
    bottom, top = axes.get_ylim()
    least = (top - bottom) / max(len(order), 14)
    heights: list[float] = []
    for curve in order:  # upwards, each above the one before
        at = methods[curve][0].value
        heights.append(max(at, heights[-1] + least) if heights else max(at, bottom + least / 2))
    over = max(0.0, heights[-1] + least / 2 - top) if heights else 0.0
    for i in reversed(range(len(heights))):  # and back down from the upper edge
        limit = heights[i + 1] - least if i + 1 < len(heights) else heights[i] - over
        heights[i] = min(heights[i], limit)
    left, right = axes.get_xlim()
    end = low - 0.05 * (right - left)
    for curve, height in zip(order, heights, strict=True):
        colour, first = palette.colour(curve.first), methods[curve][0]
        axes.plot([end, first.kv], [height, first.value], color=colour, linewidth=0.5, zorder=2)
        axes.text(end, height, curve.short + " ", color=colour, ha="right", va="center")


def _tokens(summary: Summary, bench: str) -> float:
    """Image tokens of a sample (mean), 0 where nothing says: dense's in routing.csv."""
    benches = summary.answered if bench == AVERAGE else [bench]
    found = set()
    for name in benches:
        for series in summary.series:
            cell = summary.cell(series, name)
            rows = summary.run.routing
            mine = rows[(rows["cell_id"] == cell.cell_id) & (rows["kind"] == "image")]
            if series.is_reference and len(mine) and cell.n:
                found.add(round(float(mine["tokens"].iloc[0]) / cell.n, 6))
    return found.pop() if len(found) == 1 else 0.0


def _rows(
    summary: Summary, ranked: ranking.Ranking, known: Sequence[Curve], bench: str
) -> Iterator[list[object]]:
    tokens = _tokens(summary, bench)
    for curve in known:
        for budget, p in points(summary, ranked, curve, bench):
            kept = p.kv * tokens if tokens else NAN
            numbers = [p.kv, kept, p.value, p.low, p.high]
            shown = ["" if math.isnan(n) else n for n in numbers]
            yield [curve.model, curve.label, bench, budget, *shown, p.rows]


def _caption(summary: Summary, known: Sequence[Curve]) -> str:
    controls = dict.fromkeys(c.first.method for c in known if c.is_control)
    words = {"random": "solid", "uniform": "dashed", "pool": "dotted"}
    grey = ", ".join(f"{name} {words.get(name, 'dash-dotted')}" for name in controls)
    said = "Accuracy against the share of the image's KV cache that was kept, bands: 95 % CI. "
    said += "Horizontal line with band: dense; dashed horizontal line: blind. "
    said += f"Thin grey lines: the controls ({grey}), without bands. " if grey else ""
    return f"{said}{text.conditions(summary)}; {text.sample_count(summary)}."
