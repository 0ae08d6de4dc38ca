"""LLaVA-NeXT (1.6): the whole image as one square, then tiles of it in its own shape.

Tokens of an image: the square's raster, then the rows of the joined tiles after their padding was
cut off, each ended by one newline embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import UsageError
from harness.families import framing
from harness.families.configs import shown
from harness.families.decoders import Sizes
from harness.families.family import Family
from harness.families.llava import VICUNA_13B, Llava, config_of, decoder
from harness.families.shapes import ImageSize, ModelShape

if TYPE_CHECKING:
    import torch

GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]  # (height, width) in pixels


def released(text: Mapping[str, Any], vocab: int = 32064, image: int = 32000) -> Sizes:
    """A config of the converted checkpoints; the words of images and padding are new ones."""
    return config_of("llava_next", text, vocab, image_grid_pinpoints=GRIDS, image_token_index=image)


RELEASES = (
    ("llava-hf/llava-v1.6-vicuna-7b-hf", "Vicuna 7B", released({})),
    ("llava-hf/llava-v1.6-vicuna-13b-hf", "Vicuna 13B", released(VICUNA_13B)),
    ("llava-hf/llava-v1.6-mistral-7b-hf", "Mistral 7B",
     released(decoder(4096, 14336, 32, 32, 8, "mistral"))),
    ("llava-hf/llama3-llava-next-8b-hf", "Llama 3 8B",
     released(decoder(4096, 14336, 32, 32, 8), 128320, 128256)),
    ("llava-hf/llava-v1.6-34b-hf", "Yi 34B",
     released(decoder(7168, 20480, 60, 56, 8), 64064, 64000)),
    ("llava-hf/llava-next-72b-hf", "Qwen1.5 72B",
     released(decoder(8192, 24576, 80, 64, 64, "qwen2"), 152128, 151646)),
    ("llava-hf/llava-next-110b-hf", "Qwen1.5 110B",
     released(decoder(8192, 49152, 80, 64, 8, "qwen2"), 152128, 151646)),
)  # fmt: skip


class LlavaNext(Llava):
    """`model_type` llava_next."""

    kind = "llava_next"
    squares = False
    unshrunk = Family.unshrunk  # not that of the family it is made after
    text_ties = False
    says: ClassVar[Sizes] = {**Llava.says, "image_grid_pinpoints": GRIDS}
    published: ClassVar[dict[str, Sizes]] = {name: sizes for name, _, sizes in RELEASES}
    summaries: ClassVar[dict[str, str]] = {
        name: f"LLaVA-NeXT, {said}, any resolution" for name, said, _ in RELEASES
    }
    library = ("LlavaNextConfig", "LlavaNextForConditionalGeneration")
    images: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")
    tiny_images = (((20, 30), 5), ((32, 14), 5))
    extents = "image_sizes"

    def check_images(self, config: Mapping[str, Any], name: str) -> None:
        size = config["vision_config"]["image_size"]
        for grid in config["image_grid_pinpoints"]:
            pair = isinstance(grid, (list, tuple)) and len(grid) == 2
            if not pair or any(type(side) is not int or side < size for side in grid):
                raise UsageError(
                    f"{name}: image_grid_pinpoints: {shown(grid)} is no (height, width) of at "
                    f"least {size} pixels"
                )

    def check_processor(self, processor: Any, config: Mapping[str, Any], name: str) -> None:
        """Also that it cuts images as the model joins them."""
        super().check_processor(processor, config, name)
        theirs = getattr(processor.image_processor, "image_grid_pinpoints", None)
        mine = {tuple(pair) for pair in config["image_grid_pinpoints"]}
        odd = mine ^ {tuple(pair) for pair in theirs or ()}
        if theirs is not None and odd:
            raise UsageError(
                f"{name}: image_grid_pinpoints of the image processor and of the model's config "
                f"differ, by {list(min(odd))} for one: images would be cut other than joined"
            )

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        from dataclasses import replace

        tiles = self.completed(config, name)["image_grid_pinpoints"]
        return replace(
            super().shape(config, name), tiles=tuple((high, wide) for high, wide in tiles)
        )

    def image_sizes(self, shape: ModelShape) -> list[ImageSize]:
        """Images exactly as large as a tile grid: nothing is cut off, a newline ends each row."""
        vision = shape.vision
        side = vision.image_size // vision.patch
        found = []
        for height, width in shape.tiles:
            high, wide = height // vision.image_size, width // vision.image_size
            rows, cols = high * side, wide * side
            tokens = vision.patches + rows * (cols + 1)
            found.append(ImageSize((height, width), 1 + high * wide, tokens))
        square = [one for one in found if one.size[0] == one.size[1]]
        usual = max(square or found, key=lambda one: one.tokens)  # two by two tiles
        return [usual, *(one for one in found if one != usual)]

    def budget_tokens(self, shape: ModelShape) -> int:
        """Of an image with the most tiles, newlines left out."""
        tiles = [high * wide // shape.vision.image_size**2 for high, wide in shape.tiles]
        return shape.vision.patches * (1 + max(tiles, default=0))

    def tiny(self) -> dict[str, Any]:
        grids = [[16 * high, 16 * wide] for high, wide in ((1, 2), (2, 1), (2, 2))]
        return {**super().tiny(), "image_grid_pinpoints": grids}

    def noise(
        self, shape: ModelShape, count: int, crops: int, size: tuple[int, int], draw: Any
    ) -> dict[str, torch.Tensor]:
        import torch

        side = shape.vision.image_size
        return {
            "pixel_values": torch.randn((count, crops, 3, side, side), generator=draw),
            "image_sizes": torch.tensor([list(size)] * count),
        }

    def grids(self, config: Any, start: int, length: int, size: Any) -> list[dict[str, Any]]:
        vision = config.vision_config
        side = vision.image_size // vision.patch_size
        if size is None or length == side * side:
            return super().grids(config, start, length, size)
        rows, cols, tiles = unpadded(config, size, side)
        if side * side + rows * (cols + 1) != length:
            raise UsageError(f"image of size {size} does not make {length} tokens")
        base = framing.base_grid(start, length, side, side)
        tile = {"kind": "tile", "rows": rows, "cols": cols, "newline": True}
        tile |= {"start": start + side * side, "crops": tiles[0] * tiles[1], "tiles": tiles}
        return [base, tile | {"image_start": start, "image_length": length}]


def unpadded(config: Any, size: Any, side: int) -> tuple[int, int, tuple[int, int]]:
    """Rows and columns of the joined tiles after the padding was cut off; tile rows, columns."""
    import torch
    from transformers.models.llava_next.modeling_llava_next import (
        get_anyres_image_grid_shape,
        unpad_image,
    )

    high, wide = get_anyres_image_grid_shape(
        size, config.image_grid_pinpoints, config.vision_config.image_size
    )
    joined = torch.empty(1, high * side, wide * side, device="meta")
    cut = unpad_image(joined, size)
    return int(cut.shape[1]), int(cut.shape[2]), (high, wide)
