"""Per-layer retention without training: each layer reads a planned share of the image tokens.

What `--analyse plan` writes: `steps` gives one ratio a layer (or one for each of equal parts of the
depth, as p-MoD's stepped schedule does). A layer with ratio r processes round(N * r) of the
sample's N image tokens, half to even; the others skip it unchanged and come back in the next
layer, so the KV cache holds the mean of the ratios. Text and generated tokens are always processed.

  rank       which tokens a layer reads: ``attention``, the highest attention of the last prompt
             token in that layer (FastV's score, one row beside the fast kernel); ``even``, evenly
             spaced in raster order; ``random``, drawn anew in every layer, seeded by ``seed``,
             layer and the sample's name. Ties go to the lowest index.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods.base import Method, ModelInfo, Ranking, Route, Tokens, on_device, param, top_k_mask

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Planned(Method):
    """See the module docstring."""

    name: ClassVar[str] = "plan"
    neutral: ClassVar[dict[str, Any] | None] = {"steps": (1.0,)}

    steps: tuple[float, ...] = param(
        (1.0, 0.65, 0.35, 0.15),
        "share of image tokens read, by layer or by equal part of the depth",
    )
    rank: Literal["attention", "even", "random"] = param(
        "attention", "which tokens a layer reads: most attended, evenly spaced, drawn"
    )
    seed: int = param(0, "of rank=random")

    def __post_init__(self) -> None:
        self.require(all(0 <= s <= 1 for s in self.steps), "every step must lie in 0..1")

    def check(self, info: ModelInfo) -> None:
        parts = len(self.steps)
        self.require(parts <= info.layers, f"{parts} steps for a model of {info.layers} layers")

    def ratios(self, depth: int) -> list[float]:
        """Share of the image tokens that each layer processes."""
        return [self.steps[i * len(self.steps) // depth] for i in range(depth)]

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [r < 1 for r in self.ratios(info.layers)]

    def request(self, info: ModelInfo, n: int) -> list[int]:
        return [round(n * ratio) for ratio in self.ratios(info.layers)]

    def layer(self, layer: int, seq: Tokens) -> Route | None:
        ratio = self.ratios(seq.info.layers)[layer]
        if ratio >= 1 or not any(seq.image_counts):
            return None
        counts = [round(n * ratio) for n in seq.image_counts]
        image, ranked = seq.image, None
        if self.rank == "attention":
            ranked = Ranking(seq.last_row(layer))
            picked = top_k_mask(ranked.score, image, counts)
        else:
            picked = self._fixed(layer, seq, counts)
        left = [c - n + k for c, n, k in zip(seq.counts, seq.image_counts, counts, strict=True)]
        return Route(picked | (seq.valid & ~image), left, ranked=ranked)

    def _fixed(self, layer: int, seq: Tokens, counts: list[int]) -> Tensor:
        """[B, m] bool: image tokens chosen by their number in the sample alone."""
        names = seq.identities if self.rank == "random" else [""] * len(counts)
        width = max(seq.image_counts)
        rows = []
        for n, kept, name in zip(seq.image_counts, counts, names, strict=True):
            chosen = set(self._chosen(n, kept, f"{self.seed}:{layer}:{name}"))
            rows.append([i in chosen for i in range(width)])
        number = (seq.image.long().cumsum(dim=1) - 1).clamp(min=0)
        return on_device(rows, seq.hidden.device).gather(1, number) & seq.image

    def _chosen(self, n: int, kept: int, draw: str) -> list[int]:
        if self.rank == "even":
            return [(2 * i + 1) * n // (2 * kept) for i in range(kept)]
        import torch

        seed = int.from_bytes(hashlib.sha256(draw.encode()).digest()[:7], "big")
        return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:kept].tolist()
