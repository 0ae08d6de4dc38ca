"""Mixture-of-Depths on vision tokens (Raposo et al. 2024, arXiv 2404.02258; no official code).

In a routed layer a per-layer linear router (no bias) gives r for each image token; the
k = floor(capacity * N) highest are processed, x' = x + r * (T(x) - x) with T the ordinary layer,
the others stay x. Only image tokens are routed: all of them are known at prefill, so the
selection needs no look into the future and no causal predictor, and text and generated tokens
take the full layer.

  capacity, layers   12.5 % of the tokens in every second block, the paper's best setting; the
                     placements of gamma-MoD's Table 1 are ``layers=all`` and ``layers=odd`` (or
                     ``2-per-3``) with ``capacity=0.66`` (its ratio of 34 % counts what is skipped).
  weight             ``raw`` r + offset (the paper's form), ``sigmoid``, ``softmax`` over the
                     selected tokens, ``tanh`` 0.2 * tanh(r) + 1.
  offset             added to a raw weight. 1 with a zero router lets continued training start at
                     the dense model; 0 is the paper's from-scratch form (random router).
  scope              ``residual_update`` is the paper's equation; ``mlp_branch`` and
                     ``layer_output`` are what later papers call MoD.

A raw-weight router on a pretrained model without training destroys the residual stream, so the
method counts as trained. Capacity is a fraction of the sample's image tokens, ties go to the
lowest index, position ids stay the original ones; the paper states none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from methods.base import (
    NUMBERING,
    Method,
    ModelInfo,
    Positions,
    Ranking,
    Route,
    Scope,
    Tokens,
    param,
    top_k_mask,
)
from methods.placement import check_layers, parse_layers

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class MoD(Method):
    """See the module docstring."""

    name: ClassVar[str] = "mod"
    trained: ClassVar[bool] = True
    plans_layers: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any] | None] = {"capacity": 1.0, "scope": "mlp_branch"}

    capacity: float = param(0.125, "share of the image tokens that a routed layer processes")
    layers: str = param("odd", "layers that route: a preset, or numbers joined by + (0-based)")
    weight: Literal["raw", "sigmoid", "softmax", "tanh"] = param(
        "raw", "form of the router's weight"
    )
    offset: float = param(1.0, "added to a raw weight")
    scope: Scope = param("residual_update", "what the weight scales")
    shared: bool = param(False, "one router for all layers, or one each")
    router_input: Literal["raw", "normed"] = param(
        "raw", "what the router reads: the residual stream, or the layer's normed input"
    )
    positions: Positions = param("original", NUMBERING)

    def __post_init__(self) -> None:
        self.require(0 <= self.capacity <= 1, f"capacity={self.capacity} is outside 0..1")
        check_layers(self.name, self.layers)

    def mod_layers(self, info: ModelInfo) -> Sequence[bool]:
        return parse_layers(self.name, self.layers, info.layers)

    def check(self, info: ModelInfo) -> None:
        self.mod_layers(info)

    def request(self, info: ModelInfo, n: int) -> list[int]:
        return [self._count(n) if routed else n for routed in self.mod_layers(info)]

    def training_counts(self, info: ModelInfo, n_text: int, n_image: int) -> list[int]:
        return [n_text + n for n in self.request(info, n_image)]

    def _count(self, n: int) -> int:
        return int(np.float32(n) * np.float32(self.capacity))

    def build_modules(self, info: ModelInfo) -> nn.Module:
        """One Linear(d, 1) per routed layer (or ``router``); zero where an offset carries it."""
        from torch import nn

        routed = [str(i) for i, r in enumerate(self.mod_layers(info)) if r]
        modules = nn.ModuleDict()
        for name in ["router"] if self.shared else routed:
            linear = nn.Linear(info.width, 1, bias=False)
            if self.offset == 0:
                nn.init.normal_(linear.weight, std=info.width**-0.5)
            else:
                nn.init.zeros_(linear.weight)
            modules[name] = linear
        return modules

    def module_parameters(self, info: ModelInfo) -> int:
        return info.width * (1 if self.shared else sum(self.mod_layers(info)))

    def layer(self, layer: int, seq: Tokens) -> Route | None:
        if not self.mod_layers(seq.info)[layer] or not any(seq.image_counts):
            return None
        assert seq.modules is not None
        router = seq.modules["router" if self.shared else str(layer)]  # type: ignore[index]
        states = seq.hidden if self.router_input == "raw" else seq.normed(layer)
        raw, image = router(states).squeeze(-1), seq.image
        counts = [self._count(n) for n in seq.image_counts]
        keep = top_k_mask(raw, image, counts)
        return Route(
            keep=keep | (seq.valid & ~image),
            counts=[
                c - n + k for c, n, k in zip(seq.counts, seq.image_counts, counts, strict=True)
            ],
            weight=self._weights(raw, keep).masked_fill(~image, 1.0),
            scope=self.scope,
            positions=self.positions,
            ranked=Ranking(raw),
        )

    def _weights(self, raw: Tensor, keep: Tensor) -> Tensor:
        if self.weight == "raw":
            return raw + self.offset
        if self.weight == "sigmoid":
            return raw.sigmoid()
        if self.weight == "tanh":
            return 0.2 * raw.tanh() + 1.0
        # A row that keeps nothing must not be all -inf; its weights are never used.
        return raw.masked_fill(~keep & keep.any(dim=1, keepdim=True), float("-inf")).softmax(dim=1)
