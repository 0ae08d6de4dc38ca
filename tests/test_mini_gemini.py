"""Mini-Gemini-HD's vision path equals a naive re-statement of the published one, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.engine import encode_images, routed
from harness.families.mini_gemini import MiniGeminiHd
from tests import naive_towers
from tests.two_towers_tools import build, pixels, prompts

WIDE = {**MiniGeminiHd().tiny()["vision_config"], "image_size": 8}  # 2 x 2 patches a view


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 5 * 16),  # 4 x 4 positions in a patch
        ({"vision_config": WIDE, "image_grid": 4}, 17 * 4),  # 4 x 4 crops, likewise
        ({"vision_feature_layer": -1}, 5 * 16),
        ({"image_size": 64}, 5 * 16),  # 2 x 2 positions in a patch
    ],
)
def test_features_are_the_published_ones(changes: dict[str, Any], tokens: int) -> None:
    model = build("mini_gemini_hd", **changes)
    images = pixels(model, 2)
    with torch.no_grad():
        found = model.model.get_image_features(pixel_values=images, return_dict=True)
        expected = naive_towers.mini_gemini(model, images)
    assert [tuple(one.shape) for one in found.pooler_output] == [(tokens, 16)] * 2
    torch.testing.assert_close(torch.stack(found.pooler_output), expected, rtol=0, atol=1e-9)


def test_tokens_stand_whole_first_then_crop_by_crop() -> None:
    """A bright patch changes its own crop's tokens most, next to the whole image's."""
    model = build("mini_gemini_hd")
    plain = pixels(model, 1) * 0
    for row, col in ((0, 0), (0, 1), (1, 0), (1, 1)):
        bright = plain.clone()
        bright[..., 64 * row + 24 : 64 * row + 40, 64 * col + 24 : 64 * col + 40] = 9
        with torch.no_grad():
            images = torch.cat([plain, bright])
            before, after = model.model.get_image_features(images).pooler_output
        moved = (after - before).abs().amax(-1).view(5, 16).sum(-1)
        assert int(moved[1:].argmax()) == 2 * row + col


def test_grids_say_where_tokens_lie() -> None:
    """The whole, then four crops of their own: each token's crop and patch, and its place."""
    model = build("mini_gemini_hd")
    inputs = prompts(model, [(3, [80], 4), (2, [80, 80], 1)])
    from methods import parse

    with torch.no_grad(), routed(model, parse("dense")) as run:
        model.generate(**inputs, max_new_tokens=1)
        first, second = run.records()
    for record, images in ((first, 1), (second, 2)):
        assert [g["kind"] for g in record.grid] == ["base", *["tile"] * 4] * images
        starts = [g["start"] for g in record.grid]
        begin = starts[0]
        assert starts == [begin + 16 * i for i in range(5 * images)]
        assert {(g["rows"], g["cols"], g["newline"], g["crops"]) for g in record.grid} == {
            (4, 4, False, 1)
        }


def test_crops_are_read_in_the_order_of_the_tokens() -> None:
    """What a method reads of the tower is, crop by crop, the published state of that view."""
    from methods import parse

    model = build("mini_gemini_hd")
    images = pixels(model, 2)
    with torch.no_grad():
        found = encode_images(model, images, method=parse("fastervlm"))
        views = model.model.vision_tower._views(images)
        states = model.model.vision_tower.fast(views, output_hidden_states=True).hidden_states
    assert len(found.crops) == 10
    for crop, expected in zip(found.crops, states[-2], strict=True):
        torch.testing.assert_close(crop.states, expected, rtol=0, atol=1e-12)
