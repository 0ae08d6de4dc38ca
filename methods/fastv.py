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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods.base import NUMBERING, Positions, Tokens, param
from methods.scored import Scored

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FastV(Scored):
    """See the module docstring."""

    name: ClassVar[str] = "fastv"
    neutral: ClassVar[dict[str, Any] | None] = {"r": 0.0}
    least: ClassVar[int] = 1
    early: ClassVar[int] = 1

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
        self.require(0 <= self.r <= 1, f"r={self.r} is outside 0..1 (the fraction pruned)")

    def own(self, n: int) -> int:
        share = n * (1 - self.r)
        return round(share) if self.rounding == "round" else int(share)

    def scores(self, layer: int, seq: Tokens) -> Tensor:
        return (seq.last_row if self.score == "last" else seq.mean_row)(layer)
