"""Values with given intervals, one row each, and levels to compare them with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from reports import labels
from reports.style import INK, MUTED, PAPER

REACH = 0.6
"""How many times the range of the rows a level may lie beyond them and still be drawn."""


@dataclass(frozen=True)
class Row:
    """A row of a dot plot; ``value`` NaN: ``word`` stands in its place."""

    name: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    colour: str = INK
    marker: str = "o"
    filled: bool = True
    word: str = ""

    @property
    def known(self) -> bool:
        return not math.isnan(self.value)


@dataclass(frozen=True)
class Level:
    """A line across all rows, named at the top or at the bottom."""

    name: str
    value: float
    colour: str = INK
    dashed: bool = False


def draw(axes: Axes, rows: Sequence[Row], label: str, levels: Sequence[Level] = ()) -> None:
    """Rows from the top down in the order given, a filled marker or a hollow one."""
    for i, row in enumerate(rows):
        if not row.known:
            continue
        # Drawn as given: seaborn would compute an interval from three values, a second a panel.
        low, high = (row.value if math.isnan(v) else v for v in (row.low, row.high))
        axes.plot([low, high], [i, i], color=row.colour, linewidth=1.6, zorder=2)
        axes.plot(row.value, i, color=row.colour, marker=row.marker, linestyle="none", zorder=3,
                  markersize=5.5, markeredgewidth=1.4,
                  markerfacecolor=row.colour if row.filled else PAPER)  # fmt: skip
    named = sum(bool(level.name) for level in levels)  # at the top and at the bottom
    axes.set_ylim(len(rows) - 0.4 + 0.6 * (named > 1), -0.6 - 0.6 * (named > 0))
    axes.set_yticks(range(len(rows)), labels.wrapped([row.name for row in rows]))
    axes.set(xlabel=label, ylabel="")
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    backing = {"facecolor": PAPER, "linewidth": 0, "pad": 1.5}
    for i, row in enumerate(rows):
        if not row.known:
            axes.text(0.02, i, row.word, color=MUTED, style="italic", va="center", bbox=backing,
                      transform=axes.get_yaxis_transform())  # fmt: skip
    for i, level in enumerate(levels):
        _line(axes, level, *((1.0, "top") if i == 0 else (0.0, "bottom")))


def _line(axes: Axes, level: Level, y: float, va: str) -> None:
    """A named line; one that would take most of the axis for itself is an arrow at the edge."""
    left, right = axes.get_xlim()
    span = right - left
    side = "left" if level.value < (left + right) / 2 else "right"
    look: dict[str, Any] = {"color": MUTED, "ha": side, "va": va}
    if not left - REACH * span <= level.value <= right + REACH * span:
        name = f"← {level.name}" if side == "left" else f"{level.name} →"
        axes.text(0.01 if side == "left" else 0.99, y, name, transform=axes.transAxes, **look)
        return
    dash = (0, (4, 3)) if level.dashed else "-"
    axes.axvline(level.value, color=level.colour, linewidth=0.8, linestyle=dash, zorder=1)
    gap = span * (0.012 if side == "left" else -0.012)
    axes.text(level.value + gap, y, level.name, transform=axes.get_xaxis_transform(), **look)
