"""From a token of the record to the pixels of the original image. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rects = NDArray[np.float64]  # [tokens, 4]: left, top, right, bottom in pixels of the image


def tokens(grid: Mapping[str, Any]) -> NDArray[np.int64]:
    """[rows, cols] index of every patch token; the newline at the end of a row is none of them."""
    rows, cols = int(grid["rows"]), int(grid["cols"])
    width = cols + bool(grid.get("newline"))
    return int(grid["start"]) + np.arange(rows)[:, None] * width + np.arange(cols)[None, :]


def rects(grid: Mapping[str, Any]) -> Rects | None:
    """[rows * cols, 4] pixels of the original image behind every token, row by row.

    Parts outside the image are padding. None where the record does not say how the image was
    fitted (written before it did).
    """
    box = grid.get("box")
    if box is None:
        return None
    rows, cols = int(grid["rows"]), int(grid["cols"])
    left, top, right, bottom = map(float, box)
    x, y = np.linspace(left, right, cols + 1), np.linspace(top, bottom, rows + 1)
    grid_x, grid_y = np.meshgrid(x[:-1], y[:-1])
    far_x, far_y = np.meshgrid(x[1:], y[1:])
    return np.stack([a.ravel() for a in (grid_x, grid_y, far_x, far_y)], axis=1)


def overlapping(
    grids: Sequence[Mapping[str, Any]], boxes: Sequence[Sequence[float]]
) -> NDArray[np.int64]:
    """Tokens of the first image whose pixels overlap one of these boxes, in ascending order."""
    found = [np.zeros(0, np.int64)]
    for grid in grids:
        places = rects(grid)
        if places is None or grid.get("number", 0) != 0 or grid.get("mixed"):
            continue
        hit = np.zeros(len(places), bool)
        for left, top, right, bottom in boxes:
            hit |= (
                (places[:, 0] < right) & (places[:, 2] > left)
                & (places[:, 1] < bottom) & (places[:, 3] > top)
            )  # fmt: skip
        found.append(tokens(grid).ravel()[hit])
    return np.unique(np.concatenate(found))
