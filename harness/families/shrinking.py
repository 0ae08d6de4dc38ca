"""Shows a tower smaller images than its processor made: fewer patches, and fewer tokens of them.

What the tower made is repeated over the tokens that the prompt has for the image, so that the
model's own code gets as many as it expects; the method drops the others before layer 0
(``methods.downsample``). Pixels are resized bicubically with antialiasing, as image processors do,
but after normalisation, which is the same: both are linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Slots = tuple[list[int], list[int]]  # rows and columns in which the smaller grid's tokens stand
Shrink = Callable[[int, int], Slots | None]  # asked with an image's rows and columns of tokens
Saw = list[tuple[int, int] | None]


def squares(
    tower: Any, projector: Any, config: Any, shrink: Shrink, saw: Saw
) -> list[tuple[Any, Any]]:
    """`Family.shrinking` of a tower of one size, `pixel_values` [C, 3, H, W].

    Fewer patches under an interpolated position embedding.
    """
    side = config.vision_config.image_size // config.vision_config.patch_size
    patch = config.vision_config.patch_size
    see, project = tower.forward, projector.forward
    slots = shrink(side, side)
    sized = slots and (len(slots[0]), len(slots[1]))

    def smaller(pixel_values: Tensor, **more: Any) -> Any:
        saw.extend([sized or None] * len(pixel_values))
        if not sized:
            return see(pixel_values, **more)
        pixels = resized(pixel_values, (sized[0] * patch, sized[1] * patch))
        return see(pixels, **{**more, "interpolate_pos_encoding": True})

    def spread(features: Tensor) -> Tensor:
        made: Tensor = project(features)
        if not slots:
            return made
        return made.index_select(-2, repeated(side, side, slots).to(made.device))

    return [(tower, smaller), (projector, spread)]


def packed(tower: Any, config: Any, shrink: Shrink, saw: Saw) -> list[tuple[Any, Any]]:
    """The same of a tower that takes images of any size as rows of patches."""
    see, merge = tower.forward, config.spatial_merge_size
    shape = (config.in_channels, config.temporal_patch_size, config.patch_size)

    def smaller(hidden_states: Tensor, grid_thw: Tensor, **more: Any) -> Any:
        pixels, sizes, sources, first = [], [], [], 0
        grids = [(int(t), int(h) // merge, int(w) // merge) for t, h, w in grid_thw.tolist()]
        counts = [t * rows * cols * merge**2 for t, rows, cols in grids]
        for one, (frames, rows, cols) in zip(hidden_states.split(counts), grids, strict=True):
            slots = shrink(rows, cols) if frames == 1 else None
            high, wide = (len(slots[0]), len(slots[1])) if slots else (rows, cols)
            saw.append((high, wide) if slots else None)
            pixels.append(
                _rescaled(one, (rows, cols), (high, wide), merge, shape) if slots else one
            )
            sizes.append([frames, high * merge, wide * merge])
            source = repeated(rows, cols, slots) if slots else torch.arange(frames * rows * cols)
            sources.append(source + first)
            first += frames * high * wide
        out = see(torch.cat(pixels), grid_thw=grid_thw.new_tensor(sizes), **more)
        where = torch.cat(sources).to(out.pooler_output.device)
        out.pooler_output = out.pooler_output.index_select(0, where)
        deep = getattr(out, "deepstack_features", None)
        if deep:
            out.deepstack_features = [one.index_select(0, where) for one in deep]
        return out

    return [(tower, smaller)]


def repeated(rows: int, cols: int, slots: Slots) -> Tensor:
    """[rows * cols] long: the token of the smaller grid that stands in the place of each token."""
    down, right = (_nearest(n, one) for n, one in zip((rows, cols), slots, strict=True))
    return (down[:, None] * len(slots[1]) + right[None]).flatten()


def _nearest(length: int, slots: Sequence[int]) -> Tensor:
    steps = torch.arange(length)[:, None]
    return (steps - torch.tensor(slots)[None]).abs().argmin(dim=1)


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, C, H, W] at another height and width, in the same precision."""
    exact = pixels if pixels.dtype == torch.float64 else pixels.float()
    found = interpolate(exact, size, mode="bicubic", align_corners=False, antialias=True)
    return found.to(pixels.dtype)


def _rescaled(
    rows_of: Tensor,
    old: tuple[int, int],
    new: tuple[int, int],
    merge: int,
    shape: tuple[int, int, int],
) -> Tensor:
    """Patches [n, C * T * P * P], in the order of merged blocks, of the same image in ``new``."""
    channels, frames, patch = shape
    blocks = rows_of.view(*old, merge, merge, channels, frames, patch, patch)
    picture = blocks.permute(4, 5, 0, 2, 6, 1, 3, 7).reshape(
        1, channels * frames, old[0] * merge * patch, old[1] * merge * patch
    )
    small = resized(picture, (new[0] * merge * patch, new[1] * merge * patch))
    cut = small.view(channels, frames, new[0], merge, patch, new[1], merge, patch)
    return cut.permute(2, 5, 3, 6, 0, 1, 4, 7).reshape(-1, rows_of.shape[1])
