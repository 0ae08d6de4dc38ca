"""InternVL3 and 3.5 (the library's layout): tiles in the image's shape, a thumbnail last.

The image is stretched to a raster of up to 12 tiles; where that is more than one tile, the whole
image as one more tile, the thumbnail, comes behind them. A tile is a square of patches behind a
class token; two by two patches side by side make a token (pixel shuffle). `pixel_values` is
[sum of tiles, 3, side, side]. The prompt alone says whose they are: an image's tokens are one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import UsageError
from harness.families import framing
from harness.families.configs import decoder_part, decoder_sizes, part
from harness.families.decoders import DECODERS, Sizes
from harness.families.family import Family
from harness.families.internvl_parts import (
    MERGE,
    RELEASED,
    TOWER,
    check,
    joined,
    module_of,
    raster,
    side,
    stand_ins,
    tokens,
)
from harness.families.llava import Llava
from harness.families.shapes import ImageSize, ModelShape, Part, VisionShape
from harness.families.sight import Grids, tower_parts

if TYPE_CHECKING:
    import torch

MOST = 12  # tiles of an image, the thumbnail left out: what the released processors say
TEXTS = {kind: DECODERS[kind] for kind in ("qwen2", "qwen3", "llama")}


class InternVL(Family):
    """`model_type` internvl."""

    kind = "internvl"
    marked = False
    says: ClassVar[Sizes] = {
        "image_token_id": 151667,
        "downsample_ratio": 0.5,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        # The class says True, but the released files have a head of their own.
        "tie_word_embeddings": False,
    }
    published: ClassVar[dict[str, Sizes]] = RELEASED
    summaries: ClassVar[dict[str, str]] = {
        name: f"{name.split('/')[1].rsplit('-', 1)[0].replace('_', '.').replace('-', ' ')}, "
        "up to 12 tiles of 256 image tokens and a thumbnail"
        for name in RELEASED
    }
    library = ("InternVLConfig", "InternVLForConditionalGeneration")
    apart = True  # two runs side by side would be one image
    processor_fields = ()
    tower_arguments = ("pixel_values",)  # the model names them
    unread = (
        "reads the patches of the vision tower, and this tower's token is two by two patches "
        "that were joined"
    )
    joins = MERGE**2
    tiny_images: ClassVar[tuple[tuple[tuple[int, int], int], ...]] = (((32, 32), 1), ((70, 33), 3))
    tensors = Llava.tensors
    renamed = Llava.renamed[:-1]

    # --- sizes --------------------------------------------------------------------------------
    def completed(self, config: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A config with every size in it; sides of tiles and patches as one number each."""
        if "text_config" not in config or "vision_config" not in config:
            raise UsageError(
                f"{name}: no text_config and vision_config: weights in the original InternVL "
                "layout, which is not read here; those whose names end in -hf are in the other one"
            )
        given = {key: value for key, value in config.items() if value is not None}
        full = {**self.says, **given, "text_config": decoder_part(config, TEXTS, name)}
        sight = config["vision_config"]
        if isinstance(sight, Mapping):
            sides = ("image_size", "patch_size")
            sight = {**sight, **{key: side(sight[key]) for key in sides if key in sight}}
        full["vision_config"] = part({"vision_config": sight}, "vision_config", TOWER, name)
        check(full, name)
        sight = full["vision_config"]
        full["image_seq_length"] = tokens(sight["image_size"] // sight["patch_size"])
        return full

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        full = self.completed(config, name)
        text, sight = full["text_config"], full["vision_config"]
        vision = VisionShape(
            layers=sight["num_hidden_layers"],
            hidden=sight["hidden_size"],
            ffn=sight["intermediate_size"],
            image_size=sight["image_size"],
            patch=sight["patch_size"],
            heads=sight["num_attention_heads"],
            channels=sight["num_channels"],
            kind=sight["model_type"],
        )
        return ModelShape(
            name=name,
            **decoder_sizes(text),
            vision=vision,
            projector_in=vision.hidden * MERGE**2,
            family=self.kind,
        )

    def image_token(self, config: Mapping[str, Any]) -> int:
        return int(config["image_token_id"])

    def check_processor(self, processor: Any, config: Mapping[str, Any], name: str) -> None:
        super().check_processor(processor, config, name)
        size = side(config["vision_config"]["image_size"])
        framing.refuse_other_size(processor.image_processor, size, name)

    def image_sizes(self, shape: ModelShape) -> list[ImageSize]:
        """Images exactly as large as a raster of tiles; one of a photo's shape, 3 x 4, first."""
        side, unit = shape.vision.image_size, tokens(shape.vision.side)
        found = []
        for high in range(1, MOST + 1):
            for wide in range(1, MOST // high + 1):
                tiles = high * wide + (high * wide > 1)
                found.append(ImageSize((high * side, wide * side), tiles, tiles * unit))
        usual = next(one for one in found if one.size == (3 * side, 4 * side))
        return [usual, *(one for one in found if one != usual)]

    def stretches(self, shape: ModelShape) -> bool:
        return False

    def budget_tokens(self, shape: ModelShape) -> int:
        """Of an image with the most tiles."""
        return (MOST + 1) * tokens(shape.vision.side)

    def info(self, shape: ModelShape) -> Any:
        """As methods see it, a crop is the raster of its tokens."""
        from dataclasses import replace

        side = shape.vision.side // MERGE
        return replace(super().info(shape), tower_side=side, image_tokens=0)

    def resized(
        self, config: Mapping[str, Any], text: Mapping[str, Any], sight: Mapping[str, Any]
    ) -> dict[str, Any]:
        unit = config["image_seq_length"]
        return {**super().resized(config, text, sight), "image_seq_length": unit}

    def tiny(self) -> dict[str, Any]:
        text = {
            "model_type": "qwen2", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
            "eos_token_id": None, "pad_token_id": 0, "bos_token_id": 1,
        }  # fmt: skip
        sight = {
            "model_type": "internvl_vision", "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": [32, 32],
            "patch_size": [4, 4], "layer_scale_init_value": 1.0,
        }  # fmt: skip
        return {
            "model_type": self.kind, "text_config": text, "vision_config": sight,
            "image_token_id": 60, "image_seq_length": 16, "tie_word_embeddings": False,
        }  # fmt: skip

    # --- cost ---------------------------------------------------------------------------------
    def sight(
        self, shape: ModelShape, grid: Grids, n_image: int, tower: Sequence[int] = ()
    ) -> list[Part]:
        """Every tile through tower and projector."""
        unit = tokens(shape.vision.side)
        tiles = sum(int(one["crops"]) for one in grid) if grid else -(-n_image // unit)
        if not tiles:
            return []
        flops = 2.0 * unit * shape.projector_weights
        joined = Part("projector", "projector", unit, tiles, flops)
        return [*tower_parts(shape.vision, tiles, tower), joined]

    def example(self, shape: ModelShape) -> list[Part]:
        return self.sight(shape, [], 1)

    def module(self, shape: ModelShape, name: str, tokens: int) -> tuple[Any, Any] | None:
        """The library's own modules at their true size, on ``meta`` but for the embedding."""
        return module_of(shape, name, tokens)

    # --- parts --------------------------------------------------------------------------------
    def tower_layers(self, model: Any) -> Any:
        return getattr(getattr(self.tower(model), "encoder", None), "layer", None)

    def taps(self, layer: Any) -> tuple[Any, Any]:
        """Behind the norms of the 6B tower; the small one has identities there."""
        return layer.attention.q_norm, layer.attention.k_norm

    def blocks(self, config: Any) -> list[list[int]] | None:
        vision = config.vision_config
        return joined(side(vision.image_size) // side(vision.patch_size))

    def stand_ins(self, model: Any) -> list[tuple[Any, Any]]:
        return stand_ins(model.config, self.tower(model), self.projector(model))

    # --- images of a batch --------------------------------------------------------------------
    def counted(self, given: Mapping[str, Any], image_token: int) -> dict[str, Any]:
        """Adds ``crops``, the tiles of every image, from the runs of image tokens."""
        pixels = given.get("pixel_values")
        if pixels is None:
            return dict(given)
        runs = framing.runs((given["input_ids"] == image_token).tolist())
        unit, rest = divmod(sum(runs), len(pixels))
        if rest or not unit or any(run % unit for run in runs):
            raise UsageError(
                f"{len(pixels)} tiles do not fill runs of {', '.join(map(str, runs)) or 'no'} "
                "image tokens: text must stand between the images of a prompt"
            )
        return {**given, "crops": [run // unit for run in runs]}

    def one_image(self, given: Mapping[str, Any], number: int) -> dict[str, Any]:
        return self.some_images(given, [number])

    def some_images(self, given: Mapping[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
        import torch

        tiles = torch.split(given["pixel_values"], given["crops"])
        return {"pixel_values": torch.cat([tiles[i] for i in numbers])}

    def image_count(self, given: Mapping[str, Any]) -> int:
        return len(given["crops"])

    def image_lengths(self, features: Any, runs: Sequence[int]) -> list[int]:
        """A run is an image."""
        return list(runs) if sum(map(len, features)) == sum(runs) else []

    def noise(
        self, shape: ModelShape, count: int, crops: int, size: tuple[int, int], draw: Any
    ) -> dict[str, torch.Tensor]:
        import torch

        side, channels = shape.vision.image_size, shape.vision.channels
        tiles = (count * crops, channels, side, side)
        return {"pixel_values": torch.randn(tiles, generator=draw)}

    def stored(self, output: Any) -> tuple[torch.Tensor, ...]:
        """All tiles of the image [tiles, t, d]."""
        return (output.pooler_output.detach(),)

    def restored(self, images: Sequence[tuple[torch.Tensor, ...]]) -> Any:
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        tiles: Any = torch.cat([one[0] for one in images])
        return BaseModelOutputWithPooling(pooler_output=tiles)

    # --- how tokens lie -----------------------------------------------------------------------
    def grids(self, config: Any, start: int, length: int, size: Any) -> list[dict[str, Any]]:
        """One raster a tile, the thumbnail last; its place in the image, `place` says."""
        vision = config.vision_config
        edge = side(vision.image_size) // side(vision.patch_size) // MERGE
        tiles, rest = divmod(length, edge**2)
        if rest or tiles == 2:  # two tiles would have a third, the thumbnail
            raise UsageError(
                f"a run of {length} image tokens is no image of tiles of {edge**2}: text must "
                "stand between the images of a prompt"
            )
        made = []
        for number in range(tiles):
            one = framing.base_grid(start + number * edge**2, edge**2, edge, edge)
            kind = "base" if number == tiles - 1 else "tile"
            made.append({**one, "kind": kind, "image_start": start, "image_length": length})
        return made

    def origins(self, config: Any, grid: dict[str, Any], first: int, line: list[int]) -> None:
        """No token is a single patch: -1 stays."""

    def place(self, grids: list[dict[str, Any]], sizes: Sequence[Any], processor: Any) -> None:
        """The image is stretched, to its raster of tiles and to the thumbnail."""
        if sum(grid["kind"] == "base" for grid in grids) != len(sizes):
            return
        rest = list(grids)
        for number, (high, wide) in enumerate(sizes):
            tiles: list[dict[str, Any]] = []
            while rest[0]["kind"] == "tile":
                tiles.append(rest.pop(0))
            shared = {"number": number, "image": [high, wide]}
            rest.pop(0).update(shared, fit=framing.STRETCH, box=[0, 0, wide, high])
            down, across = raster((high, wide), processor)
            if down * across != len(tiles):
                continue
            for i, grid in enumerate(tiles):
                row, col = divmod(i, across)
                box = (col * wide / across, row * high / down,
                       (col + 1) * wide / across, (row + 1) * high / down)  # fmt: skip
                grid |= {**shared, "fit": framing.TILES, "box": [round(edge, 3) for edge in box]}
