"""Accuracy of every method with its interval, beside the dense and the blind level."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from methods import BLIND, REFERENCE
from reports import text
from reports.cell import Score, Series
from reports.sheet import Drawn, Sheet
from reports.style import CONTROL, INK, MUTED, PAPER, Palette
from reports.summary import Summary

HEADER = ("bench", "model", "label", "status", "metric", "n", "score", "ci_low", "ci_high") + (
    "dense", "blind", "verdict",
)  # fmt: skip


def draw(summary: Summary, folder: Path, palette: Palette) -> Drawn | None:
    """One panel a bench; None when nothing was scored."""
    benches = [b for b in summary.benches if any(summary.score(s, b) for s in summary.series)]
    if not benches:
        return None
    longest = max(len(s.short) for s in summary.series)
    sheet = Sheet(
        "accuracy", len(benches), width=4.3, height=0.95 + 0.22 * len(summary.series),
        left=min(1.9, 0.25 + 0.066 * longest), right=0.2,
    )  # fmt: skip
    table: list[list[object]] = [[*HEADER]]
    alts = []
    for bench in benches:
        mini = summary.is_mini_bench(bench) or summary.is_mini_model
        axes = sheet.panel(bench, mini)
        _panel(axes, summary, bench, palette)
        scored = [(s.label, summary.score(s, bench)) for s in summary.series]
        unit = text.factor(summary, bench)
        said = ", ".join(f"{name} {text.number(v.value * unit)}" for name, v in scored if v)
        alts.append(f"{bench}, {text.metric_name(summary, bench)}: {said}.")
        table += _rows(summary, bench)
    caption = (
        "Accuracy with 95 % CI. Solid line: dense; dashed line: blind, the same model without the "
        "image. A filled dot differs significantly from dense, a hollow one does not. "
        f"{text.detectable(summary)} {text.conditions(summary)}; {text.sample_count(summary)}."
    ).replace("  ", " ")
    return sheet.save(folder, "Accuracy by bench", caption, alts, table)


def _panel(axes: Axes, summary: Summary, bench: str, palette: Palette) -> None:
    unit = text.factor(summary, bench)
    scores = [summary.score(s, bench) for s in summary.series]
    known = [x for s in scores if s for x in (s.low, s.high, s.value) if not math.isnan(x)]
    low, high = min(known) * unit, max(known) * unit
    room = (high - low) * 0.06 or 1.0
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(len(scores) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(text.metric_name(summary, bench))
    side: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
    for row, (series, score) in enumerate(zip(summary.series, scores, strict=True)):
        # Plain texts instead of tick labels: three times as fast to draw.
        axes.text(-0.02, row, series.short, ha="right", color=MUTED, fontsize=8, **side)
        if score is None:
            status = summary.cell(series, bench).status
            words = {"failed": "failed", "missing": "not run"}.get(status, "no score")
            backing = {"facecolor": PAPER, "linewidth": 0, "pad": 1.5}
            axes.text(0.02, row, words, color=MUTED, style="italic", fontsize=7.5, bbox=backing,
                      **side)  # fmt: skip
    _dots(axes, list(zip(summary.series, scores, strict=True)), unit, palette)
    for method, colour, dash in ((REFERENCE, INK, "-"), (BLIND, CONTROL, (0, (4, 3)))):
        levels = {
            score.value * unit
            for series, score in zip(summary.series, scores, strict=True)
            if score and series.method == method
        }
        # With several models a single line would belong to one of them only.
        if len(levels) == 1:
            axes.axvline(levels.pop(), color=colour, linewidth=0.8, linestyle=dash, zorder=1)


def _dots(
    axes: Axes, rows: list[tuple[Series, Score | None]], unit: float, palette: Palette
) -> None:
    found = [(row, one, score) for row, (one, score) in enumerate(rows) if score is not None]
    ys = [row for row, _, _ in found]
    colours = [palette.colour(one) for _, one, _ in found]
    faces = [
        colour if score.significant or one.is_reference else PAPER
        for colour, (_, one, score) in zip(colours, found, strict=True)
    ]
    # An unknown interval is NaN here, and matplotlib draws nothing for it.
    lows, highs = [s.low * unit for _, _, s in found], [s.high * unit for _, _, s in found]
    axes.hlines(ys, lows, highs, colors=colours, linewidth=1.6, zorder=2)
    axes.scatter(
        [s.value * unit for _, _, s in found], ys, s=36, facecolors=faces, edgecolors=colours,
        linewidths=1.4, zorder=3,
    )  # fmt: skip


def _rows(summary: Summary, bench: str) -> list[list[object]]:
    rows: list[list[object]] = []
    for series in summary.series:
        score = summary.score(series, bench)
        status = summary.cell(series, bench).status
        row: list[object] = [bench, series.model, series.label, status]
        if score:
            levels = [summary.reference(series, bench, m) for m in (REFERENCE, BLIND)]
            numbers = [score.n, score.value, score.low, score.high]
            numbers += [level.value if level else math.nan for level in levels]
            shown: list[object] = ["" if math.isnan(v) else v for v in numbers]
            rows.append([*row, score.metric, *shown, score.verdict])
        else:
            rows.append([*row, "", "", "", "", "", "", "", ""])
    return rows
