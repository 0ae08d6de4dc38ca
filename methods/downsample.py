"""Control: the image shrunk to the token budget before the vision tower.

Less resolution in place of fewer tokens of a full one: the row that VTC-Bench (arXiv 2510.07143)
found above many pruning methods on common benchmarks. A tower that takes images of any size
(Qwen2-VL and later) sees the smaller image as it is; one of a fixed size (CLIP, SigLIP) sees fewer
patches, its position embedding interpolated bicubically, as transformers does it for other sizes.
Both run on the smaller image only, projector included, so that it saves the tower's work as well.

The grid is chosen as ``pool`` does: about ``keep`` of the tokens, ``side`` x ``side``, or as near
to a budget (``tokens``, ``ratio``, ``kv``) as a grid of about the same proportions comes. Ours: the
picture is shrunk (bicubic, antialiased) from the pixels that the processor made, padding and cuts
included, so that nothing but resolution differs from dense; and a token stands where the middle
token of what it covers stood. ``positions=compact`` (default) numbers them as if the image had no
more tokens, ``original`` leaves the gaps. Any-resolution tiles, a second tower, and features that
are shuffled together are refused: a smaller image there is another choice of tiles, not a budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import ModelInfo
from methods.pool import Pool, windows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Downsample(Pool):
    """See the module docstring."""

    name: ClassVar[str] = "downsample"
    shrinks: ClassVar[bool] = True

    def shrink(self, rows: int, cols: int) -> tuple[list[int], list[int]] | None:
        high, wide = self.shape(rows, cols)
        if (high, wide) == (rows, cols):
            return None
        return windows(rows, high), windows(cols, wide)

    def fits(self, info: ModelInfo) -> None:
        self.require(not info.unshrunk, info.unshrunk)
        super().fits(info)

    def _pooled(self, table: Tensor, slots: Sequence[tuple[int, dict[str, Any], Tensor]]) -> Tensor:
        """The states as they are: the tower made one a slot."""
        return table
