"""Where to write names so that they do not cover each other."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]
"""left, bottom, right, top in points."""

CHARACTER = 0.56
"""Width of an average character in units of the font size (generous: fonts differ)."""

ANGLES = np.radians((20, -20, 160, -160, 70, -70, 110, -110, 0, 180))
RADII = np.array((8.0, 14.0, 22.0, 32.0, 44.0))
DIRECTIONS = np.tile(np.column_stack([np.cos(ANGLES), np.sin(ANGLES)]), (len(RADII), 1))
RADIUS = np.repeat(RADII, len(ANGLES))[:, None]
PREFERENCE = np.add.outer(6.0 * np.arange(len(RADII)), 0.3 * np.arange(len(ANGLES))).ravel()
"""A small price on every candidate: near places first, right of the point first."""


LONGEST = 24
"""Characters of a name on one line beside a row."""


def wrapped(names: Sequence[str]) -> list[str]:
    """Names on as many lines as leave room for the drawing beside them."""
    return [
        "\n".join(part for line in name.split("\n") for part in textwrap.wrap(line, LONGEST))
        for name in names
    ]


def inches(names: Sequence[str]) -> tuple[float, float]:
    """Width of the longest line and height of a row of such names, at the figures' one size."""
    lines = [name.split("\n") for name in wrapped(names)]
    widest = max((len(line) for one in lines for line in one), default=0)
    return 0.3 + 0.075 * widest, 0.14 * max((len(one) for one in lines), default=1) + 0.06


def place(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    size: tuple[float, float],
    font: float,
    obstacles: Sequence[Box] = (),
) -> list[tuple[float, float]]:
    """Offsets of the label centres from their points.

    Args:
        points: positions in points, from the lower left corner of the axes.
        names: the label of each point.
        size: width and height of the axes in points; labels stay inside.
        font: font size in points.
        obstacles: further boxes that labels should keep off (error bars).
    """
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points] + list(obstacles)
    found = [(0.0, 0.0)] * len(points)
    # Crowded points choose first: they have the fewest good places.
    for index in sorted(range(len(points)), key=lambda i: -_crowding(points, i)):
        half = len(names[index]) * font * CHARACTER / 2, font * 0.6
        offsets = DIRECTIONS * RADIUS + np.clip(DIRECTIONS * (1, 2), -1, 1) * half
        centres = offsets + points[index]
        boxes = np.hstack([centres - half, centres + half])
        best = int(np.argmin(_badness(boxes, np.array(taken), size) + PREFERENCE))
        found[index] = (float(offsets[best, 0]), float(offsets[best, 1]))
        taken.append(tuple(boxes[best]))
    return found


def _crowding(points: Sequence[tuple[float, float]], index: int) -> float:
    here = points[index]
    return sum(1 / (1 + math.dist(here, p)) for i, p in enumerate(points) if i != index)


def _badness(boxes: Floats, taken: Floats, size: tuple[float, float]) -> Floats:
    """Of every candidate box: the area it covers, and a high price for leaving the axes."""
    low = np.maximum(boxes[:, None, :2], taken[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], taken[None, :, 2:])
    covered = np.prod(np.clip(high - low, 0, None), axis=2).sum(axis=1)
    outside = np.clip(-boxes[:, :2], 0, None) + np.clip(boxes[:, 2:] - size, 0, None)
    return np.asarray(covered + 60 * outside.sum(axis=1))
