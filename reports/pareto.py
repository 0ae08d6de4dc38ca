"""Accuracy against cost, with the methods that nothing beats on both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from reports import scatter, text
from reports.cell import Cost, Score, Series
from reports.fronts import AVERAGE, Fronts, percent
from reports.scatter import Mark
from reports.sheet import Drawn, Sheet
from reports.style import ACCENT, MUTED, Palette
from reports.summary import Summary

Point = tuple[Series, Score, Cost]
NAMED = 12  # points in a panel that all have their names
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
    sheet = Sheet("pareto", len(panels), width=4.0, height=3.5)
    table: list[list[object]] = [[*HEADER]]
    alts, left_out = [], []
    drawn: list[tuple[Axes, list[Mark]]] = []
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
        marks = _marks(ranked, (front, chances), (scale, up), palette)
        if marks:
            scatter.draw(axes, marks)
            _front(axes, marks)
            drawn.append((axes, marks))
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
        known = {p[0] for p in points}
        absent = [s for s in summary.series if summary.score(s, bench) and s not in known]
        left_out += [f"{s.label} on {bench}" for s in absent]
    for axes, marks in drawn:
        scatter.name(axes, sheet.size_of(axes), marks, front=True, most=NAMED)
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


def _marks(
    points: list[Point],
    places: tuple[list[bool], list[float]],
    scales: tuple[float, float],
    palette: Palette,
) -> list[Mark]:
    across, up = scales
    return [
        Mark(
            f"{one.short} {percent(share)}" if share >= SHOWN else one.short,
            cost.tflops * across, score.value * up, (cost.low * across, cost.high * across),
            (score.low * up, score.high * up), palette.colour(one), palette.marker(one), ahead,
        )
        for (one, score, cost), ahead, share in zip(points, *places, strict=True)
    ]  # fmt: skip


def _front(axes: Axes, marks: list[Mark]) -> None:
    steps = sorted((mark.x, mark.y) for mark in marks if mark.ahead)
    axes.step(
        [x for x, _ in steps] + [axes.get_xlim()[1]], [y for _, y in steps] + [steps[-1][1]],
        where="post", color=ACCENT, linewidth=1.1, alpha=0.7, zorder=1.5,
    )  # fmt: skip


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
        axes.text(0.99, level, name, transform=axes.get_yaxis_transform(), ha="right",
                  va="bottom", color=MUTED)  # fmt: skip
    else:
        arrow, at = ("↓", 0.02) if level < low else ("↑", 0.98)
        axes.text(0.99, at, f"{arrow} {name}", transform=axes.transAxes, ha="right",
                  va="bottom" if level < low else "top", color=MUTED)  # fmt: skip


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
    if len(summary.series) > NAMED:
        parts.append(
            f"Of more than {NAMED} points only those on the line are named; the others stand in "
            "the CSV."
        )
    if left_out:
        shown = ", ".join(left_out[:8]) + (" and more" if len(left_out) > 8 else "")
        parts.append(f"Not drawn, no prefill cost: {shown}.")
    if said := text.detectable(summary):
        parts.append(said)
    return " ".join([*parts, f"{text.conditions(summary)}; {text.sample_count(summary)}."])
