"""iLLaVA: merge the least attended tokens, in the vision tower and at one layer of the language
model (Hu et al. 2024, arXiv 2412.06263). Ported: the release is for LLaVA-OneVision and Qwen2-VL.

Tower: in each of ``vit_layers``, between attention and MLP, patches are ranked by the attention
they receive (mean over heads and queries); the r + 1 lowest become one in the slot of the best of
them, r being ``vit_remove`` of 729 patches. Language model: before layer ``k`` the sample's N image
tokens are ranked by the row of the last prompt token in layer k - 1 (mean over heads); with
r = round(N * (1 - keep)) the r + 1 lowest likewise become one, and the others keep their positions.

Follows the released code: 92 of 729 (four times: 361 are left) and ``keep`` .7; weights 1, 2, ...
divided by their sum, which in the tower fall and in the language model *grow* towards the lowest
rank, against the code's own comment (``weights=descending`` turns the latter round).
Scaled: ``vit_layers`` are 5 to 8 of 27, in other towers the four from 5/27 of the depth on, as far
as the last but one; k is layer 8, in models below 28 layers that share of the depth.
``vit_remove=0`` leaves the language half: call a row of it "iLLaVA (language half)".
A budget (``methods/budget.py``): the language half keeps its ``keep`` and the tower merges as much
as then is needed, nothing from kv = (k + keep (L - k)) / L on; the language half, which sees the
true numbers, evens out the rest. ``tokens`` of images in several crops goes with ``vit_remove=0``
only: the tower knows one crop.
Different here: a class token (CLIP has one) gives attention and never merges; each crop merges
alone; newline tokens stay in the tower's half and are ranked in the other, as pooled per sample;
where un-padding cuts off a merged patch's slot, it is lost; tile tokens of a picture that
LLaVA-OneVision shrinks are no patches and all stay in the tower's half; padded batches; rows and
sums are float32 (the code merges in half precision); ties go to the lowest index; one token at
least is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods.base import Merge, ModelInfo, Positions, Ranking, Seen, Tokens, on_device, param
from methods.budget import Budgeted

if TYPE_CHECKING:
    from torch import Tensor

PATCHES, DEPTH = 729, 27  # of the tower that the defaults are for


@dataclass(frozen=True)
class ILLaVA(Budgeted):
    """See the module docstring."""

    name: ClassVar[str] = "illava"
    neutral: ClassVar[dict[str, Any] | None] = {"keep": 1.0, "vit_remove": 0}

    k: int | None = param(
        None, "language-model layer before which tokens merge (none: 8, or that share of 28)"
    )
    keep: float = param(0.7, "share of the image tokens kept in the language model")
    weights: Literal["as_released", "descending"] = param(
        "as_released",
        "of merged tokens by rank: as the code has it in each half, or falling in both",
    )
    vit_layers: tuple[int, ...] | None = param(
        None, "tower layers that merge (none: 5 to 8 of 27, scaled)"
    )
    vit_remove: int = param(92, "patches fewer after each of them, of 729 (0: none merge)")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.keep <= 1, f"keep={self.keep} is outside 0..1")
        self.require(self.k is None or self.k >= 1, f"k={self.k} is below 1")
        self.require(self.vit_remove >= 0, f"vit_remove={self.vit_remove} is below 0")
        layers = self.vit_layers or (0,)
        rises = all(a < b for a, b in zip((-1, *layers), layers, strict=False))
        self.require(rises, "vit_layers must rise from 0")

    @property
    def numbering(self) -> Positions:
        """What the tower merges never had a place in the prompt; the other half keeps places."""
        return "compact" if self.vit_remove else "original"

    @property
    def reads_tower(self) -> bool:
        return self.vit_remove > 0

    def at(self, depth: int) -> int:
        """The layer before which tokens merge."""
        return self.k or min(8, max(1, depth * 8 // 28))

    def check(self, info: ModelInfo) -> None:
        k = self.at(info.layers)
        self.require(k < info.layers, f"k={k} needs more than {info.layers} layers")
        depth, last = info.tower_layers, max(self.vit_layers or (0,))
        self.require(not depth or last < depth, f"the tower has no layer {last}, only {depth}")
        patches, steps = info.tower_side**2, len(self.merge_layers(info))
        gone = round(patches * self.vit_remove / PATCHES) * steps
        own = self.target(1) is None and patches > 0
        left = f"vit_remove={self.vit_remove} in {steps} layers is more than a crop has patches"
        self.require(not own or gone < patches, left)
        super().check(info)

    def lower(self, info: ModelInfo) -> Iterator[dict[str, Any]]:
        return ({"k": k} for k in range(self.at(info.layers) - 1, 0, -1))

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i >= self.at(info.layers) or self.vit_remove > 0 for i in range(info.layers)]

    def request(self, info: ModelInfo, n: int) -> list[int]:
        k, left = self.at(info.layers), ([n] if not self.vit_remove else self.left(n, info))[-1]
        behind = left - self.removed(n, 1, info.layers, left)
        return [left if i < k else behind for i in range(info.layers)]

    # --- the tower's half -------------------------------------------------------------------
    def merge_layers(self, info: ModelInfo) -> tuple[int, ...]:
        if not self.vit_remove:
            return ()
        self.require(info.tower_layers > 1, "this model's tower cannot merge: give vit_remove=0")
        first, last = 5 * info.tower_layers // DEPTH, info.tower_layers - 2
        return self.vit_layers or tuple(range(first, min(first + 3, last) + 1))

    def left(self, patches: int, info: ModelInfo) -> list[int]:
        """How many of a crop's ``patches`` each of the layers leaves."""
        steps, k = range(1, len(self.merge_layers(info)) + 1), self.at(info.layers)
        wanted = self.target(patches)
        if wanted is None:
            each = round(patches * self.vit_remove / PATCHES)
            return [max(1, patches - each * i) for i in steps]
        share = wanted * info.layers / (k + self.keep * (info.layers - k))
        gone = patches - min(patches, max(1, round(share)))
        return [patches - gone * i // len(steps) for i in steps]

    def merge_patches(self, layer: int, seen: Seen) -> Merge | None:
        crops, before = seen.received.shape
        place = self.merge_layers(seen.info).index(layer)
        gone = before - self.left(seen.total, seen.info)[place]
        if not gone:
            return None
        every = seen.received >= 0
        assign, weight = lowest(seen.received, every, [gone] * crops, growing=False)
        return Merge(assign, [before - gone] * crops, weight=weight)

    # --- the language model's half ----------------------------------------------------------
    def removed(self, n: int, images: int, depth: int, running: int | None = None) -> int:
        """r of ``n`` image tokens, of which ``running`` (None: all) are still there."""
        have = n if running is None else running
        kept = self.behind(n, images, self.at(depth), depth, have)
        r = round(have * (1 - self.keep)) if kept is None else have - kept
        return min(r, have - 1) if have else 0

    def before(self, seq: Tokens) -> None:
        if self.tokens is not None and self.vit_remove:
            alone = all(grid["kind"] == "base" for grids in seq.grids for grid in grids)
            self.require(alone, "tokens= of images in several crops needs vit_remove=0")

    def layer(self, layer: int, seq: Tokens) -> Merge | None:
        k = self.at(seq.info.layers)
        if layer == k - 1 and any(seq.image_counts):
            seq.memo["illava"] = seq.last_row(layer)
        if layer != k or "illava" not in seq.memo:
            return None
        running, images, total = seq.image_counts, [1] * len(seq.counts), seq.image_counts
        if self.tokens is not None:
            images = [len(spans) for spans in seq.spans]
        if self.vit_remove:
            total = [sum(n for _, n in spans) for spans in seq.spans]
        facts = zip(total, images, running, strict=True)
        gone = [self.removed(n, number, seq.info.layers, now) for n, number, now in facts]
        if not any(gone):
            return None
        scores, growing = seq.memo.pop("illava"), self.weights == "as_released"
        assign, weight = lowest(scores, seq.image, gone, growing)
        counts = [c - r for c, r in zip(seq.counts, gone, strict=True)]
        assign = assign.masked_fill(~seq.valid, -1)
        return Merge(assign, counts, weight=weight, ranked=Ranking(scores))


def lowest(scores: Tensor, among: Tensor, gone: list[int], growing: bool) -> tuple[Tensor, Tensor]:
    """[B, m] slots and weights that fold the r + 1 lowest of ``among`` into the best of them.

    ``gone`` is r of each row; where it is 0, nothing folds. ``growing``: weights grow towards the
    lowest rank.
    """
    import torch

    kind = torch.promote_types(scores.dtype, torch.float32)
    scores = scores.float().masked_fill(~among, float("-inf"))
    order = scores.argsort(dim=1, descending=True, stable=True)  # best first
    ranks = order.argsort(dim=1)
    last = on_device([[r] for r in gone], scores.device)
    have = among.sum(dim=1, keepdim=True)
    best = have - last - (last > 0).long()  # rank of the best that folds
    folds = among & (ranks >= best)
    slot = order.gather(1, best.clamp(max=order.shape[1] - 1))
    step = ranks - best + 1 if growing else best + last + 1 - ranks
    weight = step.to(kind) / ((last + 1) * (last + 2) / 2)
    columns = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.where(folds, slot, columns), torch.where(folds, weight, 1.0)
