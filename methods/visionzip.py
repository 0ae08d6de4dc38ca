"""VisionZip: dominant and contextual tokens, before the language model (Yang et al. 2024,
arXiv 2412.04467).

Of every crop stay: the class token and the ``dominant`` - 1 patches it looks at most (tower layer
``tower``), and ``contextual`` merged tokens. Targets of the merge are every so-manieth of the
other patches; each of the rest joins the target whose key (head mean, cosine) is nearest, and the
token is the target plus the mean of what joined it, formed before the projector.

Follows the released code: the class token counts and is kept; the merged vector is that *sum* of
two, about twice as long as its neighbours; stride max(1, R // contextual) over the R others;
numbered without gaps; order class token, dominant in raster order, contextual. On any-resolution
images that order holds for the base crop; then come all tiles' dominant patches in the joined
raster, their class tokens, their contextual tokens. Newline tokens leave. 54 + 10 a crop is the
paper's "64". A budget (``methods/budget.py``) keeps the ratio of the two.
Different here: un-padding stays, so patches of the padding are no candidates; similarities are
float32; ties go to the lowest index. The class token and the record: it takes the place of the
crop's first patch that is neither dominant nor a target, and is recorded there; a crop that keeps
all its tokens trades one patch for it. Not here: the variant with a tuned projector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import Merge, Positions, Tokens, top_k_mask
from methods.tower import CROP, Patches, Shares, Tower, rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class VisionZip(Tower):
    """See the module docstring."""

    name: ClassVar[str] = "visionzip"
    reorders: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    dominant: int = 54
    contextual: int = 10
    tower: int = -2
    positions: Positions = "compact"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.dominant >= 2, f"dominant={self.dominant} is below 2")
        self.require(self.contextual >= 0, f"contextual={self.contextual} is below 0")
        most = self.dominant + self.contextual
        self.require(most <= CROP + 1, f"dominant + contextual = {most} is above {CROP + 1}")

    @property
    def tower_taps(self) -> tuple[int, ...]:
        return (self.tower,)

    def parts(self, kept: int) -> tuple[int, int]:
        """(dominant, the class token included; contextual) of a crop's tokens."""
        merged = round(kept * self.contextual / (self.dominant + self.contextual))
        return kept - merged, merged

    def before(self, seq: Tokens) -> Merge | None:
        if not any(seq.image_counts):
            return None
        patches = Patches(seq)
        shares = self.shares(patches, self.dominant + self.contextual)
        return None if shares is None else self._merge(patches, shares)

    def _merge(self, patches: Patches, shares: Shares) -> Merge:
        import torch

        split = [self.parts(kept) for kept in shares.keep]
        # A crop that keeps nothing has no class token either.
        with_class = patches.on_device([kept > 0 for kept in shares.keep])
        best = [max(0, first - 1) for first, _ in split]
        dominant = top_k_mask(patches.attention(self.tower), patches.exists, best)
        others = patches.exists & ~dominant
        rank = others.long().cumsum(dim=1) - 1
        merged = patches.on_device([m for _, m in split])
        rest = [size - b for size, b in zip(patches.sizes, best, strict=True)]
        stride = [max(1, r // max(m, 1)) for r, (_, m) in zip(rest, split, strict=True)]
        steps = patches.on_device(stride)
        number = rank // steps  # of the target, where it is one
        target = others & (rank % steps == 0) & (number < merged)
        free = others & ~target
        host = free & (free.long().cumsum(dim=1) == 1) & with_class
        # Targets of each crop side by side; columns behind a crop's own number are empty.
        width = max(1, *(m for _, m in split))
        slots = (~target).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        numbers = torch.arange(width, device=slots.device)
        real = numbers < merged
        keys = patches.keys(self.tower)
        keys = keys.unflatten(2, (patches.crops[0].heads, -1)).mean(dim=2)
        keys = torch.nn.functional.normalize(keys, dim=-1)
        near = keys @ rows(keys, slots).transpose(1, 2)
        joined = near.masked_fill(~real[:, None], float("-inf")).argmax(dim=2)
        joins = (joined[..., None] == numbers) & free[..., None]
        states = patches.states
        wide = states.to(keys.dtype)[:, 1:]
        total = joins.to(keys.dtype).transpose(1, 2) @ wide
        mean = total / joins.sum(dim=1).clamp(min=1)[..., None]
        fused = (rows(wide, slots) + mean).to(states.dtype)
        # Where every patch goes, and which new states the slots take.
        crop = torch.arange(len(split), device=slots.device)[:, None]
        context = torch.where(target, crop * width + number, -1)
        hidden = patches.put(
            [
                (torch.where(host, crop, -1), patches.seq.project(states[:, :1])),
                (context, patches.seq.project(fused)),
            ]
        )
        slot = patches.columns.gather(1, slots).gather(1, joined)
        slot = torch.where(dominant | target | host, patches.columns, slot)
        gone = (free & ~host & (merged == 0)) | ~(with_class & patches.exists)
        columns = torch.arange(hidden.shape[1], device=slots.device)
        assign = torch.where(shares.stay, columns, patches.spread(slot.masked_fill(gone, -1), -1))
        order = self._order(patches, dominant, target, shares.stay)
        return Merge(assign, shares.counts, hidden, positions=self.positions, order=order)

    @staticmethod
    def _order(patches: Patches, dominant: Tensor, target: Tensor, stay: Tensor) -> Tensor:
        """[B, m] sort key: image by image, within an image group by group."""
        import torch

        tile = patches.on_device(patches.tiles)
        # class, dominant, contextual of the base crop; dominant, class, contextual of the tiles
        group = torch.where(target, 2, torch.where(dominant, 1, 0))
        group = torch.where(tile, torch.where(target, 5, torch.where(dominant, 3, 4)), group)
        group, length = patches.spread(group, 0), stay.shape[1]
        columns = torch.arange(length, device=stay.device)
        size = max(len(patches.crops) * patches.per_crop, length)
        within = torch.where(group == 3, columns, patches.origins.clamp(min=0))
        return patches.order(group * size + within, 6 * size, stay)
