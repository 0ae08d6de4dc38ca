"""LLaVolta: average-pool image tokens before layer k (Chen et al. 2024, arXiv 2406.20092).

Each image's tokens are pooled along their order with kernel = stride = ``stride``, no overlap, at
the input of layer ``k`` (0-based; -1 and 0 both mean before the first layer). No parameters. Here
it runs training-free; the paper trains with staged compression.

The default (2, 2) of (k, stride) is no released recipe: it is the one setting that fits the row of
this method in p-MoD's table (53.1 % of the KV cache). The release has (2, 8) or (16, 8) throughout
or, in turn while training, (2, 8), (2, 2), (16, 2) and off, and then pools nothing in answering.

Follows the released code (its ``avgpool1d``): floor(N / stride) windows, the remainder is dropped
(``remainder=average`` keeps it as a shorter window). A window takes the position of its first
token plus (stride - 1) // 2 in integers: the code averages positions in half precision, which is
the same below 1024 and drifts above. Text keeps its positions, so the axis has gaps, and decode
continues from the full length.
Different here: windows never cross images, any number of tokens works (the code has 576 in it),
newline tokens are pooled along (flat pooling fits the published costs), rows without image pass
unchanged in mixed batches, and k=0 decodes from the right position. A budget (``tokens``,
``ratio``, ``kv``) replaces ``stride``: each image then has as many windows as meet it in the mean
over all layers, of lengths that differ by one at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

from methods.base import Merge, ModelInfo, Tokens, on_device, param
from methods.picking import wide
from methods.scored import Once


@dataclass(frozen=True)
class LLaVolta(Once):
    """See the module docstring."""

    name: ClassVar[str] = "llavolta"
    neutral: ClassVar[dict[str, Any] | None] = {"stride": 1}
    least: ClassVar[int] = -1

    k: int = param(2, "layer before which tokens are pooled (0, -1: before the first)")
    stride: int = param(2, "tokens pooled into one")
    remainder: Literal["drop", "average"] = param(
        "drop", "tokens that fill no window: dropped, or averaged"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.stride >= 1, f"stride={self.stride} is below 1")

    def kept(self, n: int, images: int = 1, layers: int = 32) -> int:
        return len(self.windows(n, layers))

    def training_counts(self, info: ModelInfo, n_text: int, n_image: int) -> list[int]:
        return [n_text + n for n in self.request(info, n_image)]

    def before(self, seq: Tokens) -> Merge | None:
        return self._merge(seq) if self.k <= 0 else None

    def layer(self, layer: int, seq: Tokens) -> Merge | None:
        return self._merge(seq) if layer == self.k and layer > 0 else None

    def windows(self, n: int, layers: int) -> list[tuple[int, int]]:
        """(first token, length) of each window over the ``n`` tokens of one image."""
        count = self.behind(n, 1, max(self.k, 0), layers)
        if count is not None:
            edges = [i * n // count for i in range(count + 1)] if count else []
            return [(a, b - a) for a, b in pairwise(edges)]
        end = n if self.remainder == "average" else n - n % self.stride
        return [(i, min(self.stride, n - i)) for i in range(0, end, self.stride)]

    def _merge(self, seq: Tokens) -> Merge | None:
        length = seq.kinds.shape[1]
        assign = [list(range(length)) for _ in seq.counts]
        size = [[1] * length for _ in seq.counts]
        counts = list(seq.counts)
        for b, spans in enumerate(seq.spans):
            for start, n in spans:
                windows = self.windows(n, seq.info.layers)
                assign[b][start : start + n] = [-1] * n
                for first, width in windows:
                    slot = start + first
                    assign[b][slot : slot + width] = [slot] * width
                    size[b][slot] = width
                counts[b] += len(windows) - n
        if counts == seq.counts:
            return None
        device = seq.hidden.device
        sizes = on_device(size, device)
        states = members = wide(seq.hidden)  # as the released pooling, which adds in float32
        for step in range(1, max(map(max, size))):
            states = states + members.roll(-step, dims=1) * (sizes > step).unsqueeze(-1)
        states = (states / sizes.unsqueeze(-1)).to(seq.hidden.dtype)
        middle = (sizes - 1) // 2
        place = on_device([list(range(length))], device) + middle
        return Merge(on_device(assign, device), counts, states=states, place=place)
