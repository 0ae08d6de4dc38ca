"""Every method's difference to dense on every bench at one glance."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize

from methods import REFERENCE
from reports import text
from reports.cell import Series
from reports.sheet import Drawn, Sheet
from reports.style import MUTED
from reports.summary import Summary

# Blue gains, orange loses: apart for every common form of colour blindness. The tints stay light
# in both pages, so the numbers on them keep one dark colour (none of those a page replaces).
COLOURS = LinearSegmentedColormap.from_list("gain", ["#e08a3c", "#f7d9ba", "#f2f2f0", "#c3dcef",
                                                     "#5b9fd0"])  # fmt: skip
TEXT = "#15181c"
EMPTY = "#f2f2ef"
HEADER = ("model", "label", "bench", "status", "metric", "n", "delta", "delta_ci_low") + (
    "delta_ci_high", "p_adjusted", "verdict", "significant", "colour_value",
)  # fmt: skip
WIDTH, HEIGHT = 0.78, 0.27  # inches of a cell


def draw(summary: Summary, folder: Path) -> Drawn | None:
    """One panel for all; None for fewer than two benches or without any difference."""
    series = [s for s in summary.series if not s.is_reference]
    benches = [b for b in summary.benches if any(_delta(summary, s, b) is not None for s in series)]
    if len(benches) < 2:
        return None
    longest = max(len(s.short) for s in series)
    left = min(2.6, 0.25 + 0.066 * longest)
    sheet = Sheet(
        "heatmap", 1, width=left + 0.15 + max(3.2, WIDTH * len(benches)),
        height=0.95 + HEIGHT * len(series), left=left, right=0.15, bottom=0.12, top=0.83, columns=1,
    )  # fmt: skip
    mini = summary.is_mini_model or any(summary.is_mini_bench(b) for b in benches)
    axes = sheet.panel("", False)  # a watermark would lie below the colours
    title = f"Difference to dense, points{' (mini numbers)' if mini else ''}"
    axes.set_title(title, pad=30)
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
    axes.set_facecolor(EMPTY)
    axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=COLOURS, norm=Normalize(-limit, limit),
        edgecolors="#ffffff", linewidth=1.0,
    )  # fmt: skip
    axes.set_ylim(len(series), 0)
    axes.set_xlim(0, len(benches))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    for column, bench in enumerate(benches):
        name = bench if len(bench) <= 12 else bench[:11] + "…"
        axes.text(column + 0.5, -0.25, name, ha="center", va="bottom", fontsize=8, color=MUTED)
    for row, one in enumerate(series):
        axes.text(-0.06, row + 0.5, one.short, ha="right", va="center", fontsize=8, color=MUTED)
        for column, bench in enumerate(benches):
            word, strong = _word(summary, one, bench)
            axes.text(
                column + 0.5, row + 0.5, word, ha="center", va="center", fontsize=8, color=TEXT,
                fontweight="bold" if strong else "normal",
                fontstyle="normal" if word[:1] in "+−0▲▼" else "italic",
            )  # fmt: skip


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
