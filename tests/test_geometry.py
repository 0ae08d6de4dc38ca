"""Tokens to pixels: a bright patch through the real image processors comes out where we say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.common.torchvision_ops import declare_missing_ops

declare_missing_ops()

from PIL import Image  # noqa: E402
from transformers import (  # noqa: E402
    CLIPImageProcessor,
    LlavaImageProcessor,
    LlavaNextImageProcessor,
    Qwen2VLImageProcessor,
)

from harness.families.catalog import FAMILIES  # noqa: E402
from harness.families.framing import place  # noqa: E402
from reports.geometry import overlapping, rects, tokens  # noqa: E402

SIZES = [(300, 300), (200, 500), (500, 200), (333, 410), (1024, 700), (90, 64)]  # height, width


def clip(side: int) -> Any:
    return CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def padding(side: int) -> Any:
    return LlavaImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_pad=True
    )


def tiles(side: int) -> Any:
    grids = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side], [3 * side, side]]
    return LlavaNextImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=[*grids, [side, 3 * side]],
    )


def bright(size: tuple[int, int], centre: tuple[float, float]) -> Image.Image:
    """Black, with a white square of a fifth of the short side around ``centre`` (y, x shares)."""
    high, wide = size
    half = max(4, min(size) // 10)
    y, x = int(centre[0] * high), int(centre[1] * wide)
    pixels = np.zeros((high, wide, 3), np.uint8)
    pixels[max(0, y - half) : y + half, max(0, x - half) : x + half] = 255
    return Image.fromarray(pixels)


def light(pixels: Any, rows: int, cols: int) -> Any:
    """[rows, cols] mean brightness of every patch of one processed square [3, h, w]."""
    values = np.asarray(pixels).mean(0)
    high, wide = values.shape[0] // rows, values.shape[1] // cols
    return values.reshape(rows, high, cols, wide).mean((1, 3))


def agree(grid: dict[str, Any], seen: Any, size: tuple[int, int], image: Image.Image) -> None:
    """The light that the tower sees in every patch is that of the pixels we map it to."""
    whole = np.asarray(image).astype(float)[:, :, 0] / 255
    high, wide = size
    left, top, right, bottom = rects(grid).T
    steps = (np.arange(12) + 0.5) / 12  # twelve points across and down every rectangle
    ys, xs = (a[:, None] + np.outer(b - a, steps) for a, b in ((top, bottom), (left, right)))
    inside = ((ys >= 0) & (ys < high))[:, :, None] & ((xs >= 0) & (xs < wide))[:, None, :]
    rows, cols = np.clip(ys, 0, high - 1).astype(int), np.clip(xs, 0, wide - 1).astype(int)
    expected = (whole[rows[:, :, None], cols[:, None, :]] * inside).mean(axis=(1, 2))
    scale = (seen - seen.min()) / max(1e-9, seen.max() - seen.min())
    expected = expected.reshape(seen.shape) / max(1e-9, expected.max())
    assert np.abs(scale - expected).max() < 0.25
    assert np.abs(scale - expected).mean() < 0.02


CENTRES = [(0.5, 0.5), (0.3, 0.62), (0.71, 0.4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [96, 1024])
def test_a_centre_crop_maps_back(size: tuple[int, int], side: int) -> None:
    for centre in CENTRES:
        image, grid = bright(size, centre), [base(16)]
        place(grid, [size], clip(side))
        pixels = clip(side)(image, return_tensors="np")["pixel_values"][0]
        crop = pixels[:, : side // 12 * 12, : side // 12 * 12]
        if side % 12 == 0:
            agree(grid[0], light(crop, 16, 16), size, image)
        assert grid[0]["fit"] == "crop"
    assert min(np.ptp(rects(grid[0])[:, ::2]), np.ptp(rects(grid[0])[:, 1::2])) <= min(size) + 1


@pytest.mark.parametrize("size", SIZES)
def test_a_padded_square_maps_back(size: tuple[int, int]) -> None:
    for centre in CENTRES:
        image, grid = bright(size, centre), [base(16)]
        processor = padding(96)
        processor.image_mean = [0.0, 0.0, 0.0]  # padding as dark as the ground
        place(grid, [size], processor)
        pixels = processor(image, return_tensors="np")["pixel_values"][0]
        agree(grid[0], light(pixels, 16, 16), size, image)
    assert grid[0]["fit"] == "pad"


@pytest.mark.parametrize("size", SIZES)
def test_tiles_map_back(size: tuple[int, int]) -> None:
    """Joined and cut exactly as the model joins and cuts its features."""
    import torch
    from transformers.models.llava_next.modeling_llava_next import (
        get_anyres_image_grid_shape,
        unpad_image,
    )

    side, patches = 96, 12
    processor = tiles(side)
    high, wide = get_anyres_image_grid_shape(size, processor.image_grid_pinpoints, side)
    for centre in CENTRES:
        image = bright(size, centre)
        pixels = processor(image, return_tensors="np")["pixel_values"][0]
        whole, *parts = [light(one, patches, patches) for one in pixels]
        joined = np.block([[parts[r * wide + c] for c in range(wide)] for r in range(high)])
        cut = unpad_image(torch.tensor(joined)[None], size)[0].numpy()
        grids = [base(patches), {"kind": "tile", "rows": cut.shape[0], "cols": cut.shape[1],
                                 "start": patches * patches, "newline": True}]  # fmt: skip
        place(grids, [size], processor)
        agree(grids[0], whole, size, image)
        agree(grids[1], cut, size, image)
    assert [grid["fit"] for grid in grids] == ["stretch", "tiles"]


@pytest.mark.parametrize("size", [*SIZES, (97, 801), (641, 131)])
@pytest.mark.parametrize("patch", [14, 16])
def test_packed_patches_map_back(size: tuple[int, int], patch: int) -> None:
    """A token is two by two patches, which stand together in the rows of the processor."""
    family = FAMILIES["qwen2_5_vl" if patch == 14 else "qwen3_vl"]
    pixels = {"shortest_edge": 16 * patch**2, "longest_edge": 1200 * patch**2}
    processor = Qwen2VLImageProcessor(
        patch_size=patch, size=pixels, image_mean=[0.0] * 3, image_std=[1.0] * 3
    )
    for centre in CENTRES:
        image = bright(size, centre)
        made = processor(image, return_tensors="np")
        ((_, high, wide),) = made["image_grid_thw"]
        seen = made["pixel_values"].reshape(high // 2, wide // 2, -1).mean(-1)
        (grid,) = family.grids(None, 7, seen.size, made["image_grid_thw"][0])
        family.place([grid], [size], processor)
        assert grid["start"] == 7 and tokens(grid).shape == seen.shape
        agree(grid, seen, size, image)


def base(side: int) -> dict[str, Any]:
    return {"kind": "base", "rows": side, "cols": side, "start": 0, "newline": False}


def test_newlines_are_no_patches() -> None:
    tile = {"kind": "tile", "rows": 2, "cols": 3, "start": 10, "newline": True}
    assert tokens(tile).tolist() == [[10, 11, 12], [14, 15, 16]]


def test_overlap_counts_a_touched_patch_and_no_neighbour() -> None:
    grid = base(4) | {"start": 5, "box": [0, 0, 40, 40], "number": 0}
    assert overlapping([grid], [[10, 10, 20, 20]]).tolist() == [5 + 5]
    assert overlapping([grid], [[9, 10, 20, 20]]).tolist() == [9, 10]
    assert overlapping([grid], []).tolist() == []
    assert overlapping([base(4)], [[0, 0, 9, 9]]).tolist() == []  # an old record says no place


def test_grids_that_cannot_be_told_apart_stay_as_they_are() -> None:
    grids = [base(4)]
    place(grids, [(10, 10), (20, 20)], clip(96))
    assert grids == [base(4)]
