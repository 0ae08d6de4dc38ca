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
paper's "64" (the released function's own default is 191 + 30). A budget (``methods/budget.py``)
keeps the ratio of the two.
Different here: un-padding stays, so patches of the padding are no candidates; similarities are
float32; ties go to the lowest index. The class token and the record: it takes the place of the
crop's first patch that is neither dominant nor a target, and is recorded there; a crop that keeps
all its tokens trades one patch for it. Not here: the variant with a tuned projector.

A tower without class token (SigLIP, Qwen-VL): all ``dominant`` tokens are those that *receive* most
attention in the last layer, mean over heads, queries and, where a token joins patches, its patches
(keys likewise, as they meet the queries), as the paper says of SigLIP and as ports to Qwen2.5-VL
do. Tokens merge behind the projector there, since a token need not be one patch: target plus mean
of what joined it; all stay in raster order. Ports keep position ids: ``positions=original``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import NUMBERING, Merge, Positions, Ranking, Tokens, param, top_k_mask
from methods.picking import unit, wide
from methods.pictures import PATCHES, Picture
from methods.tower import Patches, Received, rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class VisionZip(Received):
    """See the module docstring."""

    name: ClassVar[str] = "visionzip"
    reorders: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    dominant: int = param(54, "most attended tokens of a crop, the class token included, of 576")
    contextual: int = param(10, "merged tokens of a crop, of 576")
    positions: Positions = param("compact", NUMBERING)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.dominant >= 2, f"dominant={self.dominant} is below 2")
        self.require(self.contextual >= 0, f"contextual={self.contextual} is below 0")
        most = self.dominant + self.contextual
        self.require(most <= PATCHES + 1, f"dominant + contextual = {most} is above {PATCHES + 1}")

    def own(self, picture: Picture) -> list[int]:
        return picture.each(self.dominant + self.contextual)

    def parts(self, kept: int) -> tuple[int, int]:
        """(dominant, the class token included; contextual) of a crop's tokens."""
        merged = round(kept * self.contextual / (self.dominant + self.contextual))
        return kept - merged, merged

    def before(self, seq: Tokens) -> Merge | None:
        if not any(seq.image_counts):
            return None
        patches = Patches(seq)
        return self._merge(patches) if patches.share(self) else None

    def _merge(self, patches: Patches) -> Merge:
        import torch

        there, device, info = patches.there, patches.there.device, patches.seq.info
        layer = self.read_at(info)
        split = [self.parts(kept) for kept in patches.sizes]
        best = [max(0, first - info.class_tokens) for first, _ in split]
        attention = patches.attention(layer)
        dominant = top_k_mask(attention, there, best)
        target, number = targets(patches, there & ~dominant, best, [m for _, m in split])
        free = there & ~dominant & ~target
        # A crop that keeps nothing has no class token either.
        with_class = patches.on_device([kept > 0 for kept in patches.sizes])
        host = free & (free.long().cumsum(dim=1) == 1) & with_class
        if not info.class_tokens:
            host = torch.zeros_like(free)
        # Targets of each crop side by side; columns behind a crop's own number are empty.
        width = max(1, *(m for _, m in split))
        slots = (~target).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        numbers = torch.arange(width, device=device)
        merged = patches.on_device([m for _, m in split])
        keys = patches.keys(layer).unflatten(2, (patches.seq.crops[0].heads, -1))
        keys = unit(keys.mean(dim=2))
        columns = [max(1, m) for _, m in split]  # of the tables, one at least
        patches.note("tower_head", lambda g, n, m: g * n * m, columns)
        near = keys @ rows(keys, slots).transpose(1, 2)
        joined = near.masked_fill((numbers >= merged)[:, None], float("-inf")).argmax(dim=2)
        slot = torch.arange(there.shape[1], device=device).expand_as(there)
        slot = torch.where(free & ~host, slots.gather(1, joined), slot)
        gone = (free & ~host & (merged == 0)) | ~(with_class & there)
        slot = slot.masked_fill(gone, -1)
        ranked = patches.ranking(attention, dominant)
        if not info.class_tokens:
            return behind_projector(patches, slot, self.positions, ranked)
        states = patches.features()
        patches.note("tower", lambda g, n, m: g * n * m, columns)  # the means
        joins = ((joined[..., None] == numbers) & free[..., None]).to(states.dtype)
        mean = joins.transpose(1, 2) @ states / joins.sum(dim=1).clamp(min=1)[..., None]
        crop = torch.arange(len(split), device=device)[:, None]
        new = [
            (torch.where(host, crop, -1), patches.class_states(), [1] * len(split)),
            (torch.where(target, crop * width + number, -1), rows(states, slots) + mean, columns),
        ]
        key = self._key(patches, dominant, target)
        limit = 6 * (there.numel() + patches.seq.kinds.shape[1])
        return patches.merge(slot, new, key, limit, self.positions, ranked)

    @staticmethod
    def _key(patches: Patches, dominant: Tensor, target: Tensor) -> Tensor:
        """[G, n] where a token stands in its image: group by group, in a group by raster."""
        import torch

        # class, dominant, contextual of the base crop; dominant, class, contextual of the tiles
        tile = patches.on_device([group.tile for group in patches.groups])
        group = torch.where(target, 2, torch.where(dominant, 1, 0))
        tiles = torch.where(target, 5, torch.where(dominant, 3, 4))
        group = torch.where(tile, tiles, group)
        places = torch.arange(target.numel(), device=target.device).view(target.shape)
        length = patches.seq.kinds.shape[1]
        within = torch.where(group == 3, patches.where % length, places)
        return group * (target.numel() + length) + within


def targets(
    patches: Patches, others: Tensor, best: list[int], wanted: list[int]
) -> tuple[Tensor, Tensor]:
    """[G, n] which of ``others`` are merged into, every so-manieth, and the number of each."""
    rest = [length - b for length, b in zip(patches.lengths, best, strict=True)]
    steps = patches.on_device([max(1, r // max(m, 1)) for r, m in zip(rest, wanted, strict=True)])
    rank = others.long().cumsum(dim=1) - 1
    number = rank // steps
    return others & (rank % steps == 0) & (number < patches.on_device(wanted)), number


def behind_projector(
    patches: Patches, slot: Tensor, positions: Positions, ranked: Ranking
) -> Merge:
    """Merge running states: a slot is its own token plus the mean of those that join it."""
    import torch

    assign = patches.assign(slot)
    columns = torch.arange(assign.shape[1], device=assign.device)
    into, joins = assign.clamp(min=0), (assign >= 0) & (assign != columns)
    count = torch.zeros_like(assign).scatter_add(1, into, joins.long()).clamp(min=1)

    def mixed(states: Tensor) -> Tensor:
        full = wide(states)
        where = into[..., None].expand_as(full)
        total = torch.zeros_like(full).scatter_add(1, where, full * joins[..., None])
        return (full + total / count[..., None]).to(states.dtype)

    return Merge(
        assign, patches.counts, mixed(patches.seq.hidden), same=mixed, positions=positions,
        ranked=ranked,
    )  # fmt: skip
