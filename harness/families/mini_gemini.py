"""Mini-Gemini-HD (arXiv 2403.18814): CLIP on a whole image and four crops, mined from a ConvNeXt.

Both towers see one tensor of 1536 pixels. CLIP's views are resized from it, 336 pixels each; every
CLIP token takes what it asks for of the 8 x 8 positions of the ConvNeXt that lie in its patch.
Tokens of an image: the whole, 24 x 24, then the crops row by row, 24 x 24 each: 2,880. No row of
the crops goes on in its neighbour's, so each crop is a grid of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from harness.common.errors import UsageError
from harness.families import framing
from harness.families.configs import shown
from harness.families.convnext import STEM
from harness.families.decoders import Sizes
from harness.families.llava import config_of
from harness.families.two_towers import SLOW_L, TwoTowers


class MiniGeminiHd(TwoTowers):
    """`model_type` mini_gemini_hd, a name of this harness."""

    kind = "mini_gemini_hd"
    says: ClassVar[Sizes] = {
        "image_token_index": 32000,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "slow_config": SLOW_L,
        "image_size": 1536,
        "image_grid": 2,
    }
    published: ClassVar[dict[str, Sizes]] = {
        "mini-gemini-hd-7b": config_of(
            "mini_gemini_hd", {}, slow_config=SLOW_L, image_size=1536, image_grid=2
        )
    }
    summaries: ClassVar[dict[str, str]] = {
        "mini-gemini-hd-7b": "Mini-Gemini-HD, Vicuna 7B, 2880 image tokens"
    }
    library = ("MiniGeminiHdConfig", "MiniGeminiHdForConditionalGeneration")
    model_file = "harness.families.mini_gemini_model"

    def check_images(self, config: Mapping[str, Any], name: str) -> None:
        super().check_images(config, name)
        grid, layer = config["image_grid"], config["vision_feature_layer"]
        if type(grid) is not int or grid < 2:
            raise UsageError(f"{name}: image_grid is {shown(grid)}, not a whole number above 1")
        if type(layer) is not int:
            raise UsageError(f"{name}: vision_feature_layer={shown(layer)}: one layer is mined")
        side = _side(config)
        if config["image_size"] % (STEM * grid * side):
            raise UsageError(
                f"{name}: image_size {config['image_size']} is no multiple of "
                f"{STEM * grid * side}, what {grid} crops a side of {side} patches a side take"
            )

    def tokens_of(self, config: Mapping[str, Any]) -> int:
        return (1 + int(config["image_grid"]) ** 2) * super().tokens_of(config)

    def grids(self, config: Any, start: int, length: int, size: Any) -> list[dict[str, Any]]:
        vision, pieces = config.vision_config, config.image_grid**2
        side = vision.image_size // vision.patch_size
        if length != (1 + pieces) * side * side:
            raise UsageError(f"an image has {(1 + pieces) * side * side} tokens here, not {length}")
        whole = framing.base_grid(start, length, side, side) | {"image_length": length}
        starts = range(start + side * side, start + length, side * side)
        return [whole, *(whole | {"kind": "tile", "start": first} for first in starts)]

    def place(self, grids: list[dict[str, Any]], sizes: Sequence[Any], processor: Any) -> None:
        """The whole image as `framing.place` has it, and each crop's share of it."""
        starts = [i for i, grid in enumerate(grids) if grid["kind"] == "base"]
        framing.place([grids[i] for i in starts], sizes, processor)
        for first, behind in zip(starts, [*starts[1:], len(grids)], strict=True):
            whole, crops = grids[first], grids[first + 1 : behind]
            for number, crop in enumerate(crops if "box" in whole else []):
                crop |= {key: whole[key] for key in ("number", "image", "fit")}
                crop["box"] = _share(whole["box"], number, math.isqrt(len(crops)))


def _side(config: Mapping[str, Any]) -> int:
    """Patches a side of a view."""
    vision = config["vision_config"]
    return int(vision["image_size"] // vision["patch_size"])


def _share(box: Sequence[float], number: int, pieces: int) -> list[float]:
    """Left, top, right and bottom of a crop, ``pieces`` of them a side, from the whole image's."""
    row, col = divmod(number, pieces)
    left, top, right, bottom = box
    across, down = (right - left) / pieces, (bottom - top) / pieces
    x, y = left + col * across, top + row * down
    return [round(edge, 3) for edge in (x, y, x + across, y + down)]
