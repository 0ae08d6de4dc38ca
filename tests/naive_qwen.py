"""The reference for Qwen2-VL, Qwen2.5-VL and Qwen3-VL: three-axis positions, rotary, deepstack.

Only an image's features come from the model (`get_image_features`, each image alone); where tokens
stand, how they are turned and what is added behind the first layers is written here again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.naive import Naive, Sample


def places(ids: list[int], image_token: int, grids: list[tuple[int, int]]) -> Tensor:
    """[n, 3] time, row and column. ``grids``: rows and columns of tokens, image by image.

    Text counts on all three axes alike. An image at p has time p, rows from p and columns from p;
    the text behind it goes on at p plus its longer side.
    """
    found: list[tuple[int, int, int]] = []
    at, left = 0, list(grids)
    while len(found) < len(ids):
        if ids[len(found)] != image_token:
            found.append((at, at, at))
            at += 1
            continue
        rows, cols = left.pop(0)
        found += [(at, at + r, at + c) for r in range(rows) for c in range(cols)]
        at += max(rows, cols)
    assert not left
    return torch.tensor(found)


class NaiveQwen(Naive):
    """``sample.grids`` are those of tokens. ``deep``: [n, d] tables of the first layers."""

    def __init__(self, model: Any, sample: Sample, modules: Any = None) -> None:
        super().__init__(model, sample, modules)
        sizes = [(rows, cols) for ((rows, cols, _),) in sample.grids]
        self.position = places(sample.ids + sample.answer, sample.image_token, sizes)
        self.rope = self.config.rope_parameters
        self.interleaved = model.config.model_type.startswith("qwen3")
        self.deep = []
        for parts in sample.deep:
            table = torch.zeros_like(self.x)
            table[sample.image] = parts.double()
            self.deep.append(table)

    def axis_of(self, pair: int) -> int:
        """Which axis turns the numbers ``pair`` and ``pair + size / 2`` of a head."""
        time, rows, cols = self.rope["mrope_section"]
        if self.interleaved:  # t h w t h w ..., until an axis has as many as it should; then t
            axis = pair % 3
            return axis if pair < 3 * (0, rows, cols)[axis] else 0
        return 0 if pair < time else 1 if pair < time + rows else 2

    def turned(self, x: Tensor, position: Tensor) -> Tensor:
        """RoPE on [n, heads, size]; a position [n] stands for all three axes."""
        axes = position if position.dim() == 2 else position[:, None].expand(-1, 3)
        half = self.size // 2
        speed = 1 / self.rope["rope_theta"] ** torch.tensor(
            [2 * i / self.size for i in range(half)]
        )
        angle = axes[:, [self.axis_of(pair) for pair in range(half)]].float() * speed
        cos, sin = angle.cos().double()[:, None], angle.sin().double()[:, None]
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def run_layer(self, layer: int, *args: Any, **options: Any) -> None:
        super().run_layer(layer, *args, **options)
        if layer < len(self.deep):  # behind the layer, of tokens that skipped it too
            self.x = self.x + self.deep[layer]

    def rebuild(self, groups: list[list[int]], position: Tensor) -> None:
        super().rebuild(groups, position)
        self.deep = [self.means(table, groups) for table in self.deep]

    def merge(self, groups: dict[int, list[int]]) -> None:
        super().merge(groups)
        self.deep = [self.merged(table, groups) for table in self.deep]
