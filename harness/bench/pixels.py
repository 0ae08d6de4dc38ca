"""Images with fewer pixels, for methods that are shown such (`Method.pixels`)."""

from __future__ import annotations

import math
from typing import Any

from harness.families.framing import side_of

TILES = "image_grid_pinpoints"


def fewer_pixels(image: Any, share: float, processor: Any) -> Any:
    """A PIL image with ``share`` of the pixels that its processor would have kept of it.

    Both sides by the root of it, bicubic; never below one pixel.
    """
    from PIL.Image import Resampling

    scale = math.sqrt(share) * kept(image.size, processor)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, Resampling.BICUBIC)


def in_whole(grids: list[dict[str, Any]], sizes: list[tuple[int, int]]) -> None:
    """Grids that were placed in smaller images, placed in those of ``sizes`` (height, width)."""
    for grid in grids:
        if "box" in grid:
            old, new = grid["image"], sizes[grid["number"]]
            down, across = new[0] / old[0], new[1] / old[1]
            left, top, right, bottom = grid["box"]
            box = left * across, top * down, right * across, bottom * down
            grid |= {"image": list(new), "box": [round(edge, 3) for edge in box]}


def kept(size: tuple[int, int], processor: Any) -> float:
    """By how much a processor shrinks an image's sides; 1 where it does not, or nobody knows.

    Processors of one square shrink the shortest edge (or both) to it, those of any size keep a
    number of pixels. What cuts an image into tiles keeps more of it than a tile: 1.
    """
    wanted = getattr(processor, "size", None)
    if not getattr(processor, "do_resize", None) or getattr(processor, TILES, None):
        return 1.0
    if getattr(processor, "patch_size", None) and getattr(processor, "merge_size", None):
        most = side_of(wanted, "longest_edge") or int(getattr(processor, "max_pixels", 0) or 0)
        return min(1.0, math.sqrt(most / (size[0] * size[1]))) if most else 1.0
    if getattr(processor, "max_patches", 1) != 1 or getattr(processor, "crop_to_patches", None):
        return 1.0
    short = side_of(wanted, "shortest_edge")
    side = max(size) if getattr(processor, "do_pad", None) else min(size)
    if short:
        return min(1.0, short / side)
    high, wide = side_of(wanted, "height"), side_of(wanted, "width")
    return min(1.0, max(wide / size[0], high / size[1])) if high and wide else 1.0
