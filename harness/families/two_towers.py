"""What LLaVA-HR and Mini-Gemini-HD share: a ConvNeXt beside the CLIP tower. Torch-free.

Their `model_type`s are names of this harness: the published checkpoints are in layouts of their
own. A config has a `slow_config` (ConvNeXt) beside the two parts of LLaVA's, and `image_size`,
pixels a side of what the processor makes and both towers are fed from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import UsageError
from harness.families import framing
from harness.families.configs import shown
from harness.families.convnext import (
    CONVNEXT_L,
    CONVNEXT_XXL,
    STEM,
    module_of,
    second_parameters,
    second_parts,
    stride_of,
)
from harness.families.decoders import Sizes
from harness.families.family import Family
from harness.families.llava import Llava
from harness.families.shapes import ImageSize, ModelShape, Part, SlowShape
from harness.families.sight import Grids
from harness.families.towers import CLIP, tower_layers

if TYPE_CHECKING:
    import torch


def slow_config(sizes: tuple[tuple[int, ...], tuple[int, ...]]) -> Sizes:
    """A ConvNeXt's config from widths and depths."""
    widths, depths = sizes
    return {"model_type": "convnext", "hidden_sizes": list(widths), "depths": list(depths)}


SLOW_L, SLOW_XXL = slow_config(CONVNEXT_L), slow_config(CONVNEXT_XXL)


class TwoTowers(Llava):
    """A family with a ConvNeXt beside its CLIP tower."""

    tensors: ClassVar[dict[str, tuple[str, ...]]]
    renamed = ()
    model_file: ClassVar[str]  # the module of its config and model class
    whole_grid = True
    unshrunk = Family.unshrunk  # not that of the family it is made after
    # The published code resizes with PIL; the library's default differs by up to two of 255 levels.
    processor_arguments: ClassVar[dict[str, Any]] = {"backend": "pil"}

    def check_processor(self, processor: Any, config: Mapping[str, Any], name: str) -> None:
        """Also that it makes images of the size that both towers are fed from."""
        super().check_processor(processor, config, name)
        framing.refuse_other_size(processor.image_processor, int(config["image_size"]), name)

    def config_class(self) -> Any:
        """The config class, known to the library's Auto classes from then on."""
        from transformers import AutoConfig

        found = self._loaded(self.library[0])
        AutoConfig.register(self.kind, found, exist_ok=True)
        return found

    def model_class(self) -> Any:
        self.config_class()
        return self._loaded(self.library[1])

    def _loaded(self, name: str) -> Any:
        from importlib import import_module

        return getattr(import_module(self.model_file), name)

    def completed(self, config: Mapping[str, Any], name: str) -> dict[str, Any]:
        """As `Family.completed`, with the second tower's sizes; it refuses what has none."""
        full = super().completed(config, name)
        if full["vision_config"]["model_type"] != CLIP:
            kind = full["vision_config"]["model_type"]
            raise UsageError(
                f"{name}: vision_config.model_type is '{kind}'; {self.kind} has {CLIP}"
            )
        return full

    def check_images(self, config: Mapping[str, Any], name: str) -> None:
        slow = config["slow_config"]
        kind = slow.get("model_type") if isinstance(slow, Mapping) else None
        if kind != "convnext":
            raise UsageError(f"{name}: slow_config.model_type is {shown(kind)}, not 'convnext'")
        for key in ("hidden_sizes", "depths"):
            if not _sizes(slow.get(key)):
                raise UsageError(
                    f"{name}: slow_config.{key} is {shown(slow.get(key))}, not a list of whole "
                    "numbers above 0"
                )
        if len(slow["hidden_sizes"]) != len(slow["depths"]):
            raise UsageError(f"{name}: slow_config: hidden_sizes and depths are not equally many")
        if slow.get("patch_size", STEM) != STEM or slow.get("num_channels", 3) != 3:
            raise UsageError(f"{name}: slow_config: a ConvNeXt of {STEM}-pixel patches, 3 channels")
        size, stride = config["image_size"], stride_of(slow["depths"])
        if type(size) is not int or size < stride or size % stride:
            raise UsageError(f"{name}: image_size is {shown(size)}, not a multiple of {stride}")

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        full = self.completed(config, name)
        found, slow = super().shape(config, name), full["slow_config"]
        adapters = 3 if full.get("adapters") else 0
        widths, depths = tuple(slow["hidden_sizes"]), tuple(slow["depths"])
        second = SlowShape(
            widths, depths, full["image_size"], adapters, grid=full.get("image_grid", 0)
        )
        return replace(
            found,
            slow=second,
            image_tokens=self.tokens_of(full),
        )

    def sight(
        self, shape: ModelShape, grid: Grids, n_image: int, tower: Sequence[int] = ()
    ) -> list[Part]:
        """CLIP and the projector as everywhere, and the second path of every image."""
        parts = super().sight(shape, grid, n_image, tower)
        images = -(-n_image // shape.image_tokens)
        return [*parts, *second_parts(shape.vision, _slow(shape), images)] if parts else []

    def sight_weights(self, shape: ModelShape) -> int:
        return super().sight_weights(shape) + second_parameters(shape.vision, _slow(shape))

    def example(self, shape: ModelShape) -> list[Part]:
        return self.sight(shape, [], shape.image_tokens)

    def module(self, shape: ModelShape, name: str, tokens: int) -> tuple[Any, Any] | None:
        if name in ("embedding", "attention", "mlp", "projector"):
            return super().module(shape, name, tokens)
        return module_of(shape.vision, _slow(shape), name, tokens)

    def processor_files(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """`preprocessor_config.json` and `processor_config.json` for a complete config.

        The published preprocessing: padded to a square with the mean colour, resized, CLIP's mean
        and deviation. The processor counts an image's tokens from its pixels: as many as fit at
        ``patch_size``, and what is over.
        """
        size, tokens = config["image_size"], self.tokens_of(config)
        side = math.isqrt(tokens)
        while size % side:
            side -= 1
        image = {
            "image_processor_type": "LlavaImageProcessor", "do_convert_rgb": True, "do_pad": True,
            "do_resize": True, "size": {"shortest_edge": size}, "resample": 3,
            "do_center_crop": True, "crop_size": {"height": size, "width": size},
            "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        }  # fmt: skip
        processor = {
            "processor_class": "LlavaProcessor", "image_token": "<image>",
            "patch_size": size // side, "num_additional_image_tokens": tokens - side**2,
            "vision_feature_select_strategy": "full",
        }  # fmt: skip
        return {"preprocessor_config.json": image, "processor_config.json": processor}

    def resized(
        self, config: Mapping[str, Any], text: Mapping[str, Any], sight: Mapping[str, Any]
    ) -> dict[str, Any]:
        """As `Family.resized`; the second tower shrinks as the first one does."""
        made, old = super().resized(config, text, sight), config["vision_config"]
        new, slow = made["vision_config"], config["slow_config"]
        wide = new["hidden_size"] / old["hidden_size"]
        deep = new["num_hidden_layers"] / old["num_hidden_layers"]
        made["slow_config"] = {
            **slow,
            "hidden_sizes": [max(1, round(size * wide)) for size in slow["hidden_sizes"]],
            "depths": [max(1, round(depth * deep)) for depth in slow["depths"]],
        }
        return made

    def tiny(self) -> dict[str, Any]:
        config = super().tiny()
        sight = {**config["vision_config"], "num_hidden_layers": 4}
        slow = slow_config(((4, 6, 8, 10), (1, 1, 2, 1)))
        slow["layer_scale_init_value"] = 0.5  # 1e-6 would hide the blocks
        return {**config, "vision_config": sight, "slow_config": slow, "image_size": 128}

    def image_sizes(self, shape: ModelShape) -> list[ImageSize]:
        """The one size that there is."""
        slow = _slow(shape)
        return [ImageSize((slow.pixels, slow.pixels), 1 + slow.grid**2, shape.image_tokens)]

    def tokens_of(self, config: Mapping[str, Any]) -> int:
        """Tokens of every image, from a complete config."""
        vision = config["vision_config"]
        return int(vision["image_size"] // vision["patch_size"]) ** 2

    def stretches(self, shape: ModelShape) -> bool:
        return False

    def tower_layers(self, model: Any) -> Any:
        return tower_layers(getattr(self.tower(model), "fast", None))

    def stand_ins(self, model: Any) -> list[tuple[Any, Any]]:
        """Zeros in place of both towers and of the projector."""
        config = model.config
        tokens = self.tokens_of(config.to_dict())
        width, out = config.vision_config.hidden_size, config.text_config.hidden_size

        def see(pixel_values: Any) -> Any:
            return pixel_values.new_zeros(len(pixel_values), tokens, width)

        def project(states: Any) -> Any:
            return states.new_zeros(*states.shape[:-1], out)

        return [(self.tower(model), see), (self.projector(model), project)]

    def noise(
        self, shape: ModelShape, count: int, crops: int, size: tuple[int, int], draw: Any
    ) -> dict[str, torch.Tensor]:
        import torch

        side = _slow(shape).pixels
        return {"pixel_values": torch.randn((count, 3, side, side), generator=draw)}


def _slow(shape: ModelShape) -> SlowShape:
    """The second tower, which every model of these families has."""
    assert shape.slow is not None
    return shape.slow


def _sizes(value: Any) -> bool:
    """Whether this is a list of sizes."""
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(type(size) is int and size > 0 for size in value)
    )
