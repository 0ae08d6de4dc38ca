"""iLLaVA, language half: merge the least attended image tokens at one layer (Hu et al. 2024,
arXiv 2412.06263).

Before layer ``k`` the sample's N image tokens are ranked by the row of the last prompt token in
layer k - 1 (mean over heads). With r = round(N * (1 - keep)) the r + 1 lowest become one token in
the slot of the best of them, so N - r are left; the others stay, positions are the original ones.

This is HALF of the method, and ported: the release is for LLaVA-OneVision and Qwen2-VL, and
also merges patches inside the vision tower (``vit_remove`` of them in layers 5 to 8), which the
harness's tower cannot; only ``vit_remove=0`` is taken. Call a row of it "iLLaVA (language half)".
Follows the released code: ``keep`` .7, and weights 1, 2, ..., r + 1 that *grow* towards the lowest
rank, against its own comment (``weights=descending`` turns them round); they are divided by
their sum. Layer 8, in models below 28 layers that share of the depth.
Different here: the image is found from the prompt, any size and number of images, newline tokens
included, pooled per sample; padded batches; the row and the sum are float32 (the code merges in
half precision); ties go to the lowest index. A budget as in ``methods/budget.py``; one token at
least is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from methods.base import Merge, ModelInfo, Tokens, on_device
from methods.budget import Budgeted


@dataclass(frozen=True)
class ILLaVA(Budgeted):
    """See the module docstring."""

    name: ClassVar[str] = "illava"
    neutral: ClassVar[dict[str, Any] | None] = {"keep": 1.0}

    k: int | None = None
    keep: float = 0.7
    weights: Literal["as_released", "descending"] = "as_released"
    vit_remove: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.vit_remove == 0, "merging inside the tower is not here: vit_remove=0")
        self.require(0 <= self.keep <= 1, f"keep={self.keep} is outside 0..1")
        self.require(self.k is None or self.k >= 1, f"k={self.k} is below 1")

    def at(self, depth: int) -> int:
        """The layer before which tokens merge."""
        return self.k or min(8, max(1, depth * 8 // 28))

    def check(self, info: ModelInfo) -> None:
        k = self.at(info.layers)
        self.require(k < info.layers, f"k={k} needs more than {info.layers} layers")

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i >= self.at(info.layers) for i in range(info.layers)]

    def removed(self, n: int, images: int, depth: int) -> int:
        """r: how many of ``n`` image tokens there are fewer."""
        kept = self.behind(n, images, self.at(depth), depth)
        r = round(n * (1 - self.keep)) if kept is None else n - kept
        return min(r, n - 1) if n else 0

    def layer(self, layer: int, seq: Tokens) -> Merge | None:
        k = self.at(seq.info.layers)
        if layer == k - 1 and any(seq.image_counts):
            seq.memo["illava"] = seq.last_row(layer)
        if layer != k or "illava" not in seq.memo:
            return None
        images = [len(s) for s in seq.spans] if self.tokens is not None else [1] * len(seq.counts)
        gone = [
            self.removed(n, number, seq.info.layers)
            for n, number in zip(seq.image_counts, images, strict=True)
        ]
        if not any(gone):
            return None
        return self._merge(seq, gone)

    def _merge(self, seq: Tokens, gone: list[int]) -> Merge:
        import torch

        image = seq.image
        scores = seq.memo.pop("illava").float().masked_fill(~image, float("-inf"))
        order = scores.argsort(dim=1, descending=True, stable=True)  # image tokens, best first
        ranks = order.argsort(dim=1)
        device = scores.device
        first = [n - r - 1 if r else n for n, r in zip(seq.image_counts, gone, strict=True)]
        best, last = on_device([[f] for f in first], device), on_device([[r] for r in gone], device)
        folded = image & (ranks >= best)
        slot = order.gather(1, best.clamp(max=order.shape[1] - 1))
        columns = torch.arange(image.shape[1], device=device).expand_as(image)
        step = ranks - best
        step = step + 1 if self.weights == "as_released" else last + 1 - step
        kind = torch.promote_types(seq.hidden.dtype, torch.float32)
        weight = step.to(kind) / ((last + 1) * (last + 2) / 2)
        weight = torch.where(folded, weight, 1.0)
        counts = [c - r for c, r in zip(seq.counts, gone, strict=True)]
        assign = torch.where(folded, slot, columns).masked_fill(~seq.valid, -1)
        return Merge(assign, counts, weight=weight)
