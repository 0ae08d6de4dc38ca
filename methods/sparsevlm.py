"""SparseVLM: prune by the attention of rater words, in stages (Zhang et al. 2024, 2410.04417).

Raters are the text tokens behind the image that resemble it most: on the input embeddings, the
softmax over text of V T^t, meaned over image tokens, is above its mean over text. After layers 2,
6 and 15 the image tokens that raters attend to least leave, scored by that layer's own attention.
No training. Follows the released code:

  version   ``1.5``: attention meaned over heads; of P pruned tokens the best int(merge * P) + 1
            are clustered (DPC-KNN) into int(m / cluster) + 1 means, which stand behind the kept
            image tokens; contiguous positions. ``2``: attention divided by that of unit vectors
            under RoPE, only the ``heads`` with most of it from raters to image, no merging,
            original positions.
  budget    the row of the released table (``keep`` gives other counts); at least one token leaves
            a stage. Counts are per 576 tokens and scale with the sample's image tokens.
  tokens, ratio, kv   scale the 192 row instead, until the mean over layers, merged tokens
            included, is met. The table's names count layers 2, 6, 15 as if pruned: 192 is 206.5.
Depths other than 32 scale the layers (round(l * L / 32)), and a drop needs its layer to itself:
earlier stages move up to stay two layers apart, and fall away where there is no room left.
Different here: the random tie-break of the clustering is seeded by ``seed`` and the sample; a
density of its own wins a tie by the lower index; batches, several images (pooled per sample, the
text behind the last is what rates); where no text token stands out all rate; v2's divisor, which
crosses zero about 700 tokens away, is floored at a hundredth of its value at distance 0.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods.base import Drop, Merge, ModelInfo, Positions, Tokens, keep_best, param
from methods.budget import Budgeted
from methods.dpc import fold
from methods.picking import wide
from methods.pictures import PATCHES
from methods.question import behind_image

if TYPE_CHECKING:
    from torch import Tensor

LAYERS, DEPTH, HEADS = (2, 6, 15), 32, 32  # of the model that the tables are for
TABLES: dict[str, dict[int, tuple[int, ...]]] = {
    "1.5": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    "2": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}


@dataclass(frozen=True)
class SparseVLM(Budgeted):
    """See the module docstring."""

    name: ClassVar[str] = "sparsevlm"
    reorders: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    version: Literal["1.5", "2"] = param("1.5", "of the released code: 1.5 merges, 2 does not")
    budget: int = param(192, "row of the released table: 192, 128, 96 or 64 tokens")
    layers: tuple[int, ...] | None = param(
        None, "layers after which tokens leave (none: 2, 6, 15 of 32)"
    )
    keep: tuple[int, ...] | None = param(
        None, "tokens left after each, of 576, in place of the table's"
    )
    merge: float = param(0.3, "share of the pruned tokens that is clustered (version 1.5)")
    cluster: int = param(10, "clustered tokens to one mean (version 1.5)")
    heads: int = param(14, "heads whose attention counts, of 32, scaled (version 2)")
    positions: Positions | None = param(
        None, "numbering of what stays (none: as the version has it)"
    )
    seed: int = param(0, "of the tie-break of the clustering, with the sample's name")

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = TABLES[self.version]
        known = ", ".join(map(str, rows))
        self.require(self.budget in rows, f"budget={self.budget} is not one of {known}")
        self.require(0 <= self.merge <= 1, f"merge={self.merge} is outside 0..1")
        self.require(self.cluster >= 1, f"cluster={self.cluster} is below 1")
        self.require(self.heads >= 1, f"heads={self.heads} is below 1")
        layers, keep = self.layers or LAYERS, self.keep or LAYERS
        self.require(len(layers) == len(keep), "layers and keep need equally many entries")
        gaps = [b - a for a, b in itertools.pairwise(layers)]
        ok = min(layers) >= 0 and all(gap >= 2 for gap in gaps)
        self.require(ok, "layers must rise by 2 or more: a drop needs its layer to itself")
        kept = self.keep or TABLES[self.version][self.budget]
        falls = all(a >= b for a, b in itertools.pairwise((PATCHES, *kept)))
        self.require(falls, f"keep must fall, from at most the {PATCHES} tokens it is counted of")
        self.require(min(kept) >= 0, "keep must be 0 or more")

    def check(self, info: ModelInfo) -> None:
        stages = self.stages(info.layers)
        ok = bool(stages) and stages[-1][0] < info.layers - 1
        self.require(ok, f"its last stage needs a layer behind it, the model has {info.layers}")
        super().check(info)

    def lower(self, info: ModelInfo) -> Iterator[dict[str, Any]]:
        places = [layer for layer, _ in self.stages(info.layers)]
        moved = ({"layers": tuple(at - step for at in places)} for step in range(1, places[0] + 1))
        return moved if len(places) == len(self.keep or LAYERS) else iter(())

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i > self.stages(info.layers)[0][0] for i in range(info.layers)]

    @property
    def numbering(self) -> Positions:
        return self.positions or ("original" if self.version == "2" else "compact")

    def stages(self, depth: int) -> list[tuple[int, int]]:
        """(layer, tokens kept behind it, of 576), for a model of this depth."""
        keep = self.keep or TABLES[self.version][self.budget]
        if self.layers is not None:
            return list(zip(self.layers, keep, strict=True))
        found: list[tuple[int, int]] = []
        for layer, count in zip(reversed(LAYERS), reversed(keep), strict=True):
            place = round(layer * depth / DEPTH)
            place = min(place, found[0][0] - 2) if found else place
            if place >= 0:
                found.insert(0, (place, count))
        return found

    def request(self, info: ModelInfo, n: int) -> list[int]:
        left = [n, *(sum(counts) for counts in self.kept(n, info.layers))]
        behind = [layer for layer, _ in self.stages(info.layers)]
        return [left[sum(layer < i for layer in behind)] for i in range(info.layers)]

    def folded(self, pruned: int) -> tuple[int, int]:
        """(tokens recycled, clusters made of them) of ``pruned`` tokens."""
        if self.version == "2" or not pruned:
            return 0, 0
        recycled = min(pruned, int(self.merge * pruned) + 1)
        return recycled, min(recycled, int(recycled / self.cluster) + 1)

    def kept(self, n: int, depth: int, images: int = 1) -> list[tuple[int, int]]:
        """(kept, merged) after each stage, of ``n`` image tokens."""
        return _planned(self, n, depth, images)

    def before(self, seq: Tokens) -> None:
        if any(seq.image_counts):
            seq.memo["sparsevlm"] = raters(seq), list(seq.image_counts)

    def layer(self, layer: int, seq: Tokens) -> Drop | Merge | None:
        if "sparsevlm" not in seq.memo:
            return None
        places = [place for place, _ in self.stages(seq.info.layers)]
        if layer in places:
            rows = seq.memo["sparsevlm"][0].gather(1, seq.index) & seq.valid
            seq.memo["sparsevlm score"] = self._score(layer, seq, rows)
        if layer - 1 not in places:
            return None
        stage, found = places.index(layer - 1), seq.memo["sparsevlm"][1]
        images = [len(spans) for spans in seq.spans]
        plans = [self.kept(n, seq.info.layers, k) for n, k in zip(found, images, strict=True)]
        counts = [plan[stage][0] if plan else 0 for plan in plans]
        lost = [n - k for n, k in zip(seq.image_counts, counts, strict=True)]
        if not any(lost):
            return None
        score = seq.memo.pop("sparsevlm score")
        positions = self.numbering
        drop = keep_best(seq, score, counts, positions)
        if self.version == "2":
            return drop
        folded = [self.folded(k) for k in lost]
        return fold(seq, score, drop.keep, drop.counts or [], folded, self.seed, positions)

    def _score(self, layer: int, seq: Tokens, rows: Tensor) -> Tensor:
        if self.version == "1.5":
            return seq.attention(layer, rows).mean(dim=1)
        import torch

        cos, sin = (wide(table) for table in seq.rotary())
        half = cos.shape[-1] // 2  # a vector of ones, turned to each position
        ones = torch.cat([cos[..., :half] - sin[..., :half], cos[..., half:] + sin[..., half:]], -1)
        pairs = zip(seq.counts, seq.image_counts, strict=True)
        seq.note("product", [n * n if images else 0 for n, images in pairs], "head")
        bias = ones @ ones.transpose(1, 2) / (2 * half) ** 0.5
        found = seq.attention(layer, rows, 1 / bias.clamp(min=0.01 * (2 * half) ** 0.5))
        total = (found * seq.image.unsqueeze(1)).sum(dim=2)
        count = max(1, round(self.heads * seq.info.heads / HEADS))
        best = total.argsort(dim=1, descending=True, stable=True)[:, :count]
        return found.gather(1, best.unsqueeze(-1).expand(-1, -1, found.shape[2])).mean(dim=1)


def raters(seq: Tokens) -> Tensor:
    """[B, m] bool: text behind the last image that resembles the image more than the rest."""
    import torch

    columns, text, lengths = behind_image(seq)
    image, states = seq.image, wide(seq.hidden)
    text = text & image.any(dim=1, keepdim=True)
    words = states.gather(1, columns.unsqueeze(-1).expand(-1, -1, states.shape[2]))
    heads = zip(seq.counts, lengths, seq.image_counts, strict=True)
    seq.note("product", [n * t if images else 0 for n, t, images in heads])
    alike = (states @ words.transpose(1, 2)).masked_fill(~text.unsqueeze(1), float("-inf"))
    shares = alike.softmax(dim=2).masked_fill(~(image.unsqueeze(2) & text.unsqueeze(1)), 0)
    mean = shares.sum(dim=1) / image.sum(dim=1, keepdim=True).clamp(min=1)
    middle = mean.sum(dim=1, keepdim=True) / text.sum(dim=1, keepdim=True).clamp(min=1)
    chosen = text & (mean > middle)
    chosen = torch.where(chosen.any(dim=1, keepdim=True), chosen, text)
    return torch.zeros_like(image).scatter(1, columns, chosen)


@functools.lru_cache(maxsize=4096)
def _planned(method: SparseVLM, n: int, depth: int, images: int) -> list[tuple[int, int]]:
    stages, wanted = method.stages(depth), method.target(n, images)
    if wanted is None:
        return _counts(method, n, [round(k * n / PATCHES) for _, k in stages], 1)
    ends = [*(layer + 1 for layer, _ in stages), depth]
    rows = (method.keep or TABLES[method.version][192])[-len(stages) :]

    def plan(scale: float, last: int | None = None) -> tuple[float, list[tuple[int, int]]]:
        aims = [min(n, round(scale * row)) for row in rows]
        counts = _counts(method, n, aims if last is None else [*aims[:-1], last], 0)
        spans = [b - a for a, b in itertools.pairwise(ends)]
        total = sum((k + c) * span for (k, c), span in zip(counts, spans, strict=True))
        return (n * ends[0] + total) / depth, counts

    low, high = 0.0, n / max(1, min(rows))
    for _ in range(40):  # the largest scale that stays within the budget
        middle = (low + high) / 2
        low, high = (middle, high) if plan(middle)[0] <= wanted else (low, middle)
    if plan(high)[0] <= wanted:
        return plan(high)[1]
    tries = [plan(low, last) for last in range(n + 1)]
    return min(tries, key=lambda one: abs(one[0] - wanted))[1]


def _counts(method: SparseVLM, have: int, aims: list[int], least: int) -> list[tuple[int, int]]:
    """(kept, merged) after each stage; ``least`` tokens leave at every one."""
    found = []
    for aim in aims:
        kept = max(0, min(aim, have - least))
        clusters = method.folded(have - kept)[1]
        found.append((kept, clusters))
        have = kept + clusters
    return found
