"""The unchanged model: every token through every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from methods.base import Method, ModelInfo, Role


@dataclass(frozen=True)
class Dense(Method):
    """No decision at all; the reference row of every table."""

    name: ClassVar[str] = "dense"
    role: ClassVar[Role] = "reference"
    neutral: ClassVar[dict[str, Any] | None] = {}

    @property
    def numbering(self) -> None:
        return None

    def request(self, info: ModelInfo, n: int) -> list[int]:
        return [n] * info.layers

    def training_counts(self, info: ModelInfo, n_text: int, n_image: int) -> list[int]:
        return [n_text + n_image] * info.layers
