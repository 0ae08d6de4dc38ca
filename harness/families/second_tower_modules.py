"""Single parts of LLaVA-HR's and Mini-Gemini-HD's second path, for the counters of FLOPs.

The parts' names are those of `harness.families.convnext`. Imports torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.families.convnext import STEM
from harness.families.llava_hr_model import Adapter, Fusion
from harness.families.mini_gemini_model import Mining, mined
from harness.families.shapes import SlowShape, VisionShape


class Mined(nn.Module):
    """Scores and sums of the mining, from queries, keys and values."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return mined(query, key, value)


def convolution(vision: VisionShape, slow: SlowShape, name: str) -> tuple[Any, int, int] | None:
    """(module, channels it reads, its stride) of a part that convolves; None for another part."""
    kind, _, last = name.rpartition(" ")
    if name == "stem":
        return nn.Conv2d(3, slow.widths[0], STEM, stride=STEM), 3, STEM
    if kind == "halving":
        before, width = slow.widths[int(last) - 1], slow.widths[int(last)]
        return nn.Conv2d(before, width, 2, stride=2), before, 2
    if kind == "depthwise":
        width = slow.widths[int(last)]
        return _layer(width).dwconv, width, 1
    if kind == "adapter" and last != "gate":
        adapter = Adapter(vision.hidden, slow.widths[-1])
        if last == "slow":
            two = nn.Sequential(adapter.slow_conv, nn.GELU(), adapter.slow_proj)
            return two, slow.widths[-1], 1
        return nn.Sequential(adapter.fast_conv, nn.GELU(), adapter.fast_proj), vision.hidden, 1
    return None


def linear(vision: VisionShape, slow: SlowShape, name: str, tokens: int) -> tuple[Any, Any]:
    """(module, inputs) of a part without convolutions, on the current default device."""
    kind, _, last = name.rpartition(" ")
    d = vision.hidden
    if kind == "pointwise":
        width = slow.widths[int(last)]
        layer = _layer(width)
        return nn.Sequential(layer.pwconv1, layer.act, layer.pwconv2), _states(tokens, width)
    if kind == "adapter":
        return Adapter(d, slow.widths[-1]).gate, _states(tokens, 2 * d)
    if kind == "fusion":
        fusion = Fusion(d, slow.widths[-1])
        module = fusion.fast_proj if last == "fast" else fusion.slow_proj
        return module, _states(tokens, d if last == "fast" else slow.widths[-1])
    mining = Mining(d, sum(slow.widths))
    if last == "scores":
        inside = (slow.pixels // STEM // slow.grid) ** 2 // tokens
        sizes = ((tokens, 1), (tokens, inside), (tokens, inside))
        return Mined(), tuple(torch.empty(1, *size, d) for size in sizes)
    return getattr(mining, last)[1], _states(tokens, d if last == "query" else sum(slow.widths))


def _states(tokens: int, width: int) -> tuple[Tensor]:
    return (torch.empty(1, tokens, width),)


def _layer(width: int) -> Any:
    """One of transformers' ConvNeXt blocks."""
    from transformers import ConvNextConfig
    from transformers.models.convnext.modeling_convnext import ConvNextLayer

    return ConvNextLayer(ConvNextConfig(), width)
