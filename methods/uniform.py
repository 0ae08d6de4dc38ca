"""Control: keep evenly spaced image tokens.

Of the sample's N image tokens in raster order, K = round(keep * N) stay: floor((i + 0.5) * N / K)
for i = 0..K-1, from layer ``k`` on. A stride that divides the row length keeps vertical stripes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from methods.base import Drop, Method, ModelInfo, Positions, Tokens, on_device


@dataclass(frozen=True)
class Uniform(Method):
    """See the module docstring; ``positions`` as in ``methods.base.Drop``."""

    name: ClassVar[str] = "uniform"
    neutral: ClassVar[dict[str, Any] | None] = {"keep": 1.0}

    keep: float = 0.5
    k: int = 0
    positions: Positions = "original"

    def __post_init__(self) -> None:
        self.require(0 <= self.keep <= 1, f"keep={self.keep} is outside 0..1")
        self.require(self.k >= 0, f"k={self.k} is below 0")

    def check(self, info: ModelInfo) -> None:
        self.require(self.k < info.layers, f"k={self.k} needs more than {info.layers} layers")

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i >= self.k for i in range(info.layers)]

    def chosen(self, n: int) -> list[int]:
        """Indices kept of ``n`` image tokens, ascending."""
        kept = round(self.keep * n)
        return [(2 * i + 1) * n // (2 * kept) for i in range(kept)]

    def layer(self, layer: int, seq: Tokens) -> Drop | None:
        if layer != self.k or not any(seq.image_counts):
            return None
        width = max(seq.image_counts)
        kept = [set(self.chosen(n)) for n in seq.image_counts]
        rows = [[i in one for i in range(width)] for one in kept]
        counts = [
            c - n + sum(r) for c, n, r in zip(seq.counts, seq.image_counts, rows, strict=True)
        ]
        image = seq.image
        number = (image.long().cumsum(dim=1) - 1).clamp(min=0)
        picked = on_device(rows, seq.hidden.device).gather(1, number)
        return Drop((seq.valid & ~image) | (image & picked), counts, self.positions)
