"""The theme of the figures: colours, markers, dashes, one size of text.

The eight hues are those of Okabe and Ito, made for every common form of colour blindness; methods
also differ by marker or dash, so nothing depends on colour alone. In the HTML page each colour
below is replaced by a CSS variable, so that the same drawing suits a light and a dark page.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import cycle
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib import rcsetup
from matplotlib.colors import LinearSegmentedColormap, to_rgba

from methods import BLIND, MATCHED
from reports.cell import Series

PAPER = "#fffffe"
INK = "#1c2127"
MUTED = "#5c6570"
GRID = "#e1e5ea"
WATERMARK = "#f0f2f4"
ACCENT = "#0b5fa5"
ON_ACCENT = "#fdfdfc"
MAP = "#2b7fc4"
"""Of maps drawn as pixels, which cannot follow the page: clear on light and on dark paper."""
HUES = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#7a5195", "#a33b3b",
)  # fmt: skip
CONTROL = "#7b8490"

THEMED = {
    PAPER: "paper", INK: "ink", MUTED: "muted", GRID: "grid", WATERMARK: "watermark",
    ACCENT: "accent", ON_ACCENT: "on-accent", CONTROL: "control",
    **{hue: f"hue-{i}" for i, hue in enumerate(HUES)},
}  # fmt: skip
"""Hex colour to the name of the CSS variable that stands for it in the page."""

MARKERS = "osD^vPX<>ph*d8H"
CONTROL_MARKERS = {**dict(zip(MATCHED, cycle("x+12"), strict=False)), BLIND: "_"}

DASHES: tuple[tuple[float, ...], ...] = (
    (1, 0), (4, 1.5), (1, 1), (5, 1.5, 1, 1.5), (8, 2), (3, 1, 1, 1, 1, 1), (2, 2.5),
)  # fmt: skip
"""Ink and gap in line widths, as seaborn takes them; the first is solid."""

SIZE, TITLE = 9.0, 10.0
"""Points of all text, and of titles."""

STRONGEST = 0.55  # opacity on which a number in ink still reads, on a light and on a dark page
SHADES = LinearSegmentedColormap.from_list(
    "shades", [to_rgba(ACCENT, 0.03), to_rgba(ACCENT, STRONGEST)]
)
"""From the paper to the accent by opacity, so that a map of it suits light and dark pages."""

MAP_SHADES = LinearSegmentedColormap.from_list("map", [to_rgba(MAP, 0.02), to_rgba(MAP)])
"""The same for maps of pixels."""

AXES: dict[str, Any] = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAPER,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: every machine measures the same
    "grid.color": GRID,
    "patch.edgecolor": PAPER,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
FILES: dict[str, Any] = {
    "axes.prop_cycle": rcsetup.cycler(color=sns.color_palette(HUES)),
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "svg.fonttype": "none",  # real text: small, searchable, read aloud
    "svg.hashsalt": "reports",  # the same data gives the same file
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}


def context() -> AbstractContextManager[None]:
    """The settings all figures are drawn under; leaves matplotlib's own untouched on exit."""
    scale = sns.plotting_context("paper")
    sizes = {name: SIZE for name in scale if name.endswith("size") and "tick.m" not in name}
    widths = {"axes.linewidth": 0.7, "grid.linewidth": 0.7, "lines.markersize": 5}
    theme = {**sns.axes_style("whitegrid", AXES), **scale, **sizes, **widths, **FILES}
    return matplotlib.rc_context(theme)


class Palette:
    """A colour, a marker and a dash for every series of a run, the same in all its figures."""

    def __init__(self, series: list[Series]) -> None:
        self._look: dict[Series, tuple[str, str]] = {}
        hues: dict[str, str] = {}
        drawn = 0
        for one in series:
            if one.is_reference:
                self._look[one] = (INK, "o")
            elif one.is_control:
                self._look[one] = (CONTROL, CONTROL_MARKERS[one.method])
            else:
                # One method keeps its hue over all its parameters; the marker tells them apart.
                hue = hues.setdefault(one.method, HUES[len(hues) % len(HUES)])
                self._look[one] = (hue, MARKERS[1 + drawn % (len(MARKERS) - 1)])
                drawn += 1
        self._order = {one: i for i, one in enumerate(series)}

    def colour(self, series: Series) -> str:
        return self._look[series][0]

    def marker(self, series: Series) -> str:
        return self._look[series][1]

    def dash(self, series: Series) -> tuple[float, ...]:
        return DASHES[self._order[series] % len(DASHES)]
