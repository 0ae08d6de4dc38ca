"""Control: 2-D average pooling of the image features before the language model.

Every patch grid (for any-resolution images the base crop and the joined tiles, each on its own) is
pooled adaptively to about ``keep`` of its tokens, rows and columns shrinking alike, or to ``side``
x ``side``, or as near to a budget (``tokens``, ``ratio``, ``kv``) as a grid of about the same
proportions comes, newlines counted. Newline tokens behind a row stay, one per pooled row. A pooled
token stands where the middle token of its window stood. ``positions=compact`` (default) renumbers
the shorter sequence, as if the image had fewer tokens; ``original`` leaves the gaps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import NUMBERING, Merge, ModelInfo, Positions, Role, Tokens, on_device, param
from methods.budget import Budgeted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pool(Budgeted):
    """See the module docstring."""

    name: ClassVar[str] = "pool"
    role: ClassVar[Role] = "control"
    coarse: ClassVar[bool] = True
    apart: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any] | None] = {"keep": 1.0}

    keep: float = param(0.25, "share of a patch grid's tokens kept")
    side: int | None = param(None, "side of the pooled grid, in place of keep")
    positions: Positions = param("compact", NUMBERING)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.keep <= 1, f"keep={self.keep} is outside 0..1")
        self.require(self.side is None or self.side >= 1, f"side={self.side} is below 1")

    def check(self, info: ModelInfo) -> None:
        high = info.tower_side or self.side or 0
        most = f"side={self.side} is above the {high} patches of a crop's side"
        self.require(self.side is None or self.side <= high, most)
        super().check(info)

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [True] * info.layers

    def request(self, info: ModelInfo, n: int) -> list[int] | None:
        side = math.isqrt(n)
        return [math.prod(self.shape(side, side))] * info.layers if side * side == n else None

    def shape(self, rows: int, cols: int, newline: int = 0, image: int = 0) -> tuple[int, int]:
        """Pooled (rows, columns) of a grid; never more than it had, never less than one.

        ``image``: tokens of its whole image, where that has more grids than this one.
        """
        whole = image or rows * (cols + newline)
        wanted = self.target(whole)
        if wanted is not None:
            return self._nearest(rows, cols, newline, wanted / whole)
        if self.side is not None:
            return min(self.side, rows), min(self.side, cols)
        scale = math.sqrt(self.keep)
        return max(1, round(rows * scale)), max(1, round(cols * scale))

    def _shape(self, grid: dict[str, Any]) -> tuple[int, int]:
        image = grid["image_length"]
        return self.shape(grid["rows"], grid["cols"], int(grid["newline"]), image)

    @staticmethod
    def _nearest(rows: int, cols: int, newline: int, share: float) -> tuple[int, int]:
        """The grid nearest to the share; at equal distance the one least distorted."""
        scale, wanted = math.sqrt(share), rows * (cols + newline) * share
        ends = [(max(1, int(n * scale) - 1), min(n, int(n * scale) + 2)) for n in (rows, cols)]
        (top, bottom), (left, right) = ends
        shapes = [(h, w) for h in range(top, bottom + 1) for w in range(left, right + 1)]

        def distance(shape: tuple[int, int]) -> tuple[float, float]:
            high, wide = shape
            off = abs(high * (wide + newline) - wanted)
            return round(off, 6), round(abs(math.log(high * cols / (wide * rows))), 6)

        return min(shapes, key=distance)

    def before(self, seq: Tokens) -> Merge | None:
        if not any(self._removed(grid) for grids in seq.grids for grid in grids):
            return None
        length = seq.kinds.shape[1]
        assign = [list(range(length)) for _ in seq.counts]
        counts = list(seq.counts)
        slots: list[tuple[int, dict[str, Any], Tensor]] = []  # row, grid, where its windows stand
        for b, grids in enumerate(seq.grids):
            for grid in grids:
                where = on_device(self._assign(grid, assign[b]), seq.hidden.device)
                slots.append((b, grid, where))
                counts[b] -= self._removed(grid)

        def pooled(table: Tensor) -> Tensor:
            return self._pooled(table, slots)

        chosen = on_device(assign, seq.hidden.device)
        return Merge(
            chosen, counts, states=pooled(seq.hidden), same=pooled, positions=self.positions
        )

    def _pooled(self, table: Tensor, slots: Sequence[tuple[int, dict[str, Any], Tensor]]) -> Tensor:
        """[B, m, d] with the mean of its window at every slot."""
        import torch.nn.functional as F

        found = table.clone()
        for b, grid, where in slots:
            rows, cols, step = grid["rows"], grid["cols"], grid["cols"] + grid["newline"]
            cells = table[b, grid["start"] : grid["start"] + rows * step]
            cells = cells.view(rows, step, -1)[:, :cols].permute(2, 0, 1)
            means = F.adaptive_avg_pool2d(cells, self._shape(grid)).flatten(1).transpose(0, 1)
            found[b] = found[b].index_copy(0, where, means)
        return found

    def _assign(self, grid: dict[str, Any], assign: list[int]) -> list[int]:
        """Write where each token of a grid goes (the nearest slot); returns the slots in order."""
        rows, cols, step = grid["rows"], grid["cols"], grid["cols"] + grid["newline"]
        high, wide = self._shape(grid)
        down, right = windows(rows, high), windows(cols, wide)
        to_cols = [min(right, key=lambda slot: abs(slot - c)) for c in range(cols)]
        for r in range(rows):
            to_row = grid["start"] + min(down, key=lambda slot: abs(slot - r)) * step
            first = grid["start"] + r * step
            assign[first : first + cols] = [to_row + to_col for to_col in to_cols]
            if grid["newline"]:
                assign[first + cols] = to_row + cols
        return [grid["start"] + r * step + c for r in down for c in right]

    def _removed(self, grid: dict[str, Any]) -> int:
        high, wide = self._shape(grid)
        newlines = grid["rows"] - high if grid["newline"] else 0
        return grid["rows"] * grid["cols"] - high * wide + newlines


def windows(length: int, count: int) -> list[int]:
    """Middle index of each adaptive pooling window [floor(iL/n), ceil((i+1)L/n))."""
    ends = [(-(-(i + 1) * length // count)) for i in range(count)]
    return [(i * length // count + ends[i] - 1) // 2 for i in range(count)]
