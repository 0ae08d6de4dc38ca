"""Bases of methods that act once, before decoder layer ``k``, and keep some image tokens.

All of a sample's image tokens compete, text always stays. How many are left is ``keep`` of them,
or what a budget asks behind layer ``k`` (``methods/budget.py``). A method brings ``k``, ``keep``
and ``positions`` as fields of its own, where it wants them: its parameters stand in its own order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import Drop, ModelInfo, Positions, Tokens, keep_best, on_device
from methods.budget import Budgeted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Once(Budgeted):
    """Acts once, before layer ``k``."""

    least: ClassVar[int] = 0  # the smallest k

    # No annotations: values of methods without such a field, and no fields themselves.
    k = 0
    keep = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        why = ": some layer must score the tokens" if self.least > 0 else ""
        self.require(self.k >= self.least, f"k={self.k} is below {self.least}{why}")
        self.require(0 <= self.keep <= 1, f"keep={self.keep} is outside 0..1")

    def check(self, info: ModelInfo) -> None:
        self.require(self.k < info.layers, f"k={self.k} needs more than {info.layers} layers")
        super().check(info)

    def lower(self, info: ModelInfo) -> Iterator[dict[str, Any]]:
        return ({"k": k} for k in range(self.k - 1, max(self.least, 0) - 1, -1))

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i >= self.k for i in range(info.layers)]

    def request(self, info: ModelInfo, n: int) -> list[int]:
        left = self.kept(n, 1, info.layers)
        return [n if i < self.k else left for i in range(info.layers)]

    def own(self, n: int) -> int:
        """Image tokens left of ``n`` without a budget."""
        return round(self.keep * n)

    def kept(self, n: int, images: int = 1, layers: int = 32) -> int:
        """Image tokens left of ``n`` (of ``images`` images) behind layer ``k``."""
        budget = self.behind(n, images, max(self.k, 0), layers)
        return self.own(n) if budget is None else budget

    @property
    def places(self) -> Positions:
        """How it numbers what stays: its parameter ``positions``, else as before."""
        return getattr(self, "positions", "original")

    def left(self, seq: Tokens) -> list[int]:
        """The same for each row."""
        pairs = zip(seq.image_counts, self.images(seq), strict=True)
        return [self.kept(n, images, seq.info.layers) for n, images in pairs]


@dataclass(frozen=True)
class Scored(Once):
    """... and keeps the tokens with the highest score, which is all that a method writes."""

    early: ClassVar[int] = 0  # the score is formed at layer k - early

    def scores(self, layer: int, seq: Tokens) -> Tensor:
        """[B, m] a number a token, of which only image tokens' count; higher stays."""
        raise NotImplementedError(f"{self.name}: scores(layer, seq) is not written")

    def layer(self, layer: int, seq: Tokens) -> Drop | None:
        if layer == self.k - self.early and any(seq.image_counts):
            import torch

            scores = self.scores(layer, seq)
            # Other devices are not waited for, and a graph is not broken; --check has it too.
            if scores.device.type == "cpu" and not torch.compiler.is_compiling():
                finite = bool(scores[seq.image].isfinite().all())
                self.require(finite, f"scores of layer {layer} are not all finite")
            seq.memo[self.name] = scores
        if layer != self.k or self.name not in seq.memo:
            return None
        scores = seq.memo.pop(self.name)
        return keep_best(seq, scores, self.left(seq), self.places)


@dataclass(frozen=True)
class Listed(Once):
    """... and keeps tokens by their number among the image tokens, whatever they hold."""

    def listed(self, n: int, kept: int, identity: str) -> list[int]:
        """Which ``kept`` of a sample's ``n`` image tokens stay, ascending."""
        raise NotImplementedError(f"{self.name}: listed(n, kept, identity) is not written")

    def layer(self, layer: int, seq: Tokens) -> Drop | None:
        if layer != self.k or not any(seq.image_counts):
            return None
        left, width = self.left(seq), max(seq.image_counts)
        each = zip(seq.image_counts, left, seq.identities, strict=True)
        chosen = [set(self.listed(n, kept, identity)) for n, kept, identity in each]
        rows = [[i in one for i in range(width)] for one in chosen]
        counts = [
            c - n + sum(r) for c, n, r in zip(seq.counts, seq.image_counts, rows, strict=True)
        ]
        image = seq.image
        number = (image.long().cumsum(dim=1) - 1).clamp(min=0)
        picked = on_device(rows, seq.hidden.device).gather(1, number)
        keep = (seq.valid & ~image) | (image & picked)
        return Drop(keep, counts, self.places)
