"""FasterVLM: keep the patches the class token looks at (Zhang et al. 2024, arXiv 2412.01818 v1).

Before the language model, every crop keeps the ``keep`` patches with the highest attention from
the class token of tower layer ``tower`` (head mean), in raster order, numbered as if the image had
fewer tokens. Text plays no part; nothing is merged; the class token itself stays out.

Follows the released code: the last layer but one, an amount per crop (144 of 576, by default, is
one of the paper's five budgets), no newline tokens on any-resolution images. ``tokens``, ``ratio``
and ``kv`` take the place of ``keep`` (``methods/budget.py``), split over an image's crops as
``methods/picking.py`` says.
Different here: the attention row is formed beside the tower's own kernel in float32; LLaVA-NeXT
keeps its own grid rule and its un-padding (the code chooses the grid by filled area and does not
un-pad), so patches of the padding are no candidates; ties go to the lowest index. Where a token
joins patches (InternVL, two by two), its attention is the mean of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from methods.base import NUMBERING, Drop, Positions, Tokens, param
from methods.picking import Keeping
from methods.pictures import Picture
from methods.tower import Patches, Tower


@dataclass(frozen=True)
class FasterVLM(Tower, Keeping):
    """See the module docstring."""

    name: ClassVar[str] = "fastervlm"
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    keep: int = param(144, "patches kept of 576, of every crop")
    positions: Positions = param("compact", NUMBERING)

    @property
    def reads_joined(self) -> bool:
        return True

    def own(self, picture: Picture) -> list[int]:
        return picture.each(self.keep)

    def before(self, seq: Tokens) -> Drop | None:
        if not any(seq.image_counts):
            return None
        patches = Patches(seq)
        if not patches.share(self):
            return None
        attention = patches.attention(self.tower)
        return patches.drop(patches.best(attention), self.positions, attention)
