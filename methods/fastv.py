"""FastV: drop image tokens after layer k by attention (Chen et al. 2024, arXiv 2403.06764).

Layers 0..k-1 see everything. Image tokens are scored by layer k-1's attention and the best
round(N * (1 - r)) of the sample stay, in order; text always stays. Training-free, one event.

Defaults are the paper's headline setting; the demo of the released code has k=3, r=0.75, its port
to an evaluation harness k=3, r=0.5.

Follows the released KV-cached code: pruned once at prefill, ``k`` counts the layers that see all
tokens, ``r`` is the fraction *pruned*, original position ids. Its other variants use the same
names differently: there ``ratio`` is the fraction kept (0.5 is the only value where both agree).
``positions=compact`` numbers the kept tokens anew, as one of them does.

  score      ``last``: the row of the last prompt token (the code); ``all``: the mean over all
             prompt rows (the paper's wording).
  rounding   ``round`` half to even (the code's), ``int`` truncates (its other variant).
  budget     ``tokens``, ``ratio`` or ``kv`` replaces ``r``: what is left behind layer k is solved
             so that the mean over all layers, those before k at full length, meets it.
Different here: that one row is computed beside the fast kernel in float32 (the code runs layer
k-1 in eager mode and takes the mean in half precision); image tokens are found from the prompt
and not by the constants 35 or 36 and 576, so any-resolution images, newline tokens included, and
several images work, pooled per sample; ties go to the lowest index; the layer's keys are stored
once (one released variant stores them twice).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from methods.base import NUMBERING, Drop, ModelInfo, Positions, Tokens, keep_best, param
from methods.budget import Budgeted


@dataclass(frozen=True)
class FastV(Budgeted):
    """See the module docstring."""

    name: ClassVar[str] = "fastv"
    neutral: ClassVar[dict[str, Any] | None] = {"r": 0.0}

    k: int = param(2, "layers that see all image tokens")
    r: float = param(0.5, "share of the image tokens that is pruned")
    score: Literal["last", "all"] = param(
        "last", "attention row of the last prompt token, or the mean over all prompt rows"
    )
    rounding: Literal["round", "int"] = param(
        "round", "of the number kept: half to even, or cut off"
    )
    positions: Positions = param("original", NUMBERING)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.k >= 1, f"k={self.k} is below 1: some layer must score the tokens")
        self.require(0 <= self.r <= 1, f"r={self.r} is outside 0..1 (the fraction pruned)")

    def check(self, info: ModelInfo) -> None:
        self.require(self.k < info.layers, f"k={self.k} needs more than {info.layers} layers")
        super().check(info)

    def lower(self, info: ModelInfo) -> Iterator[dict[str, Any]]:
        return ({"k": k} for k in range(self.k - 1, 0, -1))

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i >= self.k for i in range(info.layers)]

    def request(self, info: ModelInfo, n: int) -> list[int]:
        left = self.kept(n, 1, info.layers)
        return [n if i < self.k else left for i in range(info.layers)]

    def kept(self, n: int, images: int = 1, layers: int = 32) -> int:
        """Image tokens left of ``n``."""
        budget = self.behind(n, images, self.k, layers)
        if budget is not None:
            return budget
        share = n * (1 - self.r)
        return round(share) if self.rounding == "round" else int(share)

    def layer(self, layer: int, seq: Tokens) -> Drop | None:
        if layer == self.k - 1 and any(seq.image_counts):
            seq.memo["fastv"] = (seq.last_row if self.score == "last" else seq.mean_row)(layer)
        if layer != self.k or "fastv" not in seq.memo:
            return None
        pairs = zip(seq.image_counts, self.images(seq), strict=True)
        counts = [self.kept(n, images, seq.info.layers) for n, images in pairs]
        return keep_best(seq, seq.memo.pop("fastv"), counts, self.positions)
