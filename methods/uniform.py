"""Control: keep evenly spaced image tokens.

Of the sample's N image tokens in raster order, K = round(keep * N) stay: floor((i + 0.5) * N / K)
for i = 0..K-1, from layer ``k`` on; a budget (``tokens``, ``ratio``, ``kv``) sets K so that the
mean over all layers meets it. A stride that divides the row length keeps vertical stripes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from methods.base import NUMBERING, Positions, Role, param
from methods.scored import Listed


@dataclass(frozen=True)
class Uniform(Listed):
    """See the module docstring; ``positions`` as in ``methods.base.Drop``."""

    name: ClassVar[str] = "uniform"
    role: ClassVar[Role] = "control"
    neutral: ClassVar[dict[str, Any] | None] = {"keep": 1.0}

    keep: float = param(0.5, "share of the image tokens kept")
    k: int = param(0, "layer from which the others are gone (0-based)")
    positions: Positions = param("original", NUMBERING)

    def listed(self, n: int, kept: int, identity: str) -> list[int]:
        return self.chosen(n, kept)

    def chosen(self, n: int, kept: int | None = None) -> list[int]:
        """Indices kept of ``n`` image tokens, ascending; ``keep`` of them by default."""
        kept = round(self.keep * n) if kept is None else kept
        return [(2 * i + 1) * n // (2 * kept) for i in range(kept)]
