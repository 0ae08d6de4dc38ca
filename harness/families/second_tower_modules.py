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


def convolution(vision: VisionShape, slow: SlowShape, name: str) -> tuple[Any, int] | None:
    """(module, channels it reads) of a part whose convolutions overlap; None for another part."""
    kind, _, last = name.rpartition(" ")
    if kind == "depthwise":
        width = slow.widths[int(last)]
        return _layer(width).dwconv, width
    if name == "adapter fast":
        adapter = Adapter(vision.hidden, slow.widths[-1])
        return nn.Sequential(adapter.fast_conv, nn.GELU(), adapter.fast_proj), vision.hidden
    return None


def linear(vision: VisionShape, slow: SlowShape, name: str, tokens: int) -> tuple[Any, Any]:
    """(module, inputs) of any other part, on the current default device.

    A convolution that does not overlap is written as the linear layer that it is.
    """
    kind, _, last = name.rpartition(" ")
    d, s = vision.hidden, slow.widths[-1]
    if name == "stem":
        return nn.Linear(3 * STEM**2, slow.widths[0]), _states(tokens, 3 * STEM**2)
    if kind == "halving":
        before, width = slow.widths[int(last) - 1], slow.widths[int(last)]
        return nn.Linear(4 * before, width), _states(tokens, 4 * before)
    if name == "adapter slow":
        return nn.Sequential(nn.Linear(s, s), nn.GELU(), nn.Linear(s, d)), _states(tokens, s)
    if kind == "pointwise":
        width = slow.widths[int(last)]
        layer = _layer(width)
        return nn.Sequential(layer.pwconv1, layer.act, layer.pwconv2), _states(tokens, width)
    if kind == "adapter":
        return Adapter(d, s).gate, _states(tokens, 2 * d)
    if kind == "fusion":
        fusion = Fusion(d, s)
        module = fusion.fast_proj if last == "fast" else fusion.slow_proj
        return module, _states(tokens, d if last == "fast" else s)
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
