"""Control: keep a random share of the image tokens.

round(keep * N) image tokens of the sample stay from layer ``k`` on (``k=0``: before the language
model), drawn without replacement by a generator seeded from ``seed`` and the sample's name, so
that batching, order and resuming change nothing. One seed is not a baseline: run several.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

from methods.base import Drop, Method, ModelInfo, Positions, Tokens, on_device


@dataclass(frozen=True)
class RandomDrop(Method):
    """See the module docstring; ``positions`` as in ``methods.base.Drop``."""

    name: ClassVar[str] = "random"
    neutral: ClassVar[dict[str, Any] | None] = {"keep": 1.0}

    keep: float = 0.5
    k: int = 0
    seed: int = 0
    positions: Positions = "original"

    def __post_init__(self) -> None:
        self.require(0 <= self.keep <= 1, f"keep={self.keep} is outside 0..1")
        self.require(self.k >= 0, f"k={self.k} is below 0")

    def check(self, info: ModelInfo) -> None:
        self.require(self.k < info.layers, f"k={self.k} needs more than {info.layers} layers")

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i >= self.k for i in range(info.layers)]

    def chosen(self, n: int, identity: str) -> list[int]:
        """Indices kept of ``n`` image tokens, ascending."""
        import torch

        digest = hashlib.sha256(f"{self.seed}:{identity}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        order = torch.randperm(n, generator=generator)
        return sorted(order[: round(self.keep * n)].tolist())

    def layer(self, layer: int, seq: Tokens) -> Drop | None:
        if layer != self.k or not any(seq.image_counts):
            return None
        rows, width = [], max(seq.image_counts)
        for n, identity in zip(seq.image_counts, seq.identities, strict=True):
            chosen = set(self.chosen(n, identity))
            rows.append([i in chosen for i in range(width)])
        counts = [
            c - n + sum(r) for c, n, r in zip(seq.counts, seq.image_counts, rows, strict=True)
        ]
        image = seq.image
        number = (image.long().cumsum(dim=1) - 1).clamp(min=0)
        picked = on_device(rows, seq.hidden.device).gather(1, number)
        return Drop((seq.valid & ~image) | (image & picked), counts, self.positions)
