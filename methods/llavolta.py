"""LLaVolta: average-pool image tokens before layer k (Chen et al. 2024, arXiv 2406.20092).

Each image's tokens are pooled along their order with kernel = stride = ``stride``, no overlap, at
the input of layer ``k`` (0-based; -1 and 0 both mean before the first layer). No parameters. Here
it runs training-free; the paper trains with staged compression.

Follows the released code (its ``avgpool1d``): floor(N / stride) windows, the remainder is dropped
(``remainder=average`` keeps it as a shorter window). A window takes the position of its first
token plus (stride - 1) // 2 in integers: the code averages positions in half precision, which is
the same below 1024 and drifts above. Text keeps its positions, so the axis has gaps, and decode
continues from the full length.
Different here: windows never cross images, any number of tokens works (the code has 576 in it),
newline tokens are pooled along (flat pooling fits the published costs), rows without image pass
unchanged in mixed batches, and k=0 decodes from the right position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from methods.base import Merge, Method, ModelInfo, Tokens, on_device


@dataclass(frozen=True)
class LLaVolta(Method):
    """See the module docstring."""

    name: ClassVar[str] = "llavolta"
    neutral: ClassVar[dict[str, Any] | None] = {"stride": 1}

    k: int = 2
    stride: int = 2
    remainder: Literal["drop", "average"] = "drop"

    def __post_init__(self) -> None:
        self.require(self.k >= -1, f"k={self.k} is below -1")
        self.require(self.stride >= 1, f"stride={self.stride} is below 1")

    def check(self, info: ModelInfo) -> None:
        self.require(self.k < info.layers, f"k={self.k} needs more than {info.layers} layers")

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [i >= self.k for i in range(info.layers)]

    def before(self, seq: Tokens) -> Merge | None:
        return self._merge(seq) if self.k <= 0 else None

    def layer(self, layer: int, seq: Tokens) -> Merge | None:
        return self._merge(seq) if layer == self.k and layer > 0 else None

    def _merge(self, seq: Tokens) -> Merge | None:
        if self.stride == 1 or not any(seq.image_counts):
            return None
        rows, length = seq.kinds.shape
        assign = [list(range(length)) for _ in range(rows)]
        size = [[1] * length for _ in range(rows)]
        counts = list(seq.counts)
        for b, spans in enumerate(seq.spans):
            for start, n in spans:
                whole = n - n % self.stride
                for i in range(n):
                    slot = start + i - i % self.stride
                    gone = i >= whole and self.remainder == "drop"
                    assign[b][start + i] = -1 if gone else slot
                    size[b][slot] = min(self.stride, start + n - slot)
                windows = -(-n // self.stride) if self.remainder == "average" else n // self.stride
                counts[b] += windows - n
        device = seq.hidden.device
        sizes = on_device(size, device)
        states = seq.hidden.clone()
        for step in range(1, self.stride):
            states = states + seq.hidden.roll(-step, dims=1) * (sizes > step).unsqueeze(-1)
        states = (states / sizes.unsqueeze(-1)).to(seq.hidden.dtype)
        middle = (sizes - 1) // 2
        positions = seq.position_ids + middle
        return Merge(on_device(assign, device), counts, states=states, position_ids=positions)
