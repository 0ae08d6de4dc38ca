"""What the code knows of a model family: one file and one line in the registry each.

A family says all of it in one place: which configs it serves and their sizes (torch-free), how it
is loaded, where its parts are, what its processor makes of images, how an image's tokens lie in it,
and what a model without its tower feeds instead. Everything else asks here and knows no names.
`Family` holds what LLaVA-type models share: a tower of one token a patch, a projector, a decoder
with Llama's layers and one-axis positions. A family overrides what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import UsageError
from harness.families.configs import check_features, decoder_part, decoder_sizes, part
from harness.families.decoders import DECODERS, Sizes
from harness.families.images import Images
from harness.families.shapes import ImageSize, ModelShape, Part, VisionShape
from harness.families.sight import Grids, crop_count, projector_part, tower_parts
from harness.families.towers import CLASS_TOKENS, TOWERS, module_of, stand_ins, tower_layers
from methods.vocabulary import ModelInfo

if TYPE_CHECKING:
    import torch

    from harness.families.shrinking import Saw, Shrink
    from methods.crop import Crop


class Family(Images):
    """One model family. Stateless; the registry holds one object of each."""

    kind: ClassVar[str]  # `model_type` of its configs
    says: ClassVar[Sizes] = {}  # what its config class says beside the two parts
    published: ClassVar[dict[str, Sizes]] = {}  # model name -> config, sizes known without a file
    summaries: ClassVar[dict[str, str]] = {}  # the same names -> a line for `--list models`
    loads: ClassVar[bool] = True  # False: only its sizes are known, for the ledger
    trains: ClassVar[bool] = False  # whether `harness.train` knows its images
    library: ClassVar[tuple[str, str]]  # transformers' config and model class
    axes: ClassVar[int] = 1  # numbers of a token's position
    # What its config decides of `get_image_features`, and nobody else may.
    fixed: ClassVar[tuple[str, ...]] = ("vision_feature_layer", "vision_feature_select_strategy")
    tower_arguments: ClassVar[tuple[str, ...]] = ()  # of the tower, beside pixels
    deepstack: ClassVar[tuple[str, ...]] = ()  # decoder arguments that `added` reads
    unread: ClassVar[str] = ""  # why no method can read its tower's states, where that is so
    # Why its tower cannot be shown smaller images of a prompt that was made for larger ones; ""
    # where `shrinking` can.
    unshrunk: ClassVar[str] = (
        "this family cuts images into tiles, shuffles their tokens or joins two towers, so a "
        "smaller image is no smaller grid of tokens: use pool"
    )
    joins: ClassVar[int] = 1  # patches that a token joins, where the tower is read all the same
    # Fields that old processor files leave out and the config knows.
    processor_fields: ClassVar[tuple[str, ...]] = ("patch_size", "vision_feature_select_strategy")
    processor_arguments: ClassVar[dict[str, Any]] = {}  # of its loading, beside the files' own
    whole_grid: ClassVar[bool] = False  # its tower needs every patch: none can be merged there
    boxes_in_frame: ClassVar[bool] = False  # boxes are answered in shares of the frame it sees
    boxes_in_pixels: ClassVar[bool] = False  # or in pixels of the image as it was resized
    marked: ClassVar[bool] = True  # an image is `<image>` in its prompts, as in LLaVA's templates
    squares: ClassVar[bool] = False  # an image becomes one square, by padding or by cropping
    no_square: ClassVar[str] = "cuts an image into tiles"  # what it does where it does not
    # Names of its parameters in memory, by part, and what older files call them.
    tensors: ClassVar[dict[str, tuple[str, ...]]] = {}
    renamed: ClassVar[tuple[tuple[str, str], ...]] = ()
    # Types of models like its own that do not work here -> why.
    relatives: ClassVar[dict[str, str]] = {}

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
            **decoder_sizes(text),
            vision=tower,
            projector_in=tower.hidden * read,
            family=self.kind,
            tied=bool(full.get("tie_word_embeddings", False)),
        )

    def image_token(self, config: Mapping[str, Any]) -> int:
        """The id that stands for an image token in a prompt, from a complete config."""
        return int(config["image_token_index"])

    def resized(
        self, config: Mapping[str, Any], text: Mapping[str, Any], sight: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A complete config of other sizes, which stand under the names that Llama has for them."""
        kept = {key: config[key] for key in ("model_type", *self.says) if key in config}
        decoder = {**config["text_config"], **text}
        return {
            **kept, "text_config": decoder, "vision_config": {**config["vision_config"], **sight}
        }  # fmt: skip

    def tiny(self) -> dict[str, Any]:
        """A config for tests: 64 words, the last but three for images, six layers."""
        text = {
            "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
            "eos_token_id": None, "pad_token_id": 0,
        }  # fmt: skip
        sight = {
            "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
        }  # fmt: skip
        return {
            "model_type": self.kind, "text_config": text, "vision_config": sight,
            "image_token_index": 60,
        }  # fmt: skip

    def image_sizes(self, shape: ModelShape) -> list[ImageSize]:
        """Images that lose nothing on their way to the tower; an ordinary one first."""
        side = shape.vision.image_size
        return [ImageSize((side, side), 1, shape.vision.patches)]

    def stretches(self, shape: ModelShape) -> bool:
        """Whether the tower also takes squares of other sizes, its positions interpolated."""
        return not shape.tiles

    def budget_tokens(self, shape: ModelShape) -> int:
        """Image tokens that a budget in numbers of tokens is a share of."""
        return shape.image_tokens or shape.vision.patches

    def info(self, shape: ModelShape) -> ModelInfo:
        """What methods may ask about a model of these sizes."""
        fixed = shape.image_tokens or (0 if shape.tiles else shape.vision.patches)
        return ModelInfo(
            layers=shape.layers,
            width=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            tower_layers=0 if self.unread and self.joins == 1 else shape.vision.layers,
            tower_width=shape.vision.hidden,
            tower_side=shape.vision.side,
            image_tokens=fixed,
            class_tokens=shape.vision.class_tokens,
            unread=self.unread,
            joins=self.joins,
            unshrunk=self.unshrunk,
        )

    # --- what its images cost: torch-free but for `module` ----------------------------------------
    def sight(
        self, shape: ModelShape, grid: Grids, n_image: int, tower: Sequence[int] = ()
    ) -> list[Part]:
        """All that runs for the images of one sample, by a record's ``grid`` and ``tower``.

        ``n_image``: its image tokens, which tell the crops where there is no grid.
        """
        parts: list[Part] = []
        small = [one["saw"][0] * one["saw"][1] for one in grid if "saw" in one]
        for patches in dict.fromkeys(small):
            times = small.count(patches)
            parts += tower_parts(shape.vision, times, patches=patches)
            parts.append(projector_part(shape, times, patches=patches))
        whole = [one for one in grid if "saw" not in one]
        crops = crop_count(whole, shape.vision, n_image) if whole or not small else 0
        if crops:
            parts += tower_parts(shape.vision, crops, tower)
            parts.append(projector_part(shape, crops, tower))
        return parts

    def example(self, shape: ModelShape) -> list[Part]:
        """The parts of an ordinary image, for the counters to be compared at."""
        return self.sight(shape, [{"rows": 1, "cols": 1, "crops": 1}], shape.vision.patches)

    def module(self, shape: ModelShape, name: str, tokens: int) -> tuple[Any, Any] | None:
        """(module, inputs) of a `Part` at its true size; None where only a closed form is known."""
        return module_of(shape, name, tokens)

    def sight_weights(self, shape: ModelShape) -> int:
        """Parameters of all that sees pixels (norms and biases left out), as they lie in memory."""
        d = shape.vision.hidden
        layers = shape.vision.layers * (4 * d * d + 2 * d * shape.vision.ffn)
        return layers + shape.projector_weights

    # --- loading ----------------------------------------------------------------------------------
    def config_class(self) -> Any:
        """transformers' config class."""
        import transformers

        return getattr(transformers, self.library[0])

    def model_class(self) -> Any:
        """transformers' model class."""
        import transformers

        return getattr(transformers, self.library[1])

    def check_processor(self, processor: Any, config: Mapping[str, Any], name: str) -> None:
        """Raise UsageError for a processor that does not belong to a model of a complete config."""
        token, wanted = getattr(processor, "image_token", None), self.image_token(config)
        found = processor.tokenizer.convert_tokens_to_ids(token) if token else None
        if found != wanted:
            raise UsageError(
                f"{name}: {type(processor).__name__} writes {token!r} for an image, number {found} "
                f"of the tokenizer; the model's config says {wanted}: a processor of another model?"
            )

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

    def taps(self, layer: Any) -> tuple[Any, Any]:
        """The modules of a tower layer that queries and keys come from."""
        return layer.self_attn.q_proj, layer.self_attn.k_proj

    def reading(
        self, model: Any, layers: Sequence[int], found: list[Crop]
    ) -> AbstractContextManager[None] | None:
        """While open, a pass of the tower adds every crop to ``found``, read in tower ``layers``.

        None: the crops of a pass are equally large, and ``taps`` and ``blocks`` say how to read.
        """
        return None

    def blocks(self, config: Any) -> list[list[int]] | None:
        """The patches of a crop that each of its tokens joins; None: one each."""
        return None

    def projector(self, model: Any) -> Any:
        """What makes decoder states of tower states."""
        return self.inner(model).multi_modal_projector

    def feature_layer(self, config: Any, depth: int) -> int:
        """Tower layer of ``depth`` whose output the projector of a loaded model reads, from 0.

        Raises UsageError where it reads several, or none there is.
        """
        chosen = config.vision_feature_layer
        if not isinstance(chosen, int):
            raise UsageError("a projector that reads several tower layers cannot be followed")
        # hidden_states[0] is the embedding, so there is one state more than layers.
        layer = chosen - 1 if chosen >= 0 else depth + chosen
        if not 0 <= layer < depth:
            raise UsageError(f"vision_feature_layer={chosen} reads no layer of a tower of {depth}")
        return layer

    def stand_ins(self, model: Any) -> list[tuple[Any, Any]]:
        """(module, forward) of what sees pixels: zeros of the right shape, nothing runs."""
        return stand_ins(model.config, self.tower(model), self.projector(model))

    def shrinking(self, model: Any, shrink: Shrink, saw: Saw) -> list[tuple[Any, Any]]:
        """(module, forward) under which the tower sees the images that ``shrink`` leaves.

        ``saw`` gets rows and columns of every image's smaller grid, None where it has its own. Only
        asked where ``unshrunk`` is empty.
        """
        from harness.families.shrinking import squares

        return squares(self.tower(model), self.projector(model), model.config, shrink, saw)

    def added(self, given: Mapping[str, Any], states: torch.Tensor) -> list[torch.Tensor]:
        """[B, n, d] tables that the model adds behind its first layers, from what ``deepstack``
        names of the decoder's arguments; zero where nothing is added."""
        return []
