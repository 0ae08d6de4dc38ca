"""Control: no image token reaches the language model.

The image placeholders leave before layer 0 and the rest is numbered as if they had never been
there, so answers equal those to the text-only prompt. The vision tower is never run. What a
benchmark still scores is what its questions give away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.base import Drop, Method, ModelInfo, Role, Tokens


@dataclass(frozen=True)
class Blind(Method):
    """No parameters."""

    name: ClassVar[str] = "blind"
    role: ClassVar[Role] = "blind"
    needs_images: ClassVar[bool] = False

    @property
    def numbering(self) -> None:
        return None

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [True] * info.layers

    def request(self, info: ModelInfo, n: int) -> list[int]:
        return [0] * info.layers

    def before(self, seq: Tokens) -> Drop | None:
        if not any(seq.image_counts):
            return None
        counts = [c - n for c, n in zip(seq.counts, seq.image_counts, strict=True)]
        return Drop(seq.valid & ~seq.image, counts, positions="compact")
