"""Points with intervals both ways, each with its name beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from reports import labels
from reports.style import INK, MUTED, SIZE

Span = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One method; an end of an interval that is not known is NaN."""

    name: str
    x: float
    y: float
    wide: Span
    tall: Span
    colour: str
    marker: str
    ahead: bool = True
    """Whether nothing beats it: its name is written in full ink."""

    @property
    def bars(self) -> tuple[Span, Span]:
        """Both intervals, of no length where not known."""
        wide = (self.x, self.x) if any(map(math.isnan, self.wide)) else self.wide
        return wide, (self.y, self.y) if any(map(math.isnan, self.tall)) else self.tall


def draw(axes: Axes, marks: Sequence[Mark], also: Sequence[float] = ()) -> None:
    """Markers and intervals, with room around them and around the x values ``also``."""
    wide, tall = zip(*(mark.bars for mark in marks), strict=True)
    axes.set_xlim(*_limits([x for pair in wide for x in pair] + list(also), 0.14))
    axes.set_ylim(*_limits([y for pair in tall for y in pair], 0.10))
    colours = [mark.colour for mark in marks]
    thin: dict[str, Any] = {"colors": colours, "linewidth": 1.0, "alpha": 0.65, "zorder": 2}
    axes.vlines([m.x for m in marks], *zip(*tall, strict=True), **thin)
    axes.hlines([m.y for m in marks], *zip(*wide, strict=True), **thin)
    for mark in marks:
        axes.plot(mark.x, mark.y, mark.marker, color=mark.colour, markersize=6, zorder=3)


def name(
    axes: Axes, size: Span, marks: Sequence[Mark], front: bool = False, most: int | None = None
) -> None:
    """Write the names where they cover nothing; ``size``: of the axes in points, once laid out.

    ``front``: a line runs to the right from every mark that is ahead, and up to the next. Of more
    than ``most`` marks only those ahead are named.
    """
    every = most is None or len(marks) <= most
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()

    def place(x: float, y: float) -> Span:
        return (x - x0) / (x1 - x0) * size[0], (y - y0) / (y1 - y0) * size[1]

    spots = [place(mark.x, mark.y) for mark in marks]
    boxes = []
    for mark, (x, _) in zip(marks, spots, strict=True):
        low, high = (place(mark.x, end)[1] for end in mark.bars[1])
        boxes.append((x - 1.5, low, x + 1.5, high))
    if front:
        ahead = sorted(spot for spot, mark in zip(spots, marks, strict=True) if mark.ahead)
        ends = [spot[0] for spot in ahead[1:]] + [size[0]]
        boxes += [(x, y - 1, end, y + 1) for (x, y), end in zip(ahead, ends, strict=True)]
    shown = [i for i, mark in enumerate(marks) if every or mark.ahead]
    boxes += [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    marks, spots = [marks[i] for i in shown], [spots[i] for i in shown]
    offsets = labels.place(spots, [mark.name for mark in marks], size, SIZE, boxes)
    leaders = []
    for mark, spot, (dx, dy) in zip(marks, spots, offsets, strict=True):
        centre = (spot[0] + dx) / size[0], (spot[1] + dy) / size[1]
        axes.text(*centre, mark.name, transform=axes.transAxes, ha="center", va="center",
                  color=INK if mark.ahead else MUTED, zorder=4, in_layout=False)  # fmt: skip
        half = len(mark.name) * SIZE * labels.CHARACTER / 2
        edge = dx - math.copysign(min(abs(dx), half), dx), dy - math.copysign(min(abs(dy), 4), dy)
        if math.hypot(*edge) > 11:
            ends_at = [(s + e) / n for s, e, n in zip(spot, edge, size, strict=True)]
            leaders.append([(spot[0] / size[0], spot[1] / size[1]), ends_at])
    lines = LineCollection(leaders, colors=MUTED, linewidths=0.5, transform=axes.transAxes)
    axes.add_collection(lines, autolim=False)


def _limits(values: list[float], pad: float) -> Span:
    low, high = min(values), max(values)
    room = (high - low) * pad or abs(high) * 0.1 or 1.0
    return low - room, high + room
