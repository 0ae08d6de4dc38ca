"""A probe, not a method to compare: one decoder layer is skipped by every token.

Prompt and generated tokens take the residual path there, as if the layer did not exist; position
ids stay. `--analyse damage` measures what each layer is worth with it. Not in the registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.base import Method, ModelInfo, Route, Tokens, param


@dataclass(frozen=True)
class SkipLayer(Method):
    """See the module docstring; ``at`` is the 0-based layer."""

    name: ClassVar[str] = "skip-layer"
    routes_text: ClassVar[bool] = True

    at: int = param(0, "the layer that is skipped (0-based)")

    def check(self, info: ModelInfo) -> None:
        self.require(0 <= self.at < info.layers, f"no layer {self.at} in a model of {info.layers}")

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i == self.at for i in range(info.layers)]

    def layer(self, layer: int, seq: Tokens) -> Route | None:
        return self._skip(layer, seq)

    def decode(self, layer: int, seq: Tokens) -> Route | None:
        return self._skip(layer, seq)

    def _skip(self, layer: int, seq: Tokens) -> Route | None:
        if layer != self.at:
            return None
        return Route(seq.valid & ~seq.valid, [0] * len(seq.counts))
