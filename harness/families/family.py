"""What the code knows of a model family: one file and one line in the registry each.

A family says all of it in one place: which configs it serves and their sizes (torch-free), how it
is loaded, where its parts are, what its processor makes of images, how an image's tokens lie in it,
and what a model without its tower feeds instead. Everything else asks here and knows no names.
`Family` holds what LLaVA-type models share: a tower of one token a patch, a projector, a decoder
with Llama's layers and one-axis positions. A family overrides what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import UsageError
from harness.families import framing
from harness.families.configs import check_features, decoder_part, part
from harness.families.decoders import DECODERS, Sizes
from harness.families.shapes import ModelShape, Part, VisionShape
from harness.families.sight import Grids, crop_count, projector_part, tower_parts
from harness.families.towers import CLASS_TOKENS, TOWERS, module_of, tower_layers

if TYPE_CHECKING:
    import torch


class Family:
    """One model family. Stateless; the registry holds one object of each."""

    kind: ClassVar[str]  # `model_type` of its configs
    says: ClassVar[Sizes] = {}  # what its config class says beside the two parts
    published: ClassVar[dict[str, Sizes]] = {}  # model name -> config, sizes known without a file
    summaries: ClassVar[dict[str, str]] = {}  # the same names -> a line for `--list models`
    loads: ClassVar[bool] = True  # False: only its sizes are known, for the ledger
    library: ClassVar[tuple[str, str]]  # transformers' config and model class
    images: ClassVar[tuple[str, ...]] = ("pixel_values",)  # its processor's entries for images
    extents: ClassVar[str | None] = None  # the one of them that says how large each image is
    whole_grid: ClassVar[bool] = False  # its tower needs every patch: none can be merged there
    boxes_in_frame: ClassVar[bool] = False  # boxes are answered in shares of the frame it sees
    # Names of its parameters in memory, by part, and what older files call them.
    tensors: ClassVar[dict[str, tuple[str, ...]]] = {}
    renamed: ClassVar[tuple[tuple[str, str], ...]] = ()

    # --- sizes: torch-free ------------------------------------------------------------------------
    def completed(self, config: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A config with every size in it, from itself or its types' defaults.

        Raises UsageError, one line, for another decoder or tower, a size that is no positive whole
        number, attention windows, and features that are not one token for each patch.
        """
        if "text_config" not in config or "vision_config" not in config:
            raise UsageError(
                f"{name}: no text_config and vision_config: weights in the original LLaVA layout, "
                "which is not read and not converted here; the llava-hf models are in the other one"
            )
        text = decoder_part(config, DECODERS, name)
        sight = part(config, "vision_config", TOWERS, name)
        given = {key: value for key, value in config.items() if value is not None}
        full = {**self.says, **given, "text_config": text, "vision_config": sight}
        token = full.pop("image_token_id", full["image_token_index"])  # one's alias
        full["image_token_index"] = token
        check_features(full, name)
        self.check_images(full, name)
        return full

    def check_images(self, config: Mapping[str, Any], name: str) -> None:
        """Raise UsageError for what a complete config says of images and cannot be."""

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        """The sizes behind a config. Raises UsageError for what `completed` refuses."""
        full = self.completed(config, name)
        text, sight = full["text_config"], full["vision_config"]
        layers = full["vision_feature_layer"]
        read = len(layers) if isinstance(layers, (list, tuple)) else 1
        tower = VisionShape(
            layers=sight["num_hidden_layers"],
            hidden=sight["hidden_size"],
            ffn=sight["intermediate_size"],
            image_size=sight["image_size"],
            patch=sight["patch_size"],
            heads=sight["num_attention_heads"],
            channels=sight["num_channels"],
            class_tokens=CLASS_TOKENS[sight["model_type"]],
            kind=sight["model_type"],
            head=bool(sight.get("vision_use_head", False)),
        )
        return ModelShape(
            name=name,
            layers=text["num_hidden_layers"],
            hidden=text["hidden_size"],
            ffn=text["intermediate_size"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head_dim=text["head_dim"],
            vocab=text["vocab_size"],
            vision=tower,
            projector_in=tower.hidden * read,
            family=self.kind,
        )

    def fixed_image_tokens(self, config: Mapping[str, Any]) -> int:
        """Tokens of every image whatever its size; 0 where they depend on it."""
        vision = config["vision_config"]
        return int(vision["image_size"] // vision["patch_size"]) ** 2

    # --- what its images cost: torch-free but for `module` ----------------------------------------
    def sight(
        self, shape: ModelShape, grid: Grids, n_image: int, tower: Sequence[int] = ()
    ) -> list[Part]:
        """All that runs for the images of one sample, by a record's ``grid`` and ``tower``.

        ``n_image``: its image tokens, which tell the crops where there is no grid.
        """
        crops = crop_count(grid, shape.vision, n_image)
        if not crops:
            return []
        parts = [*tower_parts(shape.vision, crops, tower), projector_part(shape, crops, tower)]
        if shape.second_tower != 0:
            images = -(-n_image // shape.image_tokens)
            second = Part("vision", "second tower", shape.image_tokens, images, shape.second_tower)
            parts.append(second)
        return parts

    def example(self, shape: ModelShape) -> list[Part]:
        """The parts of an ordinary image, for the counters to be compared at."""
        return self.sight(shape, [{"rows": 1, "cols": 1, "crops": 1}], shape.vision.patches)

    def module(self, shape: ModelShape, name: str, tokens: int) -> tuple[Any, Any] | None:
        """(module, inputs) of a `Part` at its true size; None where only a closed form is known."""
        return None if name == "second tower" else module_of(shape, name, tokens)

    # --- loading ----------------------------------------------------------------------------------
    def config_class(self) -> Any:
        """transformers' config class."""
        import transformers

        return getattr(transformers, self.library[0])

    def model_class(self) -> Any:
        """transformers' model class."""
        import transformers

        return getattr(transformers, self.library[1])

    # --- parts of a loaded model ------------------------------------------------------------------
    def inner(self, model: Any) -> Any:
        """The module that joins vision features and text embeddings; None where there is none."""
        return getattr(model, "model", None)

    def decoder(self, model: Any) -> Any:
        """The decoder without head; None where there is none."""
        return getattr(self.inner(model), "language_model", None)

    def tower(self, model: Any) -> Any:
        """The vision tower; None where there is none."""
        return getattr(self.inner(model), "vision_tower", None)

    def tower_layers(self, model: Any) -> Any:
        """Its layers, whose ``self_attn`` has ``q_proj`` and ``k_proj``; None where it has others.

        Methods read queries and keys there, and merge patches between attention and MLP.
        """
        return tower_layers(self.tower(model))

    def projector(self, model: Any) -> Any:
        """What makes decoder states of tower states."""
        return self.inner(model).multi_modal_projector

    # --- images of a batch ------------------------------------------------------------------------
    def one_image(self, given: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Arguments of ``get_image_features`` for one image of those ``given`` for several."""
        found = {name: given[name] for name in self.images if given.get(name) is not None}
        return {name: value[number : number + 1] for name, value in found.items()}

    def some_images(self, given: Mapping[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
        """The entries of a batch for these of its images."""
        return {name: given[name][list(numbers)] for name in self.images if name in given}

    def image_count(self, given: Mapping[str, Any]) -> int:
        """Images in the arguments of ``get_image_features``."""
        return len(given["pixel_values"])

    def noise(
        self, shape: ModelShape, count: int, crops: int, size: tuple[int, int], draw: Any
    ) -> dict[str, torch.Tensor]:
        """Random entries for ``count`` images of ``size`` (height, width) in ``crops`` crops."""
        import torch

        high, wide = size
        return {"pixel_values": torch.randn((count, 3, high, wide), generator=draw)}

    # --- how an image's tokens lie ----------------------------------------------------------------
    def grids(self, config: Any, start: int, length: int, size: Any) -> list[dict[str, Any]]:
        """The patch grids of one image whose ``length`` tokens begin at column ``start``.

        ``config``: the loaded model's; ``size``: what ``extents`` says of the image, or None.
        ``crops`` of a grid is how many squares the tower saw, those that were cut off included.
        Raises UsageError where size and length do not agree.
        """
        rows, cols = framing.raster(length)
        return [framing.base_grid(start, length, rows, cols)]

    def origins(self, config: Any, grid: dict[str, Any], first: int, line: list[int]) -> None:
        """Write crop * P + patch of a grid's tokens into ``line``; its first crop is ``first``."""
        vision = config.vision_config
        framing.write_origins(vision.image_size // vision.patch_size, grid, first, line)

    def place(self, grids: list[dict[str, Any]], sizes: Sequence[Any], processor: Any) -> None:
        """Add to every grid of one sample where in its image it lies (`framing.place`)."""
        framing.place(grids, sizes, processor)
