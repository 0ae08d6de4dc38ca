"""LLaVA-OneVision on images: SigLIP squares like LLaVA-NeXT's, up to 6 x 6 tiles, shrunk to nine.

Tokens of an image that is alone in its prompt: the square of the whole image, then the rows of the
joined tiles, un-padded, each ended by a newline. A picture of more than 1.1 times the linear size
of nine tiles is resized (bilinear) before the newlines come in, so that its tokens are no patches
any more. Several images in a prompt get their square alone, padded to it, and one newline.

384 pixels are 27 patches of 14 and six pixels that no patch sees: of each square the right and
lower 1.6 % are shown nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import UsageError
from harness.families import framing
from harness.families.configs import shown
from harness.families.decoders import Sizes
from harness.families.llava_next import LlavaNext, unpadded
from harness.families.shapes import ImageSize, ModelShape
from harness.families.towers import SIGLIP_SO400M

if TYPE_CHECKING:
    import torch

SIDE = 384
GRIDS = [[high * SIDE, wide * SIDE] for high in range(1, 7) for wide in range(1, 7)]
SHRINK = 1.1  # a picture is left alone up to this much above its most tiles


def released(width: int, ffn: int, layers: int, heads: int, kv: int, vocab: int) -> Sizes:
    """A config of the releases; the smallest shares its embedding table with the LM head."""
    text = {
        "model_type": "qwen2", "hidden_size": width, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "vocab_size": vocab,
    }  # fmt: skip
    return {
        "model_type": "llava_onevision", "text_config": text, "vision_config": SIGLIP_SO400M,
        "tie_word_embeddings": width < 1000,
    }  # fmt: skip


class LlavaOnevision(LlavaNext):
    """`model_type` llava_onevision."""

    kind = "llava_onevision"
    trains = False
    text_ties = True
    library = ("LlavaOnevisionConfig", "LlavaOnevisionForConditionalGeneration")
    images = ("pixel_values", "image_sizes", "batch_num_images")
    nested = True
    fixed = (*LlavaNext.fixed, "vision_aspect_ratio")
    says: ClassVar[Sizes] = {
        "image_token_index": 151646,
        "video_token_index": 151647,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": GRIDS,
        "tie_word_embeddings": False,
    }
    published: ClassVar[dict[str, Sizes]] = {
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": released(896, 4864, 24, 14, 2, 152000),
        "llava-hf/llava-onevision-qwen2-7b-ov-hf": released(3584, 18944, 28, 28, 4, 152128),
        "llava-hf/llava-onevision-qwen2-72b-ov-hf": released(8192, 29568, 80, 64, 8, 152128),
    }
    summaries: ClassVar[dict[str, str]] = {
        name: f"LLaVA-OneVision, Qwen2 {name.split('-')[4]}, any resolution, SigLIP"
        for name in published
    }
    # The last is shrunk: 3 x 3 tiles where four are allowed.
    tiny_images = (((20, 30), 10), ((44, 46), 10))

    def completed(self, config: Mapping[str, Any], name: str) -> dict[str, Any]:
        full = super().completed(config, name)
        most_tiles(full["vision_aspect_ratio"], name)
        return full

    def check_processor(self, processor: Any, config: Mapping[str, Any], name: str) -> None:
        """Also that it counts the tokens that the model makes."""
        super().check_processor(processor, config, name)
        sight = config["vision_config"]
        wanted = {
            "num_image_tokens": (sight["image_size"] // sight["patch_size"]) ** 2,
            "vision_aspect_ratio": config["vision_aspect_ratio"],
            "vision_feature_select_strategy": config["vision_feature_select_strategy"],
        }
        for field, value in wanted.items():
            said = getattr(processor, field, None)
            if said != value:
                raise UsageError(
                    f"{name}: processor_config.json: {field} is {shown(said)}, by the model's "
                    f"config {shown(value)}: it would write another number of image tokens"
                )

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        limit = most_tiles(self.completed(config, name)["vision_aspect_ratio"], name)
        return replace(super().shape(config, name), tile_limit=limit)

    def image_sizes(self, shape: ModelShape) -> list[ImageSize]:
        side, found = shape.vision.side, []
        for one in super().image_sizes(shape):
            rows, cols = (edge // shape.vision.image_size * side for edge in one.size)
            rows, cols = shrunk(rows, cols, side, shape.tile_limit)
            tokens = shape.vision.patches + rows * (cols + 1)
            found.append(ImageSize(one.size, one.crops, tokens))
        two = 2 * shape.vision.image_size
        usual = next((one for one in found if one.size == (two, two)), found[0])
        return [usual, *(one for one in found if one != usual)]

    def budget_tokens(self, shape: ModelShape) -> int:
        tiles = max(high * wide // shape.vision.image_size**2 for high, wide in shape.tiles)
        return shape.vision.patches * (1 + min(tiles, shape.tile_limit))

    def tiny(self) -> dict[str, Any]:
        made = super().tiny()
        made["vision_config"] |= {"model_type": "siglip_vision_model", "vision_use_head": False}
        made["text_config"] |= {"model_type": "qwen2"}
        grids = [[16 * high, 16 * wide] for high in (1, 2, 3) for wide in (1, 2, 3)]
        more = {"vision_aspect_ratio": "anyres_max_4", "video_token_index": 61}
        return {**made, "image_grid_pinpoints": grids, **more}

    # --- images of a batch --------------------------------------------------------------------
    def noise(
        self, shape: ModelShape, count: int, crops: int, size: tuple[int, int], draw: Any
    ) -> dict[str, torch.Tensor]:
        import torch

        made = super().noise(shape, count, crops, size, draw)
        return {**made, "batch_num_images": torch.ones(count, dtype=torch.long)}

    def beside(self, image: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        import torch

        return {**image, "batch_num_images": torch.tensor([count])}

    def joined(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """One number of images a sample: of as many images as it says, the first one's."""
        import torch

        samples, i = [], 0
        while i < len(images):
            samples.append(images[i]["batch_num_images"])
            i += int(samples[-1])
        return {**super().joined(images), "batch_num_images": torch.cat(samples)}

    def one_image(self, given: Mapping[str, Any], number: int) -> dict[str, Any]:
        import torch

        found = super().one_image({**given, "batch_num_images": None}, number)
        return {**found, "batch_num_images": torch.tensor([self._beside(given)[number]])}

    def some_images(self, given: Mapping[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
        """Those of one sample."""
        import torch

        names = [name for name in self.images if name in given and name != "batch_num_images"]
        found = {name: given[name][list(numbers)] for name in names}
        return {**found, "batch_num_images": torch.tensor([len(numbers)])}

    def context(self, given: Mapping[str, Any], number: int) -> str:
        """An image beside others in its prompt is another one than alone."""
        return "one of several" if self._beside(given)[number] > 1 else ""

    @staticmethod
    def _beside(given: Mapping[str, Any]) -> list[int]:
        """Of each image, how many there are in its sample."""
        counts = given.get("batch_num_images")
        if counts is None:
            return [1] * len(given["image_sizes"])
        return [int(n) for n in counts for _ in range(int(n))]

    # --- how tokens lie -----------------------------------------------------------------------
    def grids(self, config: Any, start: int, length: int, size: Any) -> list[dict[str, Any]]:
        side = config.vision_config.image_size // config.vision_config.patch_size
        if size is None:
            return super().grids(config, start, length, size)
        if length == side * side + 1:  # its square alone, and a newline
            base = framing.base_grid(start, length, side, side)
            return [{**base, "padded": True}]
        rows, cols, tiles = unpadded(config, size, side)
        few = shrunk(rows, cols, side, most_tiles(config.vision_aspect_ratio, "model"))
        if side * side + few[0] * (few[1] + 1) != length:
            raise UsageError(f"image of size {size} does not make {length} tokens")
        base = framing.base_grid(start, length, side, side)
        tile = {"kind": "tile", "rows": few[0], "cols": few[1], "newline": True}
        tile |= {"start": start + side * side, "crops": tiles[0] * tiles[1], "tiles": tiles}
        if few != (rows, cols):
            tile["whole"] = [rows, cols]  # before it was shrunk
        return [base, tile | {"image_start": start, "image_length": length}]

    def origins(self, config: Any, grid: dict[str, Any], first: int, line: list[int]) -> None:
        """Tokens of a shrunk picture stand behind no patch."""
        if "whole" not in grid:
            super().origins(config, grid, first, line)

    def place(self, grids: list[dict[str, Any]], sizes: Sequence[Any], processor: Any) -> None:
        """As LLaVA-NeXT's, of what the patches see of each square; one of several is padded."""
        framing.place(grids, sizes, processor)
        for grid in grids:
            if "box" not in grid or grid["kind"] != "base":
                continue
            high, wide = grid["image"]
            if grid.get("padded"):
                edge = max(high, wide)
                left, top = (edge - wide) // 2, (edge - high) // 2
                grid |= {"fit": framing.PAD, "box": [-left, -top, edge - left, edge - top]}
            seen = self.seen_share(processor, grid["rows"])
            left, top, right, bottom = grid["box"]
            box = [left, top, left + (right - left) * seen, top + (bottom - top) * seen]
            grid["box"] = [round(one, 3) for one in box]

    @staticmethod
    def seen_share(processor: Any, rows: int) -> float:
        """Share of a square's side that patches cover: 378 of 384 pixels."""
        side = framing.side_of(processor.size, "height")
        return (side // rows) * rows / side if side else 1.0


def most_tiles(ratio: Any, name: str) -> int:
    """N of ``anyres_max_N``: pictures above that many tiles are shrunk."""
    text = str(ratio)
    if not text.startswith("anyres_max_") or not text[11:].isdigit() or not int(text[11:]):
        raise UsageError(f"{name}: vision_aspect_ratio is {shown(ratio)}, not anyres_max_N")
    return int(text[11:])


def shrunk(rows: int, cols: int, side: int, limit: int) -> tuple[int, int]:
    """Rows and columns of a joined picture as the model resizes it."""
    ratio = math.sqrt(rows * cols / (limit * side**2))
    return (int(rows // ratio), int(cols // ratio)) if ratio > SHRINK else (rows, cols)
