"""Methods over all benches as shares of dense, in the manner of p-MoD's first figure."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from methods import REFERENCE
from reports import text
from reports.cell import Series
from reports.sheet import Drawn, Sheet
from reports.style import GRID, INK, MUTED, Palette
from reports.summary import Summary

FEWEST = 3  # benches
TOGETHER = 4  # methods in one panel: more cannot be told apart
HEADER = ("model", "label", "bench", "metric", "n", "score", "dense", "of_dense")


def draw(summary: Summary, folder: Path, palette: Palette) -> Drawn | None:
    """Panels of up to four methods; None for fewer than three benches with a dense score."""
    series = [s for s in summary.series if not (s.is_reference or s.is_blind)]
    benches = [b for b in summary.benches if any(_share(summary, s, b) for s in series)]
    series = [s for s in series if any(_share(summary, s, b) for b in benches)]
    if len(benches) < FEWEST or not series:
        return None
    shares = {s: [_share(summary, s, b) or math.nan for b in benches] for s in series}
    known = [v for row in shares.values() for v in row if not math.isnan(v)]
    inner = max(0.0, math.floor(min([*known, 1.0]) * 20 - 1) / 20)
    outer = max([*known, 1.0]) + 0.01
    groups = [series[i : i + TOGETHER] for i in range(0, len(series), TOGETHER)]
    sheet = Sheet("radar", len(groups), width=4.3, height=4.1, left=0.3, right=0.3, bottom=0.65,
                  top=0.4)  # fmt: skip
    alts = []
    for group in groups:
        mini = summary.is_mini_model or any(summary.is_mini_bench(b) for b in benches)
        axes = sheet.panel("Share of dense's score", mini)
        _web(axes, benches, inner, outer, sheet.size[1] / sheet.size[0])
        for one in group:
            _line(axes, shares[one], (inner, outer), palette, one)
        _legend(axes, group, palette)
        said = [f"{s.label} {_range(shares[s])}" for s in group]
        alts.append(f"Share of dense's score over {len(benches)} benches: {', '.join(said)}.")
    rows = [_row(summary, s, b) for s in series for b in benches if _share(summary, s, b)]
    caption = (
        "Score as a share of dense's on the same bench; the ring marked 100 % is dense, the "
        f"centre is {text.percent(inner)}, not 0 %. Point values: whether a difference "
        "is more than chance stands in the heat map. A gap in a line is a cell without a score. "
        f"{text.conditions(summary)}; {text.sample_count(summary)}."
    )
    return sheet.save(folder, "All benches as shares of dense", caption, alts, [[*HEADER], *rows])


def _share(summary: Summary, series: Series, bench: str) -> float | None:
    score, dense = summary.score(series, bench), summary.reference(series, bench, REFERENCE)
    if score is None or dense is None or dense.value <= 0 or score.value < 0:
        return None
    return score.value / dense.value


def _range(values: list[float]) -> str:
    known = [v for v in values if not math.isnan(v)]
    return f"{text.percent(min(known))} to {text.percent(max(known))}"


def _angles(count: int) -> np.ndarray:
    return math.pi / 2 - np.arange(count) * 2 * math.pi / count


def _web(axes: Axes, benches: list[str], inner: float, outer: float, shape: float) -> None:
    """Rings, spokes and names; plain axes, whose panels are placed like all others."""
    axes.set_axis_off()
    axes.set_xlim(-1.36, 1.36)
    axes.set_ylim(-1.36 * shape, 1.36 * shape)
    step = 0.05 if outer - inner <= 0.35 else 0.1 if outer - inner <= 0.7 else 0.2
    rings = [v for v in np.arange(math.ceil(inner / step) * step, outer, step) if v > inner + 1e-9]
    rings = [ring for ring in rings if abs(ring - 1) > 1e-9]
    circle = np.linspace(0, 2 * math.pi, 73)
    for ring in [*rings, 1.0]:
        radius, dense = (ring - inner) / (outer - inner), abs(ring - 1) < 1e-9
        axes.plot(radius * np.cos(circle), radius * np.sin(circle), zorder=1.5 if dense else 1,
                  color=INK if dense else GRID, linewidth=1.0 if dense else 0.7)  # fmt: skip
        axes.text(0.02, radius + 0.01, text.percent(ring), fontsize=6.5, color=MUTED, zorder=4)
    for angle, bench in zip(_angles(len(benches)), benches, strict=True):
        x, y = math.cos(angle), math.sin(angle)
        axes.plot([0, x], [0, y], color=GRID, linewidth=0.7, zorder=1)
        side = "center" if abs(x) < 0.3 else "left" if x > 0 else "right"
        name = bench if len(bench) <= 11 else bench[:10] + "…"
        axes.text(1.07 * x, 1.09 * y, name, ha=side, va="center", fontsize=7.5, color=MUTED)


def _line(
    axes: Axes, values: list[float], ends: tuple[float, float], palette: Palette, one: Series
) -> None:
    radii = (np.array(values) - ends[0]) / (ends[1] - ends[0])
    angles = _angles(len(values))
    xs, ys = radii * np.cos(angles), radii * np.sin(angles)
    colour = palette.colour(one)
    axes.plot(np.append(xs, xs[0]), np.append(ys, ys[0]), color=colour, linewidth=1.4, zorder=3,
              marker=palette.marker(one), markersize=4.5)  # fmt: skip


def _legend(axes: Axes, group: list[Series], palette: Palette) -> None:
    for i, one in enumerate(group):
        x, y = 0.02 + 0.5 * (i % 2), -0.035 - 0.055 * (i // 2)
        axes.plot([x], [y], palette.marker(one), color=palette.colour(one), markersize=5,
                  transform=axes.transAxes, clip_on=False)  # fmt: skip
        name = one.short if len(one.short) <= 28 else one.short[:27] + "…"
        axes.text(x + 0.03, y, name, fontsize=7.5, va="center", transform=axes.transAxes)


def _row(summary: Summary, series: Series, bench: str) -> list[object]:
    score, dense = summary.score(series, bench), summary.reference(series, bench, REFERENCE)
    assert score is not None and dense is not None  # it has a share
    n = "" if math.isnan(score.n) else score.n
    row = [series.model, series.label, bench, score.metric, n, score.value]
    return [*row, dense.value, score.value / dense.value]
