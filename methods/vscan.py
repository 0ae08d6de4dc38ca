"""VScan: patches by local and global attention, then one pruning at half depth (2025,
arXiv 2505.22654).

Before the language model every crop keeps T patches by the class token's attention (head mean):
in each of 16 windows the best int(T / 2) // 16 of tower layer ``local``, then the best of the
rest of layer ``tower`` until there are T. Each of the others joins the kept one whose projector
output is nearest (cosine): a token is the mean of itself and all that joined. Before layer ``k``
the ``later`` / ``keep`` of them that the last prompt token's row in that layer favours stay.

Follows the released code: windows of 6 x 6 of the 24 x 24 patches (about as large, and fewer, in
smaller crops), layer 5 of 24 (``local``; scales with the depth) and the last but one,
96 tokens in layers 0 to 15 and 32 from there on are the paper's "64" (k: half the depth); raster
order, numbered without gaps. A budget (``methods/budget.py``) keeps that proportion of the two.
Different here: exactly T stay, where the code keeps fewer if T / 2 does not divide by 16 (the
global part fills up); a window of which un-padding left too little gives all it has; newline
tokens leave; tokens join within their crop; the second pruning pools a sample's images, by a row
in float32 beside the fast kernel; ties go to the lowest index.

Qwen-VL, as the released Qwen2.5-VL port: a tower without class token, so a token has the attention
that its four patches *receive*, mean over heads and all queries of the image; layer 7 of 32
(``local``) and the last; windows of 4 x 4 tokens, smaller at the right and lower edge, however many
an image has (each gives the best int(T / 2) // windows); T is ``keep`` of 576 tokens, of any image;
the row of layer ``k`` is formed without rotary embedding. The port keeps position ids:
``positions=original`` here. Qwen2-VL, Qwen3-VL and SigLIP towers (whose windows are CLIP's) have no
release and go by the same rule.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import (
    NUMBERING,
    Drop,
    Merge,
    ModelInfo,
    Positions,
    Tokens,
    keep_best,
    param,
    top_k_mask,
)
from methods.picking import Keeping, unit
from methods.pictures import Picture, square
from methods.tower import Patches, Received

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 6  # patches a side
WIDE = 4  # tokens a side, where a token joins patches


@dataclass(frozen=True)
class VScan(Received, Keeping):
    """See the module docstring."""

    name: ClassVar[str] = "vscan"
    apart: ClassVar[bool] = False  # not from layer k on
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    keep: int = param(96, "patches kept of 576, of every crop, before the language model")
    later: int = param(32, "of these, the number left from layer k on")
    k: int | None = param(None, "layer of the second pruning (none: half the depth)")
    local: int | None = param(
        None, "tower layer of the pick by windows (none: 5 of 24, without class token 7 of 32)"
    )
    positions: Positions = param("compact", NUMBERING)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.later <= self.keep, f"later={self.later} is outside 0..keep")
        self.require(self.keep > 0, "keep must be above 0")
        self.require(self.k is None or self.k >= 1, f"k={self.k} is below 1")

    def at(self, depth: int) -> int:
        """The layer before which tokens leave again."""
        return self.k or max(1, depth // 2)

    def check(self, info: ModelInfo) -> None:
        k = self.at(info.layers)
        self.require(k < info.layers, f"k={k} needs more than {info.layers} layers")
        super().check(info)

    def taps(self, info: ModelInfo) -> tuple[int, ...]:
        depth = info.tower_layers
        usual = 5 * depth // 24 if info.class_tokens else max(0, 8 * depth // 32 - 1)
        return (usual if self.local is None else self.local, self.read_at(info))

    def own(self, picture: Picture) -> list[int]:
        return picture.each(self.keep)

    def amount(self, picture: Picture, info: ModelInfo) -> int | list[int]:
        wanted, k = self.target(picture.tokens), self.at(info.layers)
        if wanted is None:
            return self.own(picture)
        mean = (k + (info.layers - k) * self.later / self.keep) / info.layers
        return min(picture.tokens, round(wanted / mean))

    def request(self, info: ModelInfo, n: int) -> list[int]:
        k, amount = self.at(info.layers), self.amount(square(n), info)
        first = amount if isinstance(amount, int) else sum(amount)
        behind = self.behind(n, 1, k, info.layers, first)
        last = round(first * self.later / self.keep) if behind is None else behind
        return [first if i < k else last for i in range(info.layers)]

    def before(self, seq: Tokens) -> Merge | None:
        if not any(seq.image_counts):
            return None
        seq.memo["vscan"] = list(seq.image_counts), self.images(seq)
        patches = Patches(seq)
        if not patches.share(self):
            return None
        import torch

        kept = self.chosen(patches)
        states = unit(patches.states())
        patches.note("width", lambda g, n: g * n * n)
        near = (states @ states.transpose(1, 2)).masked_fill(~kept[:, None], float("-inf"))
        own = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
        slot = torch.where(kept, own, near.argmax(dim=2))
        slot = slot.masked_fill(~kept.any(dim=1, keepdim=True), -1)
        return Merge(patches.assign(slot), patches.counts, positions=self.positions)

    def chosen(self, patches: Patches) -> Tensor:
        """[G, n] bool: the patches that stay."""
        local, whole = (patches.attention(layer) for layer in self.taps(patches.seq.info))
        cells, number = self.windows(patches)
        quota = [size // 2 // n for size, n in zip(patches.sizes, number, strict=True)]
        windows = patches.table(cells)
        ranked = local.masked_fill(~patches.there, float("-inf"))
        ranks = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        better = (windows[:, :, None] == windows[:, None]) & (ranks[:, None] < ranks[:, :, None])
        first = patches.there & (better.sum(dim=2) < patches.on_device(quota))
        taken = [sum(min(most, n) for n in Counter(row).values())
                 for most, row in zip(quota, cells, strict=True)]  # fmt: skip
        left = [size - n for size, n in zip(patches.sizes, taken, strict=True)]
        return first | top_k_mask(whole, patches.there & ~first, left)

    @staticmethod
    def windows(patches: Patches) -> tuple[list[list[int]], list[int]]:
        """The window that each token of every group is in, and how many its crop has."""
        cells, numbers = [], []
        for picture in patches.pictures:
            down, across = picture.crop // picture.across, picture.across
            joined = patches.seq.info.joins > 1  # a group is then its crop, from its first token on
            if joined:
                high, wide = -(-down // WIDE), -(-across // WIDE)
            else:
                high = wide = max(1, round(across / WINDOW))
            for group in picture.groups:
                places = range(len(group.origins)) if joined else group.origins
                raster = [divmod(place % picture.crop, across) for place in places]
                if joined:
                    cells.append([y // WIDE * wide + x // WIDE for y, x in raster])
                else:
                    cells.append([y * high // down * wide + x * wide // across for y, x in raster])
                numbers.append(high * wide)
        return cells, numbers

    def layer(self, layer: int, seq: Tokens) -> Drop | None:
        if layer != self.at(seq.info.layers) or "vscan" not in seq.memo:
            return None
        facts, depth = zip(*seq.memo["vscan"], seq.image_counts, strict=True), seq.info.layers
        wanted = [(self.behind(n, images, layer, depth, now), now) for n, images, now in facts]
        share = self.later / self.keep
        counts = [round(now * share) if w is None else w for w, now in wanted]
        if counts == seq.image_counts:
            return None
        row = seq.last_row(layer, turned=seq.info.class_tokens > 0)
        return keep_best(seq, row, counts, self.positions)
