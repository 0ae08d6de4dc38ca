"""LLaVA-PruMerge and PruMerge+: adaptive pruning and merging (Shang et al. 2024, arXiv 2403.15388).

Patches are scored by the class token's row in the last tower layer, its queries and keys taken as
one wide head. Every crop keeps its outliers, above the third quartile + ``iqr`` times the range
of the quartiles. A kept patch takes in the ``neighbours`` patches nearest by key (cosine), kept
or not, each times its attention; one more token is the sum of all pruned patches times theirs.
``plus`` adds every t-th patch, t = int(int(N / k) / 3) with k outliers of N.

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

from methods.base import Merge, Positions, Tokens
from methods.tower import Patches, Tower, leaving, rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PruMerge(Tower):
    """See the module docstring."""

    name: ClassVar[str] = "prumerge"
    reorders: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    plus: bool = False
    iqr: float = 1.5
    neighbours: int = 32
    tower: int = -1
    positions: Positions = "compact"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.iqr >= 0, f"iqr={self.iqr} is below 0")
        self.require(self.neighbours >= 0, f"neighbours={self.neighbours} is below 0")

    @property
    def tower_taps(self) -> tuple[int, ...]:
        return (self.tower,)

    def before(self, seq: Tokens) -> Merge | None:
        if not any(seq.image_counts):
            return None
        import torch

        patches = Patches(seq)
        wide = [replace(crop, heads=1).cls_row(self.tower)[0] for crop in patches.crops]
        attention, exists = torch.stack(wide), patches.exists
        scored = attention.float().masked_fill(~exists, float("-inf"))
        ranks = scored.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        if self.target(1) is None:
            best, added = self._adaptive(patches, attention, ranks)
            chosen = (best | added).sum(dim=1).tolist()  # what stands out is for the device to say
            keep = [c + (c < size) for c, size in zip(chosen, patches.sizes, strict=True)]
            kept = [sum(keep[c] for c in crops) for *_, crops in patches.images]
            counts, stay = leaving(patches, list(kept))
        else:
            shares = self.shares(patches, 0)
            if shares is None:
                return None
            keep, counts, stay = shares.keep, shares.counts, shares.stay
            chosen = [max(0, k - 1) for k in keep]
            best, added = self._fixed(patches, ranks, chosen)
        live = patches.on_device([k > 0 for k in keep])
        pruned = exists & ~best & ~added & live
        host = pruned & (pruned.long().cumsum(dim=1) == 1)
        hidden, slot = self._states(patches, attention, best | added, pruned, host, max(chosen))
        columns = torch.arange(hidden.shape[1], device=hidden.device)
        assign = torch.where(stay, columns, patches.spread(slot, -1))
        size = 2 * patches.per_crop + 1
        local = torch.where(added, patches.per_crop + exists.long().cumsum(dim=1) - 1, ranks)
        local = local.masked_fill(host, size - 1)
        crop = torch.arange(len(keep), device=hidden.device)[:, None]
        key = patches.spread(crop * size + local, 0)
        order = patches.order(key, len(keep) * size, stay)
        return Merge(assign, counts, hidden, positions=self.positions, order=order)

    def _adaptive(self, patches: Patches, attention: Tensor, ranks: Tensor) -> tuple[Tensor, ...]:
        """[C, P] bool each: the outliers, and what ``plus`` adds to them."""
        exists = patches.exists
        rising, _ = attention.masked_fill(~exists, float("inf")).sort(dim=1)

        def quartile(share: float) -> Tensor:
            at = [share * max(0, size - 1) for size in patches.sizes]
            low = patches.on_device([int(x) for x in at])
            high = patches.on_device([int(-(-x // 1)) for x in at])
            part = patches.on_device([x % 1 for x in at]).to(rising.dtype)
            return rising.gather(1, low).lerp(rising.gather(1, high), part)

        first, third = quartile(0.25), quartile(0.75)
        above = (attention > third + self.iqr * (third - first)) & exists
        count = above.sum(dim=1, keepdim=True).clamp(min=1)
        best = (ranks < count) & exists
        sizes = patches.on_device(patches.sizes)
        step = (sizes // count // 3).clamp(min=1)
        number = exists.long().cumsum(dim=1) - 1
        even = exists & (number % step == 0) & (number < sizes - 1) & ~best
        return best, even if self.plus else even & False

    def _fixed(self, patches: Patches, ranks: Tensor, chosen: list[int]) -> tuple[Tensor, ...]:
        """The same for ``chosen`` patches a crop."""
        spaced = [k // 2 if self.plus else 0 for k in chosen]
        top = [k - s for k, s in zip(chosen, spaced, strict=True)]
        best = (ranks < patches.on_device(top)) & patches.exists
        rest = patches.exists & ~best
        left = patches.on_device([max(1, s - t) for s, t in zip(patches.sizes, top, strict=True)])
        wanted, number = patches.on_device(spaced), rest.long().cumsum(dim=1)
        # how many of floor((i + 0.5) * left / wanted) lie below a place, and below the next
        below = (2 * wanted * (number - 1) + left - 1) // (2 * left)
        upto = (2 * wanted * number + left - 1) // (2 * left)
        return best, rest & (upto > below)

    def _states(
        self,
        patches: Patches,
        attention: Tensor,
        kept: Tensor,
        pruned: Tensor,
        host: Tensor,
        most: int,
    ) -> tuple[Tensor, Tensor]:
        """([B, m, d] states after the merge, [C, P] column of the slot a patch ends in or -1)."""
        import torch

        keys = torch.nn.functional.normalize(patches.keys(self.tower), dim=-1)
        states = patches.states[:, 1:].to(keys.dtype)
        slots = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(1, most)]
        near = rows(keys, slots) @ keys.transpose(1, 2)
        hidden = torch.zeros_like(near, dtype=torch.bool).scatter(2, slots[..., None], True)
        near = near.masked_fill(hidden | ~patches.exists[:, None], float("-inf"))
        value, index = near.topk(min(self.neighbours, near.shape[2] - 1), dim=2)
        attention = attention.to(keys.dtype)
        weight = attention[:, None].expand_as(near).gather(2, index) * (value > float("-inf"))
        weight = torch.zeros_like(near).scatter(2, index, weight)
        fused = rows(states, slots) + weight @ states
        extra = ((attention * pruned)[:, None] @ states)[:, 0]
        crop = torch.arange(len(patches.crops), device=keys.device)[:, None]
        number = crop * slots.shape[1] + kept.long().cumsum(dim=1) - 1
        project, kind = patches.seq.project, patches.states.dtype
        new = patches.put(
            [
                (number.masked_fill(~kept, -1), project(fused.to(kind))),
                (torch.where(host, crop, -1), project(extra.to(kind))),
            ]
        )
        home = (patches.columns * host).sum(dim=1, keepdim=True)
        slot = torch.where(kept, patches.columns, home.expand_as(patches.columns))
        return new, slot.masked_fill(~(kept | pruned), -1)
