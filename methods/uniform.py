"""Control: keep evenly spaced image tokens.

Of the sample's N image tokens in raster order, K = round(keep * N) stay: floor((i + 0.5) * N / K)
for i = 0..K-1, from layer ``k`` on; a budget (``tokens``, ``ratio``, ``kv``) sets K so that the
mean over all layers meets it. A stride that divides the row length keeps vertical stripes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from methods.base import Drop, ModelInfo, Positions, Role, Tokens, on_device
from methods.budget import Budgeted


@dataclass(frozen=True)
class Uniform(Budgeted):
    """See the module docstring; ``positions`` as in ``methods.base.Drop``."""

    name: ClassVar[str] = "uniform"
    role: ClassVar[Role] = "control"
    neutral: ClassVar[dict[str, Any] | None] = {"keep": 1.0}

    keep: float = 0.5
    k: int = 0
    positions: Positions = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.keep <= 1, f"keep={self.keep} is outside 0..1")
        self.require(self.k >= 0, f"k={self.k} is below 0")

    def check(self, info: ModelInfo) -> None:
        self.require(self.k < info.layers, f"k={self.k} needs more than {info.layers} layers")
        super().check(info)

    def lower(self, info: ModelInfo) -> Iterator[dict[str, Any]]:
        return ({"k": k} for k in range(self.k - 1, -1, -1))

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i >= self.k for i in range(info.layers)]

    def request(self, info: ModelInfo, n: int) -> list[int]:
        left = self.kept(n, 1, info.layers)
        return [n if i < self.k else left for i in range(info.layers)]

    def kept(self, n: int, images: int, layers: int) -> int:
        """How many of ``n`` image tokens stay behind layer ``k``."""
        budget = self.behind(n, images, self.k, layers)
        return round(self.keep * n) if budget is None else budget

    def chosen(self, n: int, kept: int | None = None) -> list[int]:
        """Indices kept of ``n`` image tokens, ascending; ``keep`` of them by default."""
        kept = round(self.keep * n) if kept is None else kept
        return [(2 * i + 1) * n // (2 * kept) for i in range(kept)]

    def layer(self, layer: int, seq: Tokens) -> Drop | None:
        if layer != self.k or not any(seq.image_counts):
            return None
        width = max(seq.image_counts)
        pairs = list(zip(seq.image_counts, self.images(seq), strict=True))
        kept = [set(self.chosen(n, self.kept(n, i, seq.info.layers))) for n, i in pairs]
        rows = [[i in one for i in range(width)] for one in kept]
        counts = [
            c - n + sum(r) for c, n, r in zip(seq.counts, seq.image_counts, rows, strict=True)
        ]
        image = seq.image
        number = (image.long().cumsum(dim=1) - 1).clamp(min=0)
        picked = on_device(rows, seq.hidden.device).gather(1, number)
        return Drop((seq.valid & ~image) | (image & picked), counts, self.positions)
