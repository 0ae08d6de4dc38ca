"""Which part of an image a grid of tokens covers: what the image processors really do.

Checked against the processors of transformers, pixel by pixel, by the tests:

CLIP (LLaVA-1.5 as published for transformers)   shortest edge resized, then a centre crop: the
                                                  ends of a long image are never seen.
LLaVA with ``do_pad``                             padded to a square, then resized: the outer tokens
                                                  of a long image carry padding.
LLaVA-NeXT                                        the base crop is the whole image stretched to a
                                                  square; the tiles are one picture of the image in
                                                  its own shape, padded, and cut back to tokens that
                                                  carry some of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.common.errors import UsageError

Size = tuple[int, int]  # height, width
CROP, PAD, STRETCH, TILES = "crop", "pad", "stretch", "tiles"


def raster(length: int) -> tuple[int, int]:
    """Rows and columns of ``length`` tokens: a square where they make one, else a line."""
    side = math.isqrt(length)
    return (side, side) if side * side == length else (1, length)


def runs(rows: Sequence[Sequence[bool]]) -> list[int]:
    """Lengths of the unbroken runs of true values, over all rows in order."""
    found: list[int] = []
    for row in rows:
        before = False
        for own in row:
            if own and not before:
                found.append(0)
            if own:
                found[-1] += 1
            before = own
    return found


def base_grid(start: int, length: int, rows: int, cols: int) -> dict[str, Any]:
    """The grid of one square that the tower sees, at the start of its image's tokens."""
    return {
        "kind": "base", "start": start, "newline": False, "crops": 1, "tiles": (1, 1),
        "rows": rows, "cols": cols, "image_start": start, "image_length": length,
    }  # fmt: skip


def write_origins(side: int, grid: dict[str, Any], first: int, line: list[int]) -> None:
    """`Family.origins` where a crop has ``side`` x ``side`` patches and a token is a patch."""
    rows, cols = grid["rows"], grid["cols"]
    high, wide = grid["tiles"]
    # Un-padding cut the same number of rows (or columns) from both ends of the joined tiles.
    down, right = (high * side - rows) // 2, (wide * side - cols) // 2
    for r in range(rows):
        for c in range(cols):
            row, col = r + down, c + right
            crop = first + row // side * wide + col // side
            patch = row % side * side + col % side
            line[grid["start"] + r * (cols + grid["newline"]) + c] = crop * side * side + patch


def place(grids: list[dict[str, Any]], sizes: Sequence[Size], processor: Any) -> None:
    """Add to every grid of one sample where in its image it lies.

    ``number``: which of the sample's images; ``image``: its height and width in pixels; ``fit``:
    how the processor made it fit; ``box``: left, top, right and bottom of the whole grid in pixels
    of the image, outside it where the grid covers padding. Grids stay as they are where the
    images cannot be told apart or the processor does something unknown.
    """
    if sum(grid["kind"] == "base" for grid in grids) != len(sizes):
        return
    number, side = -1, 0
    for grid in grids:
        if grid["kind"] == "base":
            number, side = number + 1, grid["rows"]
        size = sizes[number]
        if grid["kind"] == "base":
            fit, box = _whole(size, processor)
        else:
            fit, box = TILES, _tiles(grid, size, processor, side)
        if box is not None and (grid["rows"] > 1 or grid["cols"] == 1):  # else no known shape
            grid |= {"number": number, "image": list(size), "fit": fit}
            grid["box"] = [round(edge, 3) for edge in box]


def seen(size: Size, processor: Any) -> tuple[float, ...] | None:
    """Left, top, right and bottom, in pixels of an image, of the square that the tower sees of it.

    Any-resolution models: of the base crop. None where the processor does something unknown.
    """
    return _whole(size, processor)[1]


def _whole(size: Size, processor: Any) -> tuple[str, tuple[float, ...] | None]:
    """The one square that the tower sees of an image, or the base crop of an any-resolution one."""
    high, wide = size
    if getattr(processor, "image_grid_pinpoints", None):
        return STRETCH, (0, 0, wide, high)
    fit, left, top = CROP, 0, 0
    if getattr(processor, "do_pad", None):
        side = max(size)
        left, top = (side - wide) // 2, (side - high) // 2
        high = wide = side
        fit = PAD
    new_high, new_wide = _resized((high, wide), processor)
    x, y, right, bottom = 0, 0, new_wide, new_high
    crop = getattr(processor, "crop_size", None)
    if getattr(processor, "do_center_crop", None) and crop is not None:
        crop_high, crop_wide = side_of(crop, "height"), side_of(crop, "width")
        if not crop_high or not crop_wide:
            return fit, None
        x, y = round((new_wide - crop_wide) / 2), round((new_high - crop_high) / 2)
        right, bottom = x + crop_wide, y + crop_high
    across, down = wide / new_wide, high / new_high
    return fit, (x * across - left, y * down - top, right * across - left, bottom * down - top)


def _resized(size: Size, processor: Any) -> Size:
    if not getattr(processor, "do_resize", None):
        return size
    wanted = processor.size
    short = side_of(wanted, "shortest_edge")
    if short:
        high, wide = size
        long = int(short * max(size) / min(size))
        return (short, long) if high <= wide else (long, short)
    return side_of(wanted, "height") or size[0], side_of(wanted, "width") or size[1]


def _tiles(grid: dict[str, Any], size: Size, processor: Any, side: int) -> tuple[float, ...] | None:
    """The joined tile grid after the rows or columns that carry padding alone were cut off.

    Where patches do not fill a tile, each ends in pixels that none of them sees (6 of 384). One box
    cannot leave them out between tiles: it lies where no token is more than half of that off.
    """
    from transformers.image_processing_utils import select_best_resolution

    canvas = select_best_resolution(size, processor.image_grid_pinpoints)
    tile = next((found for found in _sides(processor) if found), 0)
    if not tile or canvas[0] % tile or canvas[1] % tile:
        return None
    token, unseen = tile / side, tile % side
    rows, cols = grid.get("whole", (grid["rows"], grid["cols"]))
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    shown = [_ceil(length * scale, limit) for length, limit in zip(size, canvas, strict=True)]
    cut = [canvas[0] // tile * side - rows, canvas[1] // tile * side - cols]
    if min(cut) < 0:
        return None
    edges = []  # top and bottom, then left and right
    for axis, count in enumerate((rows, cols)):
        pasted = (canvas[axis] - shown[axis]) // 2
        begin, share = cut[axis] // 2, size[axis] / shown[axis]
        alone = canvas[axis] == tile
        step, off = (tile // side, 0.0) if alone else (token, unseen / 2)
        first = begin * step - off - pasted
        edges.append((first * share, (first + count * step) * share))
    (top, bottom), (left, right) = edges
    return left, top, right, bottom


def _sides(processor: Any) -> list[int]:
    """What the processor says of a tile's side in pixels, 0 where it does not say it so."""
    crop = side_of(getattr(processor, "crop_size", None), "height")
    return [crop, *(side_of(processor.size, name) for name in ("shortest_edge", "height"))]


def _ceil(value: float, limit: int) -> int:
    return min(-int(-value // 1), limit)


def refuse_other_size(processor: Any, wanted: int, name: str) -> None:
    """Raise UsageError where an image processor makes images of another size than a model's."""
    sizes = [getattr(processor, field, None) or {} for field in ("crop_size", "size")]
    found = [side_of(one, key) for one in sizes for key in ("height", "shortest_edge")]
    said = next((side for side in found if side), 0)
    if said != wanted:
        raise UsageError(
            f"{name}: the image processor makes images of {said} pixels a side, the model's config "
            f"says {wanted}: a processor of another model?"
        )


def side_of(size: Any, name: str) -> int:
    """An entry of a processor's size, which is a mapping or an object; 0 where it has none."""
    value = size.get(name) if hasattr(size, "get") else getattr(size, name, None)
    return int(value or 0)
