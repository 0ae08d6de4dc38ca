"""Every method's difference to dense on every bench at one glance."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba

from methods import REFERENCE
from reports import grid, labels, text
from reports.cell import Series
from reports.sheet import Drawn, Sheet
from reports.style import HUES, STRONGEST
from reports.summary import Summary

LOSES, GAINS = HUES[1], HUES[0]
"""Orange and blue: apart for every common form of colour blindness."""
COLOURS = LinearSegmentedColormap.from_list("gain", [
    (0, to_rgba(LOSES, STRONGEST)), (0.5, to_rgba(LOSES, 0)), (0.5, to_rgba(GAINS, 0)),
    (1, to_rgba(GAINS, STRONGEST)),
])  # fmt: skip
HEADER = ("model", "label", "bench", "status", "metric", "n", "delta", "delta_ci_low") + (
    "delta_ci_high", "p_adjusted", "verdict", "significant", "colour_value",
)  # fmt: skip
WIDTH, HEIGHT = 0.72, 0.24  # inches of a cell


def draw(summary: Summary, folder: Path) -> Drawn | None:
    """One panel for all; None for fewer than two benches or without any difference."""
    series = [s for s in summary.series if not s.is_reference]
    benches = [b for b in summary.benches if any(_delta(summary, s, b) is not None for s in series)]
    if len(benches) < 2:
        return None
    left, row = labels.inches([s.short for s in series])
    sheet = Sheet(
        "heatmap", 1, width=left + max(2.4, WIDTH * len(benches)),
        height=0.85 + max(HEIGHT, row) * len(series), columns=1,
    )  # fmt: skip
    mini = summary.is_mini_model or any(summary.is_mini_bench(b) for b in benches)
    axes = sheet.panel("Difference to dense, points", mini, covered=True)
    _grid(axes, summary, series, benches)
    alt = "Difference to dense by method and bench, significant ones marked. " + _said(
        summary, series, benches
    )
    return sheet.save(
        folder, "Difference to dense by method and bench", _caption(summary), [alt],
        [[*HEADER], *(_row(summary, s, b) for s in series for b in benches)],
    )  # fmt: skip


def _delta(summary: Summary, series: Series, bench: str) -> float | None:
    score = summary.score(series, bench)
    return None if score is None or math.isnan(score.delta) else score.delta


def _strength(summary: Summary, series: Series, bench: str) -> float:
    """What the colour stands for: points, or percent of dense for metrics on other scales."""
    delta = _delta(summary, series, bench)
    if delta is None:
        return math.nan
    if text.factor(summary, bench) == 100:
        return 100 * delta
    dense = summary.reference(series, bench, REFERENCE)
    return 100 * delta / dense.value if dense and dense.value else math.nan


def _grid(axes: Axes, summary: Summary, series: list[Series], benches: list[str]) -> None:
    values = np.array([[_strength(summary, s, b) for b in benches] for s in series])
    # Controls lose tens of points: they would leave no colour for the methods.
    chosen = [not s.is_control for s in series]
    ranked = values[chosen] if any(chosen) else values
    known = np.abs(ranked[~np.isnan(ranked)])
    limit = max(1.0, float(known.max())) if known.size else 1.0
    words = [[_word(summary, s, b)[0] for b in benches] for s in series]
    grid.draw(axes, values, [s.short for s in series], [_wrapped(b) for b in benches], words,
              COLOURS, (-limit, limit))  # fmt: skip
    axes.tick_params(top=False, bottom=False, labeltop=True, labelbottom=False)
    for mark in axes.texts:
        if mark.get_text()[:1] in ("▲", "▼"):
            mark.set_fontweight("bold")


def _wrapped(bench: str) -> str:
    return "\n".join(textwrap.wrap(bench.replace("_", "_ "), 12)).replace("_ ", "_")


def _word(summary: Summary, series: Series, bench: str) -> tuple[str, bool]:
    """What stands in a cell, and whether it is significant."""
    score = summary.score(series, bench)
    if score is None:
        status = summary.cell(series, bench).status
        return {"failed": "failed", "missing": "not run"}.get(status, "no score"), False
    if math.isnan(score.delta):
        return text.GAP, False
    shown = text.number(score.delta * text.factor(summary, bench), signed=True)
    if score.significant:
        return f"{'▲' if score.verdict == 'better' else '▼'} {shown}", True
    return shown, False


def _said(summary: Summary, series: list[Series], benches: list[str]) -> str:
    found = [f"{s.label} on {b}" for s in series for b in benches if _word(summary, s, b)[1]]
    return f"Significant: {text.listing(found) or 'none'}."


def _row(summary: Summary, series: Series, bench: str) -> list[object]:
    cell, score = summary.cell(series, bench), summary.score(series, bench)
    row: list[object] = [series.model, series.label, bench, cell.status]
    if score is None:
        return [*row, *[""] * 9]
    numbers = (score.n, score.delta, score.delta_low, score.delta_high, score.p_adjusted)
    shown: list[object] = ["" if math.isnan(v) else v for v in numbers]
    strength = _strength(summary, series, bench)
    marks: list[object] = [score.verdict, int(score.significant)]
    return [*row, score.metric, *shown, *marks, "" if math.isnan(strength) else strength]


def _caption(summary: Summary) -> str:
    parts = (
        "Difference to dense on the same samples, in points. Bold with ▲ or ▼: significant after "
        "Holm's correction over all methods and benches; all others may be chance. Blue gains, "
        "orange loses, the scale reaches the methods' largest difference (metrics on a scale of "
        "their own are coloured by percent of dense; controls may lie beyond).",
        text.detectable(summary),
        f"{text.conditions(summary)}; {text.sample_count(summary)}.",
    )
    return " ".join(part for part in parts if part)
