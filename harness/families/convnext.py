"""Layers of a CLIP-type tower, and LLaVA-HR's second path, in closed form. Torch-free.

FLOPs, 2 per multiply-accumulate; norms, activations, pooling and resizing are left out, as in
`harness.cost.ledger`.
"""

from __future__ import annotations

from collections.abc import Sequence

CONVNEXT_L = ((192, 384, 768, 1536), (3, 3, 27, 3))  # widths and depths of the four stages
CONVNEXT_XXL = ((384, 768, 1536, 3072), (3, 4, 30, 3))
KERNEL = 7
STRIDE = 32  # input pixels a side of one output position


def encoder_flops(width: int, ffn: int, attended: int, left: int) -> int:
    """FLOPs of a CLIP-type layer with `attended` tokens in its attention and `left` in its MLP."""
    return 8 * attended * width**2 + 4 * attended**2 * width + 4 * left * width * ffn


def convnext_flops(pixels: int, widths: Sequence[int], depths: Sequence[int]) -> float:
    """A ConvNeXt on a square image of `pixels` a side, without head.

    4x4 stem, then per stage a 2x2 downsampling convolution (not before the first) and blocks of
    a 7x7 depthwise convolution and two linear layers with a hidden width of 4·C.
    """
    side = pixels // 4
    total = side**2 * 3 * 16 * widths[0]
    before = 0
    for width, depth in zip(widths, depths, strict=True):
        if before:
            side //= 2
            total += side**2 * 4 * before * width
        total += depth * side**2 * (KERNEL**2 * width + 8 * width**2)
        before = width
    return 2.0 * total


def llava_hr_flops(
    pixels: int, widths: Sequence[int], depths: Sequence[int], fast: int = 1024
) -> float:
    """LLaVA-HR's slow tower, its three MR-adapters and the fusion, for one image.

    `fast` is the width of the CLIP tokens, one for each of the slow tower's (pixels / 32)^2
    output positions. The CLIP tower itself and the projector are counted elsewhere.
    """
    slow, tokens = widths[-1], (pixels // STRIDE) ** 2
    slow_branch = tokens * (slow * slow + slow * fast)
    fast_branch = tokens * (KERNEL**2 * fast + fast * fast)
    gate = 2 * fast * (fast // 2) + fast // 2
    fusion = tokens * (fast * fast + slow * fast)
    rest = 2.0 * (3 * (slow_branch + fast_branch + gate) + fusion)
    return convnext_flops(pixels, widths, depths) + rest


def llava_hr_parameters(widths: Sequence[int], depths: Sequence[int], fast: int = 1024) -> int:
    """Parameters of LLaVA-HR's slow tower (no head), three MR-adapters and the fusion.

    Blocks: depthwise convolution, norm, two linear layers, layer scale; each later stage begins
    with a norm and a 2x2 convolution. Biases everywhere but in the layer scale.
    """
    total, before = 3 * 16 * widths[0] + 3 * widths[0], 0
    for width, depth in zip(widths, depths, strict=True):
        if before:
            total += 2 * before + 4 * before * width + width
        block = (KERNEL**2 + 1) * width + 2 * width + 8 * width**2 + 5 * width + width
        total += depth * block
        before = width
    slow = widths[-1]
    slow_branch = slow * slow + slow + slow * fast + fast
    fast_branch = (KERNEL**2 + 1) * fast + fast * fast + fast
    gate = 2 * fast * (fast // 2) + fast // 2 + fast // 2 + 1
    fusion = fast * fast + slow * fast + 2 * fast
    return total + 3 * (slow_branch + fast_branch + gate) + fusion
