"""Colours and markers of the figures.

The eight hues are those of Okabe and Ito, made for every common form of colour blindness; methods
also differ by marker, so nothing depends on colour alone. In the HTML page each colour below is
replaced by a CSS variable, so that the same drawing suits a light and a dark page.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import cycle
from typing import Any

import matplotlib

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
CONTROL_MARKERS = {**dict(zip(MATCHED, cycle("x+1"), strict=False)), BLIND: "_"}

RC: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "svg.fonttype": "none",  # real text: small, searchable, read aloud
    "svg.hashsalt": "reports",  # the same data gives the same file
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.titley": 1.0,  # fixed: measuring every tick label for it would double the drawing time
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def context() -> AbstractContextManager[None]:
    """The settings all figures are drawn under; leaves matplotlib's own untouched on exit."""
    return matplotlib.rc_context(RC)


class Palette:
    """A colour and a marker for every series of a run, the same in all its figures."""

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

    def colour(self, series: Series) -> str:
        return self._look[series][0]

    def marker(self, series: Series) -> str:
        return self._look[series][1]
