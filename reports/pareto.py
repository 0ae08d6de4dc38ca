"""Accuracy against cost, with the methods that nothing beats on both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from reports import labels, text
from reports.cell import Cost, Score, Series
from reports.fronts import AVERAGE, Fronts, percent
from reports.sheet import Drawn, Sheet
from reports.style import ACCENT, INK, MUTED, Palette
from reports.summary import Summary

Point = tuple[Series, Score, Cost]
FONT = 7.5
SHOWN = 0.05  # smaller probabilities stand in the table only
HEADER = ("bench", "model", "label", "n", "score", "ci_low", "ci_high", "prefill_tflops") + (
    "tflops_ci_low", "tflops_ci_high", "counter", "convention", "non_dominated",
    "front_probability",
)  # fmt: skip


def non_dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, score) pairs no other pair beats: none is as cheap and better, or as good and
    cheaper. Equal pairs do not beat each other."""
    return [
        not any((c <= cost and s >= score) and (c < cost or s > score) for c, s in points)
        for cost, score in points
    ]


def draw(summary: Summary, folder: Path, palette: Palette, fronts: Fronts) -> Drawn | None:
    """A panel a bench, and one of their average; None when no cell has both score and cost."""
    scale, unit = text.flops_scale(summary)
    panels = [(b, points) for b in summary.benches if (points := _points(summary, b))]
    if not panels:
        return None
    if average := _average(summary, fronts):
        panels.append((AVERAGE, average))
    sheet = Sheet("pareto", len(panels), width=4.3, height=3.5)
    table: list[list[object]] = [[*HEADER]]
    alts, left_out = [], []
    for bench, points in panels:
        # Blind sees no image: it is the floor of the bench, not a way to make the model cheaper.
        ranked = [p for p in points if not p[0].is_blind]
        front = non_dominated([(c.tflops, s.value) for _, s, c in ranked])
        mini = summary.is_mini_bench(bench) or summary.is_mini_model
        names, up = _titles(summary, bench, fronts)
        axes = sheet.panel(names[0], mini)
        axes.set_xlabel(f"LLM prefill, {unit} a sample")
        axes.set_ylabel(names[1])
        chances = [fronts.probability(s, bench) for s, _, _ in ranked]
        _panel(axes, sheet.size, ranked, (front, chances), (scale, up), palette)
        _blind(axes, summary, bench, points)
        best = [p[0] for p, on in zip(ranked, front, strict=True) if on]
        alts.append(f"{names[0]}: accuracy against prefill cost. Not beaten on both: "
                    f"{text.series_names(best)}.")  # fmt: skip
        on_front = {p[0] for p, on in zip(ranked, front, strict=True) if on}
        for s, score, cost in points:
            table.append(
                [bench, s.model, s.label, _blank(score.n), score.value, _blank(score.low)]
                + [_blank(score.high), cost.tflops, _blank(cost.low), _blank(cost.high)]
                + [cost.counter, cost.convention, int(s in on_front)]
                + [_blank(fronts.probability(s, bench))]
            )
        drawn = {p[0] for p in points}
        absent = [s for s in summary.series if summary.score(s, bench) and s not in drawn]
        left_out += [f"{s.label} on {bench}" for s in absent]
    caption = _caption(summary, left_out, fronts)
    return sheet.save(folder, "Accuracy against cost", caption, alts, table)


def _points(summary: Summary, bench: str) -> list[Point]:
    found = []
    for series in summary.series:
        score, cost = summary.score(series, bench), summary.prefill(series, bench)
        if score and cost and not math.isnan(cost.tflops):
            found.append((series, score, cost))
    return found


def _titles(summary: Summary, bench: str, fronts: Fronts) -> tuple[tuple[str, str], float]:
    """Title and y axis of a panel, and the factor of its scores."""
    if bench != AVERAGE:
        return (bench, text.metric_name(summary, bench)), text.factor(summary, bench)
    metric = next(iter(fronts.of(AVERAGE).values())).metric
    return (f"average, {metric}", "mean accuracy (%)"), 100.0


def _average(summary: Summary, fronts: Fronts) -> list[Point]:
    """The points of the average over benches, which stands in fronts.csv alone."""
    found = fronts.of(AVERAGE)
    nan = math.nan
    points = []
    for series in summary.series:
        if series in found:
            place = found[series]
            score = Score(
                "", place.metric, place.score, place.n, nan, nan, nan, nan, nan, nan, "", False
            )
            # The samples' prefill, which is counted so.
            cost = Cost("llm_prefill", "FLOP", "closed_form", "causal", place.tflops, *[nan] * 7)
            points.append((series, score, cost))
    return (
        points if any(summary.counting == (c.counter, c.convention) for _, _, c in points) else []
    )


def _panel(
    axes: Axes,
    size: tuple[float, float],
    points: list[Point],
    places: tuple[list[bool], list[float]],
    scales: tuple[float, float],
    palette: Palette,
) -> None:
    if not points:
        return
    across, up = scales
    front, chances = places
    xs = [c.tflops * across for _, _, c in points]
    ys = [s.value * up for _, s, _ in points]
    bars = [_bar(s.value, s.low, s.high, up) for _, s, _ in points]
    widths = [_bar(c.tflops, c.low, c.high, across) for _, _, c in points]
    xlim = _limits([x for pair in widths for x in pair], 0.14)
    ylim = _limits([y for pair in bars for y in pair], 0.10)
    axes.set_xlim(*xlim)
    axes.set_ylim(*ylim)
    steps = sorted((x, y) for x, y, on in zip(xs, ys, front, strict=True) if on)
    axes.step(
        [x for x, _ in steps] + [xlim[1]], [y for _, y in steps] + [steps[-1][1]],
        where="post", color=ACCENT, linewidth=1.1, alpha=0.7, zorder=1.5,
    )  # fmt: skip
    colours = [palette.colour(series) for series, _, _ in points]
    thin: dict[str, Any] = {"colors": colours, "linewidth": 1.0, "alpha": 0.65, "zorder": 2}
    axes.vlines(xs, [low for low, _ in bars], [high for _, high in bars], **thin)
    axes.hlines(ys, [low for low, _ in widths], [high for _, high in widths], **thin)
    for i, (series, _, _) in enumerate(points):
        colour = colours[i]
        axes.plot(xs[i], ys[i], palette.marker(series), color=colour, markersize=6, zorder=3)
    names = [
        f"{p[0].short} {percent(share)}" if share >= SHOWN else p[0].short
        for p, share in zip(points, chances, strict=True)
    ]
    _names(axes, size, points, names, list(zip(xs, ys, strict=True)), bars, front)


def _names(
    axes: Axes,
    size: tuple[float, float],
    points: list[Point],
    names: list[str],
    where: list[tuple[float, float]],
    bars: list[tuple[float, float]],
    front: list[bool],
) -> None:
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    spots = [((x - x0) / (x1 - x0) * size[0], (y - y0) / (y1 - y0) * size[1]) for x, y in where]
    heights = [[(y - y0) / (y1 - y0) * size[1] for y in bar] for bar in bars]
    boxes = [(s[0] - 1.5, h[0], s[0] + 1.5, h[1]) for s, h in zip(spots, heights, strict=True)]
    ahead = sorted(spot for spot, on in zip(spots, front, strict=True) if on)
    ends = [spot[0] for spot in ahead[1:]] + [size[0]]
    boxes += [(s[0], s[1] - 1, end, s[1] + 1) for s, end in zip(ahead, ends, strict=True)]
    offsets = labels.place(spots, names, size, FONT, boxes)
    leaders = []
    for i, (name, (dx, dy)) in enumerate(zip(names, offsets, strict=True)):
        centre = (spots[i][0] + dx) / size[0], (spots[i][1] + dy) / size[1]
        axes.text(
            *centre, name, transform=axes.transAxes, fontsize=FONT, ha="center", va="center",
            color=INK if front[i] else MUTED, zorder=4,
            fontweight="bold" if points[i][0].is_reference else "normal",
        )  # fmt: skip
        half = len(name) * FONT * labels.CHARACTER / 2
        edge = dx - math.copysign(min(abs(dx), half), dx), dy - math.copysign(min(abs(dy), 4), dy)
        if math.hypot(*edge) > 11:
            ends = [(s + e) / n for s, e, n in zip(spots[i], edge, size, strict=True)]
            leaders.append([(spots[i][0] / size[0], spots[i][1] / size[1]), ends])
    lines = LineCollection(leaders, colors=MUTED, linewidths=0.5, transform=axes.transAxes)
    axes.add_collection(lines, autolim=False)


def _blind(axes: Axes, summary: Summary, bench: str, points: list[Point]) -> None:
    """The blind level as a dashed line, or a word at the edge when it lies outside the panel."""
    value = next((s.value for p, s, _ in points if p.is_blind), None)
    if value is None:
        return
    level = value * text.factor(summary, bench)
    low, high = axes.get_ylim()
    name = f"blind {text.number(level)}"
    if low <= level <= high:
        axes.axhline(level, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.text(0.99, level, name, transform=axes.get_yaxis_transform(), fontsize=FONT,
                  ha="right", va="bottom", color=MUTED)  # fmt: skip
    else:
        arrow, at = ("↓", 0.02) if level < low else ("↑", 0.98)
        axes.text(0.99, at, f"{arrow} {name}", transform=axes.transAxes, fontsize=FONT,
                  ha="right", va="bottom" if level < low else "top", color=MUTED)  # fmt: skip


def _bar(value: float, low: float, high: float, scale: float) -> tuple[float, float]:
    known = not (math.isnan(low) or math.isnan(high))
    return (low * scale, high * scale) if known else (value * scale, value * scale)


def _limits(values: list[float], pad: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * pad or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _blank(value: float) -> object:
    return "" if math.isnan(value) else value


def _caption(summary: Summary, left_out: list[str], fronts: Fronts) -> str:
    counter, convention = summary.counting
    parts = [
        "Accuracy (95 % CI) against LLM prefill cost per sample (95 % CI of the mean); up and to "
        "the left is better. The line joins the methods that no other method beats on both; blind "
        "takes no part in it.",
        f"Counted by {counter or 'an unnamed counter'}, convention {convention or 'not recorded'}.",
    ]
    if fronts.places:
        draws = text.number(fronts.resamples, 0)
        parts.append(
            "The percentage beside a name is the probability of standing on that line when the "
            f"documents are drawn again, jointly for all methods ({draws} bootstrap draws; from "
            f"{percent(SHOWN)} on)."
        )
    if left_out:
        shown = ", ".join(left_out[:8]) + (" and more" if len(left_out) > 8 else "")
        parts.append(f"Not drawn, no prefill cost: {shown}.")
    if said := text.detectable(summary):
        parts.append(said)
    return " ".join([*parts, f"{text.conditions(summary)}; {text.sample_count(summary)}."])
