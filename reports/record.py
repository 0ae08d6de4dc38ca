"""A routing record as its file holds it. What the numbers mean stands in the run's own code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE, QUESTION = 2, 1  # token kinds; 0 is system text, 3 a given answer
SKIPPED = -1  # routes below are dropped; a route to another token is merged into its slot
PROCESSED, LEFT_OUT, GONE, MERGED = range(4)


@dataclass(frozen=True)
class Record:
    """kinds [n], route [L, n], the grids of the images and the boxes that bear the answer."""

    kinds: NDArray[np.uint8]
    route: NDArray[Any]
    grid: list[dict[str, Any]]
    evidence: list[list[float]]

    @property
    def layers(self) -> int:
        return int(self.route.shape[0])

    @property
    def states(self) -> NDArray[np.uint8]:
        """[L, n] PROCESSED in its own slot, LEFT_OUT for this layer, GONE, or MERGED."""
        states = np.full(self.route.shape, MERGED, np.uint8)
        states[self.route == np.arange(self.route.shape[1])] = PROCESSED
        states[self.route == SKIPPED] = LEFT_OUT
        states[self.route < SKIPPED] = GONE
        return states


def read(path: Path) -> Record:
    """Read and check one file; ValueError and the like for one that is damaged."""
    with np.load(path, allow_pickle=False) as data:
        meta = json.loads(str(data["meta"]))
        record = Record(data["kinds"], data["route"], meta["grid"], meta.get("evidence") or [])
    if record.route.ndim != 2 or not record.layers or record.route.dtype.kind != "i":
        raise ValueError("no routes")
    n = record.route.shape[1]
    if record.kinds.shape != (n,) or (record.route >= n).any() or (record.kinds > 3).any():
        raise ValueError("parts that do not fit together")
    for grid in record.grid:
        _check(grid, n)
    if any(len(box) != 4 for box in record.evidence):
        raise ValueError("boxes without four edges")
    return record


def _check(grid: dict[str, Any], n: int) -> None:
    rows, cols, start = (int(grid[name]) for name in ("rows", "cols", "start"))
    if rows < 1 or cols < 1 or not 0 <= start <= n - rows * (cols + bool(grid["newline"])):
        raise ValueError("a grid outside the prompt")
    left, top, right, bottom = map(float, grid.get("box", (0, 0, 1, 1)))
    high, wide = map(float, grid.get("image", (1, 1)))
    if not (left < right and top < bottom and 0 < high < 1e5 and 0 < wide < 1e5):
        raise ValueError("a grid without a place")
    if not np.isfinite([left, top, right, bottom]).all():
        raise ValueError("a grid without a place")
