"""SCOPE: cover the image, weighted by the class token's attention (NeurIPS 2025, arXiv 2510.24214).

Before the language model, every crop's patches are chosen one after another: the gain of a patch
is how much it adds to the coverage (each patch is covered as well as its nearest chosen one, by
cosine of what the projector reads, from 0 on), times its attention from the class token (tower
layer ``tower``, sum over heads) to the power ``alpha``. Raster order, numbered without gaps.

Follows the released code's rule: ``keep`` a crop (the paper's "64"; of several crops int(K / crops)
each), alpha 1, one term times the other. It reads its settings from the environment and its script
for any-resolution images runs another method; here both kinds of model run the rule above.
Different here: float32; un-padding stays, patches of the padding neither count as covered nor are
chosen; newline tokens leave; a budget as in ``methods/budget.py``. The loop has one step a token
kept, for all crops at once and without a question to the device. Where a token joins patches
(InternVL, two by two), its attention is the mean of theirs, and their states stand side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from methods.base import NUMBERING, Drop, Positions, Tokens, param
from methods.greedy import cover
from methods.picking import Keeping, unit
from methods.pictures import Picture
from methods.tower import Patches, Tower


@dataclass(frozen=True)
class Scope(Tower, Keeping):
    """See the module docstring."""

    name: ClassVar[str] = "scope"
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    keep: int = param(64, "patches kept of 576, of every crop")
    alpha: float = param(1.0, "power of the class token's attention in a patch's gain")
    positions: Positions = param("compact", NUMBERING)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.alpha >= 0, f"alpha={self.alpha} is below 0")

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
        weight = (patches.attention(self.tower) * seq.crops[0].heads) ** self.alpha
        features = unit(patches.features())  # zero in the padding, which need not be covered
        patches.note("tower", lambda g, n: g * n * n * seq.info.joins)
        alike = features @ features.transpose(1, 2)
        order, _ = cover(alike, patches.there, patches.steps, weight)
        return patches.drop(order, self.positions)
