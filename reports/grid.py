"""A matrix as a heat map with its numbers in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from reports import labels
from reports.style import GRID, INK, MUTED, PAPER, SHADES

NUMBERED = 16
"""Columns up to which every square has room for its number."""


def draw(
    axes: Axes,
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    words: Sequence[Sequence[str]] | None = None,
    cmap: Colormap = SHADES,
    ends: tuple[float, float] = (0.0, 1.0),
    **options: Any,
) -> None:
    """Shades of ``values`` [rows, columns]; NaN is hatched, with its word where it has one.

    Every column is named up to `NUMBERED`, every fourth beyond. ``options`` go to seaborn.
    """
    if options.get("cbar"):  # inside the axes' own box, which is measured
        options["cbar_ax"] = axes.inset_axes((1.02, 0, 0.02, 1))
    every = 1 if len(columns) <= NUMBERED else 4
    sns.heatmap(
        values, ax=axes, cmap=cmap, vmin=ends[0], vmax=ends[1],
        annot=None if words is None else np.array(words, object), fmt="",
        annot_kws={"color": INK}, linecolor=PAPER, xticklabels=False, yticklabels=False,
        **{"cbar": False, "linewidths": 1, **options},
    )  # fmt: skip
    axes.set_xticks(np.arange(0, len(columns), every) + 0.5, columns[::every])
    axes.set_yticks(np.arange(len(rows)) + 0.5, labels.wrapped(rows))
    axes.grid(visible=False)
    missing = np.argwhere(np.isnan(values))
    for row, column in missing:  # each by itself: shades let what lies below them through
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, hatch="////", edgecolor=GRID,
                                 linewidth=0))  # fmt: skip
    if words is None:
        return
    for row, column in missing:
        axes.text(column + 0.5, row + 0.5, words[row][column], ha="center", va="center",
                  color=MUTED, style="italic")  # fmt: skip
