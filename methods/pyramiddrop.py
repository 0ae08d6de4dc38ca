"""PyramidDrop: drop image tokens in stages of depth (Xing et al. 2024, arXiv 2410.17247).

Before each of ``layers`` the image tokens are scored by that layer's own attention: its queries
and keys of the states as they are, the row of the last prompt token, mean over heads. The best
int(ratio * N) of the N the sample began with stay, in order; text always stays.

Follows the released code: kept 1/2, 1/4, 1/8 after 8, 16, 24 of 32 layers (a mean of 270 of 576),
numbered anew at each stage (``positions=original`` keeps the position ids). Without ``layers``
S - 1 ratios stand at i * floor(L / S) of L layers, the last part taking the rest: at S = 3 that
gives the paper's 2.13 TFLOPs, at S = 4 its 1.78. Its 1.38 at S = 5 no equal split gives (1.39).
A budget (``methods/budget.py``) multiplies all ratios by one factor, as far as N allows, so that
the mean over the layers meets it; one that the layers before the first stage exceed alone is
refused (the papers' 128 and 64 of 576 need earlier ``layers``, which none of them states).
Different here: any number of image tokens, newline tokens included, and several images, pooled
per sample; padded batches; one score row in float32 beside the fast kernel; ties go to the lowest
index. Not here: training with the row before each answer as the score.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from methods.base import NUMBERING, Drop, ModelInfo, Positions, Tokens, keep_best, param
from methods.budget import Budgeted


@dataclass(frozen=True)
class PyramidDrop(Budgeted):
    """See the module docstring."""

    name: ClassVar[str] = "pyramiddrop"
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    layers: tuple[int, ...] | None = param(
        None, "layers before which tokens leave (none: equal parts of the depth)"
    )
    ratios: tuple[float, ...] = param(
        (0.5, 0.25, 0.125), "share of the first number of image tokens left after each stage"
    )
    positions: Positions = param("compact", NUMBERING)

    def __post_init__(self) -> None:
        super().__post_init__()
        falls = all(a >= b for a, b in zip((1.0, *self.ratios), self.ratios, strict=False))
        self.require(falls and self.ratios[-1] > 0, "ratios must fall from at most 1, above 0")
        layers = self.layers or range(1, len(self.ratios) + 1)
        rises = all(a < b for a, b in zip((0, *layers), layers, strict=False))
        self.require(rises, "layers must rise from 1")
        self.require(len(layers) == len(self.ratios), "give as many layers as ratios")

    def stages(self, depth: int) -> tuple[int, ...]:
        """The layers before which tokens leave."""
        parts = len(self.ratios) + 1
        return self.layers or tuple(i * max(1, depth // parts) for i in range(1, parts))

    def check(self, info: ModelInfo) -> None:
        last = self.stages(info.layers)[-1]
        self.require(last < info.layers, f"layer {last} needs more than {info.layers} layers")
        super().check(info)

    def lower(self, info: ModelInfo) -> Iterator[dict[str, Any]]:
        stages = self.stages(info.layers)
        return ({"layers": tuple(at - step for at in stages)} for step in range(1, stages[0]))

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i >= self.stages(info.layers)[0] for i in range(info.layers)]

    def request(self, info: ModelInfo, n: int) -> list[int]:
        stages, kept = self.stages(info.layers), (n, *self.kept(n, 1, info.layers))
        return [kept[sum(stage <= i for stage in stages)] for i in range(info.layers)]

    def kept(self, n: int, images: int, depth: int) -> list[int]:
        """Image tokens left of ``n`` after each stage."""
        wanted = self.target(n, images)
        if wanted is None:
            return [max(1, int(n * ratio)) if n else 0 for ratio in self.ratios]
        layers = (*self.stages(depth), depth)
        spans = [b - a for a, b in pairwise(layers)]
        left = wanted * depth - n * layers[0]  # tokens times layers, behind the first stage
        counts: list[int] = []
        # Stages that the factor would fill are full; the first ones are, as ratios fall.
        for i, (ratio, span) in enumerate(zip(self.ratios, spans, strict=True)):
            weight = sum(r * s for r, s in zip(self.ratios[i:], spans[i:], strict=True))
            # What rounding gave away or took is the next stages' to even out.
            exact = left * ratio / weight
            counts.append(max(0, min(n, *counts[-1:], round(exact))))
            left -= counts[-1] * span
        return counts

    def before(self, seq: Tokens) -> None:
        # Only a number of tokens asks how many images there are.
        images = [len(s) for s in seq.spans] if self.tokens is not None else [1] * len(seq.counts)
        seq.memo["pyramiddrop"] = [
            self.kept(n, number, seq.info.layers)
            for n, number in zip(seq.image_counts, images, strict=True)
        ]

    def layer(self, layer: int, seq: Tokens) -> Drop | None:
        stages = self.stages(seq.info.layers)
        if layer not in stages or not any(seq.image_counts):
            return None
        stage = stages.index(layer)
        counts = [kept[stage] for kept in seq.memo["pyramiddrop"]]
        if counts == seq.image_counts:
            return None
        return keep_best(seq, seq.last_row(layer), counts, self.positions)
