"""Control: keep a random share of the image tokens.

round(keep * N) image tokens of the sample, or what a budget (``tokens``, ``ratio``, ``kv``) leaves
there, stay from layer ``k`` on (``k=0``: before the language model), drawn without replacement by a
generator seeded from ``seed`` and the sample's name, so that batching, order and resuming change
nothing. One seed is not a baseline: run several.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

from methods.base import NUMBERING, Positions, Role, param
from methods.scored import Listed


@dataclass(frozen=True)
class RandomDrop(Listed):
    """See the module docstring; ``positions`` as in ``methods.base.Drop``."""

    name: ClassVar[str] = "random"
    role: ClassVar[Role] = "control"
    neutral: ClassVar[dict[str, Any] | None] = {"keep": 1.0}

    keep: float = param(0.5, "share of the image tokens kept")
    k: int = param(0, "layer from which the others are gone (0-based)")
    seed: int = param(0, "of the draw, with the sample's name")
    positions: Positions = param("original", NUMBERING)

    def listed(self, n: int, kept: int, identity: str) -> list[int]:
        return self.chosen(n, identity, kept)

    def chosen(self, n: int, identity: str, kept: int | None = None) -> list[int]:
        """Indices kept of ``n`` image tokens, ascending; ``keep`` of them by default."""
        import torch

        digest = hashlib.sha256(f"{self.seed}:{identity}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        order = torch.randperm(n, generator=generator)
        return sorted(order[: round(self.keep * n) if kept is None else kept].tolist())
