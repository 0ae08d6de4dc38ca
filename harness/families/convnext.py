"""LLaVA-HR's and Mini-Gemini-HD's second path in closed form, part by part.

FLOPs, 2 per multiply-accumulate; norms, activations, pooling and resizing are left out, as in
`harness.cost.ledger`. Torch-free but for `module_of`, which makes a part at its true size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.families.shapes import Part, SlowShape, VisionShape

CONVNEXT_L = ((192, 384, 768, 1536), (3, 3, 27, 3))  # widths and depths of the four stages
CONVNEXT_XXL = ((384, 768, 1536, 3072), (3, 4, 30, 3))
KERNEL, STEM = 7, 4


def encoder_flops(width: int, ffn: int, attended: int, left: int) -> int:
    """FLOPs of a CLIP-type layer with `attended` tokens in its attention and `left` in its MLP."""
    return 8 * attended * width**2 + 4 * attended**2 * width + 4 * left * width * ffn


def stride_of(depths: Sequence[int]) -> int:
    """Pixels a side of one position of a ConvNeXt's last stage."""
    return int(STEM * 2 ** (len(depths) - 1))


def second_parts(vision: VisionShape, slow: SlowShape, images: int) -> list[Part]:
    """All that runs for so many images beside the CLIP tower and the projector."""
    more = mining_parts(vision, slow, images) if slow.grid else mixing_parts(vision, slow, images)
    return convnext_parts(slow, images) + more


def convnext_parts(slow: SlowShape, images: int) -> list[Part]:
    """A ConvNeXt without head: a 4x4 stem, then stages.

    A stage: a 2x2 convolution that halves the sides (not in the first), and blocks of a 7x7
    depthwise convolution and two linear layers with a hidden width of 4·C.
    """
    side, before = slow.pixels // STEM, 0
    parts = [_vision("stem", side**2, images, side**2 * 3 * STEM**2 * slow.widths[0])]
    for i, (width, depth) in enumerate(zip(slow.widths, slow.depths, strict=True)):
        if before:
            side //= 2
            parts.append(_vision(f"halving {i}", side**2, images, side**2 * 4 * before * width))
        n, times = side**2, depth * images
        parts.append(_vision(f"depthwise {i}", n, times, n * KERNEL**2 * width))
        parts.append(_vision(f"pointwise {i}", n, times, n * 8 * width**2))
        before = width
    return parts


def mixing_parts(vision: VisionShape, slow: SlowShape, images: int) -> list[Part]:
    """LLaVA-HR's adapters and fusion. An adapter: two 1x1 convolutions of the last map, a 7x7
    depthwise and a 1x1 convolution of the CLIP tokens, and a gate of one number an image.
    """
    d, s, n = vision.hidden, slow.widths[-1], vision.patches
    m, times = (slow.pixels // stride_of(slow.depths)) ** 2, slow.adapters * images
    return [
        _vision("adapter slow", m, times, m * (s * s + s * d)),
        _vision("adapter fast", n, times, n * (KERNEL**2 * d + d * d)),
        _vision("adapter gate", 1, times, 2 * d * (d // 2) + d // 2),
        _vision("fusion fast", n, images, n * d * d),
        _vision("fusion slow", n, images, n * s * d),  # the map was resized to the tokens' grid
    ]


def mining_parts(vision: VisionShape, slow: SlowShape, images: int) -> list[Part]:
    """Mini-Gemini's patch information mining, for the whole image and every crop.

    Of all maps at the first one's size, as many positions lie in the whole image, which sees them
    at 1/grid, as in a crop: m² in each patch. A query a token, keys and values a position.
    """
    d, fine, n = vision.hidden, sum(slow.widths), vision.patches
    positions = (slow.pixels // STEM // slow.grid) ** 2
    times = (1 + slow.grid**2) * images
    return [
        _vision("mining query", n, times, n * d * d),
        _vision("mining key", positions, times, positions * fine * d),
        _vision("mining value", positions, times, positions * fine * d),
        _vision("mining scores", n, times, 2 * positions * d),
    ]


def _vision(name: str, tokens: int, times: int, products: int) -> Part:
    """A part of so many multiply-accumulates."""
    return Part("vision", name, tokens, times, 2.0 * products)


def second_parameters(vision: VisionShape, slow: SlowShape) -> int:
    """Parameters of the ConvNeXt (no head, no last norm) and of what joins it to CLIP's tokens.

    Biases everywhere but in the layer scale; each later stage begins with a norm and a 2x2
    convolution.
    """
    total, before = 3 * STEM**2 * slow.widths[0] + 3 * slow.widths[0], 0
    for width, depth in zip(slow.widths, slow.depths, strict=True):
        if before:
            total += 2 * before + 4 * before * width + width
        block = (KERNEL**2 + 1) * width + 2 * width + 8 * width**2 + 5 * width + width
        total += depth * block
        before = width
    d, s, fine = vision.hidden, slow.widths[-1], sum(slow.widths)
    if slow.grid:
        return total + 2 * d + (d + 1) * d + 2 * (2 * fine + (fine + 1) * d)
    slow_branch = (s + 1) * s + (s + 1) * d
    fast_branch = (KERNEL**2 + 1) * d + (d + 1) * d
    gate = (2 * d + 1) * (d // 2) + d // 2 + 1
    fusion = (d + 1) * d + (s + 1) * d
    return total + slow.adapters * (slow_branch + fast_branch + gate) + fusion


def module_of(vision: VisionShape, slow: SlowShape, name: str, tokens: int) -> tuple[Any, Any]:
    """(module, inputs) of a part at its true size; the modules are the model's own.

    On ``meta``, but for convolutions that overlap, which torch 2.13 cannot trace there.
    """
    import torch

    from harness.families import second_tower_modules as modules

    made = modules.convolution(vision, slow, name)
    if made is not None:
        module, width = made
        side = round(tokens**0.5)
        return module, (torch.zeros(1, width, side, side),)
    with torch.device("meta"):
        return modules.linear(vision, slow, name, tokens)
