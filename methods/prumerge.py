"""LLaVA-PruMerge and PruMerge+: adaptive pruning and merging (Shang et al. 2024, arXiv 2403.15388).

Patches are scored by the class token's row in the last tower layer, its queries and keys taken as
one wide head. Every crop keeps its outliers, above the third quartile + ``iqr`` times the range of
the quartiles. A kept patch takes in the ``neighbours`` patches nearest by key (cosine), kept or
not, each times its attention; one more token is the sum of all pruned patches times theirs.
``plus`` adds every t-th patch, t = int(int(N / k) / 3) with k outliers of N; it is off by default,
while the released forward pass runs it.

Follows the released code: sums that are not normalised, formed before the projector; order by
falling attention, then the added patches, then the extra token; numbered without gaps.
Guards (the code stops or divides by zero): at least one outlier, and t >= 1, so that with more
than N / 6 outliers PruMerge+ adds everything. Without pruned patches there is no extra token.
A budget (``methods/budget.py``) takes the place of the outliers: of K tokens one is the extra
one; ``plus`` gives half of the others, rounded up, to the best, half to evenly spaced ones among
the rest. The code's fixed amounts put some patches in twice.
Different here: batches; LLaVA-NeXT, crop by crop, over patches that have a token, without newline
tokens; ties go to the lowest index. The extra token is recorded at its crop's first pruned patch.
The released weights tuned with pruning are not the base model's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import NUMBERING, Merge, ModelInfo, Positions, Tokens, param
from methods.picking import unit
from methods.tower import Patches, Tower, rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PruMerge(Tower):
    """See the module docstring."""

    name: ClassVar[str] = "prumerge"
    reorders: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    plus: bool = param(False, "PruMerge+: also keep evenly spaced patches")
    iqr: float = param(
        1.5, "quartile ranges above the third quartile from which a patch is an outlier"
    )
    neighbours: int = param(32, "patches nearest by key that a kept one takes in")
    tower: int = param(-1, "tower layer whose attention is read (-1: the last)")
    positions: Positions = param("compact", NUMBERING)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.iqr >= 0, f"iqr={self.iqr} is below 0")
        self.require(self.neighbours >= 0, f"neighbours={self.neighbours} is below 0")

    def request(self, info: ModelInfo, n: int) -> list[int] | None:
        return None if self.target(n) is None else super().request(info, n)

    def before(self, seq: Tokens) -> Merge | None:
        if not any(seq.image_counts):
            return None
        import torch

        patches, adaptive = Patches(seq), self.target(1) is None
        if not adaptive and not patches.share(self):
            return None
        rows = [row[0] for row in patches.class_rows(self.tower, heads=1)]
        attention = patches.behind(torch.cat(rows))
        ranked = attention.masked_fill(~patches.there, float("-inf"))
        ranks = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        if adaptive:
            best, added = self._adaptive(patches, attention, ranks)
            chosen = (best | added).sum(dim=1).tolist()  # what stands out is for the device to say
            pairs = zip(chosen, patches.lengths, strict=True)
            patches.sizes = [c + (c < length) for c, length in pairs]
        else:
            chosen = [max(0, kept - 1) for kept in patches.sizes]
            best, added = self._fixed(patches, ranks, chosen)
        slots = [max(1, k) for k in chosen]  # of the tables, one at least
        merge = self._merge(patches, attention, ranks, added, best | added, slots)
        return replace(merge, counts=None) if adaptive else merge  # known from the device alone

    def _adaptive(self, patches: Patches, attention: Tensor, ranks: Tensor) -> tuple[Tensor, ...]:
        """[G, n] bool each: the outliers, and what ``plus`` adds to them."""
        there = patches.there
        rising, _ = attention.masked_fill(~there, float("inf")).sort(dim=1)

        def quartile(share: float) -> Tensor:
            at = [share * (length - 1) for length in patches.lengths]
            low = patches.on_device([int(x) for x in at])
            high = patches.on_device([int(-(-x // 1)) for x in at])
            part = patches.on_device([x % 1 for x in at]).to(rising.dtype)
            return rising.gather(1, low).lerp(rising.gather(1, high), part)

        first, third = quartile(0.25), quartile(0.75)
        above = (attention > third + self.iqr * (third - first)) & there
        count = above.sum(dim=1, keepdim=True).clamp(min=1)
        best = (ranks < count) & there
        lengths = patches.on_device(patches.lengths)
        step = (lengths // count // 3).clamp(min=1)
        number = there.long().cumsum(dim=1) - 1
        even = there & (number % step == 0) & (number < lengths - 1) & ~best
        return best, even if self.plus else even & False

    def _fixed(self, patches: Patches, ranks: Tensor, chosen: list[int]) -> tuple[Tensor, ...]:
        """The same for ``chosen`` patches a crop."""
        spaced = [k // 2 if self.plus else 0 for k in chosen]
        top = [k - s for k, s in zip(chosen, spaced, strict=True)]
        best = (ranks < patches.on_device(top)) & patches.there
        rest = patches.there & ~best
        left = [max(1, n - t) for n, t in zip(patches.lengths, top, strict=True)]
        return best, rest & evenly(rest, patches.on_device(left), patches.on_device(spaced))

    def _merge(
        self,
        patches: Patches,
        attention: Tensor,
        ranks: Tensor,
        added: Tensor,
        kept: Tensor,
        most: list[int],
    ) -> Merge:
        """``kept`` [G, n] (at most ``most`` a crop) take in neighbours, the rest is one token."""
        import torch

        there, width = patches.there, patches.there.shape[1]
        pruned = there & ~kept & patches.on_device([size > 0 for size in patches.sizes])
        host = pruned & (pruned.long().cumsum(dim=1) == 1)
        keys, states = unit(patches.keys(self.tower)), patches.features()
        slots = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(most)]
        # Likeness and sums of the kept, and the sum of the pruned.
        patches.note("tower", lambda g, n, m: g * n * (2 * m + 1), most)
        near = rows(keys, slots) @ keys.transpose(1, 2)
        own = torch.zeros_like(near, dtype=torch.bool).scatter(2, slots[..., None], True)
        near = near.masked_fill(own | ~there[:, None], float("-inf"))
        value, index = near.topk(min(self.neighbours, width - 1), dim=2)
        weight = attention[:, None].expand_as(near).gather(2, index) * (value > float("-inf"))
        fused = rows(states, slots) + torch.zeros_like(near).scatter(2, index, weight) @ states
        extra = ((attention * pruned)[:, None] @ states)[:, 0]
        crop = torch.arange(len(there), device=there.device)[:, None]
        number = crop * slots.shape[1] + kept.long().cumsum(dim=1) - 1
        new = [
            (number.masked_fill(~kept, -1), fused, most),
            (torch.where(host, crop, -1), extra, [1] * len(there)),
        ]
        place = torch.arange(width, device=there.device).expand_as(there)
        home = (place * host).sum(dim=1, keepdim=True)
        slot = torch.where(kept, place, home).masked_fill(~(kept | pruned), -1)
        # by falling attention, then what was added, then the extra token
        key = torch.where(added, width + place, ranks).masked_fill(host, 2 * width)
        key = crop * (2 * width + 1) + key
        limit, ranked = len(there) * (2 * width + 1), patches.ranking(attention, kept & ~added)
        return patches.merge(slot, new, key, limit, self.positions, ranked)


def evenly(rest: Tensor, left: Tensor, wanted: Tensor) -> Tensor:
    """[G, n] bool: ``wanted`` of the ``left`` tokens that are ``rest``, evenly spaced."""
    number = rest.long().cumsum(dim=1)
    # how many of floor((i + 0.5) * left / wanted) lie below a place, and below the next
    below = (2 * wanted * (number - 1) + left - 1) // (2 * left)
    upto = (2 * wanted * number + left - 1) // (2 * left)
    return upto > below
