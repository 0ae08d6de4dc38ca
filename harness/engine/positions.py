"""Where tokens stand: one number each, or one on each of several axes (time, row, column).

The decoder's rotary module takes either form, so nothing else asks how many axes there are. What a
method calls compact is the same count on all axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class PositionIds:
    """``ids``: long [B or 1, n], or [A, B or 1, n] for A axes."""

    ids: Tensor

    @classmethod
    def given(cls, ids: Tensor, axes: int) -> tuple[PositionIds, Tensor | None]:
        """As a model hands them to its decoder, and the plain count that masks are made from.

        A model of several axes gives one more in front, the plain one; without it nobody knows
        whether prompts are packed, and a single axis stands for all.
        """
        if axes == 1:
            return cls(ids), ids
        if ids.dim() == 2:
            return cls(ids.expand(axes, -1, -1)), None
        return (cls(ids[1:]), ids[0]) if ids.shape[0] > axes else (cls(ids), None)

    @property
    def axes(self) -> int:
        """How many numbers a token has."""
        return 1 if self.ids.dim() == 2 else int(self.ids.shape[0])

    def of_rows(self, rows: int) -> PositionIds:
        """The same for each of ``rows`` samples."""
        return PositionIds(self.ids.expand(*self.ids.shape[:-2], rows, -1))

    def take(self, columns: Tensor) -> PositionIds:
        """Those of ``columns`` [B, k]."""
        ids = self.of_rows(columns.shape[0]).ids
        if ids.dim() == 3:
            columns = columns.expand(ids.shape[0], -1, -1)
        return PositionIds(ids.gather(-1, columns))

    def numbered(self, ids: Tensor) -> PositionIds:
        """Others [B, k], the same on as many axes as here."""
        return PositionIds(ids if self.axes == 1 else ids.expand(self.axes, -1, -1))

    def last(self, valid: Tensor) -> Tensor:
        """[B, 1] the largest of a row's real tokens, over all axes."""
        ids = self.ids * valid
        return (ids if self.axes == 1 else ids.amax(dim=0)).amax(dim=1, keepdim=True)

    def earlier(self, shift: Tensor) -> PositionIds:
        """All smaller by ``shift`` [B, 1]."""
        return PositionIds(self.ids - shift)

    def rotary(self, decoder: Any, hidden: Tensor) -> Any:
        """cos and sin, in the dtype and on the device of ``hidden``."""
        return decoder.rotary_emb(hidden, position_ids=self.ids)
