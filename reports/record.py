"""A routing record as the report draws it: read by the run's own code, checked for its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.store.record import SKIPPED, RoutingRecord

PROCESSED, LEFT_OUT, GONE, MERGED = range(4)


def token_states(record: RoutingRecord) -> NDArray[np.uint8]:
    """[L, n] PROCESSED in its own slot, LEFT_OUT for this layer, GONE, or MERGED."""
    found = np.full(record.route.shape, MERGED, np.uint8)
    found[record.keep] = PROCESSED
    found[record.route == SKIPPED] = LEFT_OUT
    found[record.route < SKIPPED] = GONE
    return found


def read(path: Path) -> RoutingRecord:
    """Read one file and check what pictures need besides; ValueError when it cannot be drawn.

    OSError when it cannot be read.
    """
    return drawable(RoutingRecord.from_npz(path))


def drawable(record: RoutingRecord) -> RoutingRecord:
    """The record itself; ValueError when pictures of it would be wrong."""
    try:
        for grid in record.grid:
            _check(grid, record.n)
        boxes = np.array(record.evidence, float).reshape(len(record.evidence), 4)
    except (KeyError, TypeError, OverflowError):
        raise ValueError("a grid or a box that is none") from None
    if not np.isfinite(boxes).all():
        raise ValueError("boxes without four edges")
    return record


def _check(grid: dict[str, Any], n: int) -> None:
    rows, cols, start = (int(grid[name]) for name in ("rows", "cols", "start"))
    if rows < 1 or cols < 1 or not 0 <= start <= n - rows * (cols + bool(grid["newline"])):
        raise ValueError("a grid outside the prompt")
    json.dumps(grid, allow_nan=False)  # the page takes it as it is
    if not isinstance(grid["kind"], str):
        raise ValueError("a grid of no kind")
    if grid.get("box") is None:  # written before the place was known
        return
    left, top, right, bottom = map(float, grid["box"])
    high, wide = map(float, grid["image"])
    if not (left < right and top < bottom and 0 < high < 1e5 and 0 < wide < 1e5):
        raise ValueError("a grid without a place")
    if not np.isfinite([left, top, right, bottom]).all():
        raise ValueError("a grid without a place")
