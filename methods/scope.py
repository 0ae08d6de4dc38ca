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
kept, for all crops at once and without a question to the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import Drop, Positions, Tokens
from methods.tower import Patches, Tower

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scope(Tower):
    """See the module docstring."""

    name: ClassVar[str] = "scope"
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    keep: int = 64
    alpha: float = 1.0
    tower: int = -2
    positions: Positions = "compact"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.keep >= 0, f"keep={self.keep} is below 0")
        self.require(self.alpha >= 0, f"alpha={self.alpha} is below 0")

    @property
    def tower_taps(self) -> tuple[int, ...]:
        return (self.tower,)

    def before(self, seq: Tokens) -> Drop | None:
        if not any(seq.image_counts):
            return None
        patches = Patches(seq)
        shares = self.shares(patches, self.keep)
        if shares is None:
            return None
        attention = patches.attention(self.tower) * patches.crops[0].heads
        features = patches.states[:, 1:].to(attention.dtype)
        picks = greedy(features, attention**self.alpha, patches.exists, max(shares.keep))
        wanted = patches.on_device(shares.keep)
        picked = patches.spread(picks < wanted, False)
        return Drop(shares.stay | picked, shares.counts, self.positions)


def greedy(features: Tensor, weight: Tensor, exists: Tensor, steps: int) -> Tensor:
    """[C, P] long: in which step each patch is chosen; ``steps`` or more: it is not."""
    import torch

    unit = torch.nn.functional.normalize(features, dim=-1)
    near = unit @ unit.transpose(1, 2)
    near = near.masked_fill(~exists[:, :, None], 0)  # what is not there need not be covered
    covered = torch.zeros_like(weight)
    when = torch.full_like(weight, steps, dtype=torch.long)
    open_ = exists.clone()
    for step in range(steps):
        gain = (near - covered[..., None]).clamp(min=0).sum(dim=1) * weight
        best = gain.masked_fill(~open_, float("-inf")).argmax(dim=1, keepdim=True)
        when = torch.where(open_.gather(1, best), when.scatter(1, best, step), when)
        open_ = open_.scatter(1, best, False)
        column = near.gather(2, best[:, None].expand(-1, near.shape[1], -1))[..., 0]
        covered = torch.maximum(covered, column)
    return when
