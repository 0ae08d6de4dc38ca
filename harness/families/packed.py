"""Towers that take all images of a batch as one row of patches: Qwen2-VL, Qwen2.5-VL, Qwen3-VL.

An image of any size becomes a grid of patches, attended within the image (or within windows of
it), and a merger makes one token of each 2 x 2 of them. Positions of the decoder have three axes:
time, row and column. `pixel_values` is [sum of patches, numbers of a patch], `image_grid_thw`
[images, 3] counts patches. Stills only: video comes with another token and other arguments, which
are refused. Numbering anew (``compact``) counts the tokens that stay, on all three axes alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import UsageError
from harness.families.configs import decoder_part, decoder_sizes, part, shown
from harness.families.decoders import Sizes
from harness.families.family import Family
from harness.families.packed_checks import ROTARY, TEXTS, check_images, check_parts
from harness.families.packed_images import PackedImages
from harness.families.packed_sight import PackedVision, packed_module, packed_parts
from harness.families.shapes import ImageSize, ModelShape, Part
from harness.families.sight import Grids

if TYPE_CHECKING:
    from harness.families.shrinking import Saw, Shrink
    from methods.crop import Crop


class Packed(PackedImages, Family):
    """What the three families share."""

    axes = 3
    marked = False
    no_square = "takes an image in its own shape"
    fixed = ()
    tower_arguments: ClassVar[tuple[str, ...]] = ("grid_thw",)
    processor_fields = ()
    unread = (
        "reads the patches of the vision tower, and this tower's token is two by two patches, "
        "packed without a class token"
    )
    joins = 4
    unshrunk = ""
    tensors: ClassVar[dict[str, tuple[str, ...]]] = {
        "projector": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
        "decoder": ("model.language_model.", "lm_head."),
        "tower": ("model.visual.",),
    }
    renamed = (("visual.", "model.visual."), ("model.layers.", "model.language_model.layers."))
    says: ClassVar[Sizes] = {
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "tie_word_embeddings": False,
    }
    vision_type: ClassVar[str]
    vision_sizes: ClassVar[Sizes]  # its library defaults
    width: ClassVar[str] = "hidden_size"  # the tower's own width in its config
    modules: ClassVar[tuple[str, str, str]]  # library module, classes of block and merger

    # --- sizes --------------------------------------------------------------------------------
    def completed(self, config: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A config with every size in it; text fields at its top level are gathered first."""
        if "vision_config" not in config:
            raise UsageError(f"{name}: no vision_config: not a model folder of {self.kind}")
        full = {**self.says, **{k: v for k, v in config.items() if v is not None}}
        text_type = f"{self.kind}_text"
        if "text_config" not in config:
            known = {*TEXTS[text_type], *ROTARY, "rms_norm_eps"}
            known |= {"max_position_embeddings", "layer_types"}
            text = {key: full.pop(key) for key in known if key in full}
            full["text_config"] = {**text, "model_type": text_type}
        if not isinstance(full["vision_config"], Mapping):
            raise UsageError(f"{name}: vision_config is {shown(full['vision_config'])}, no config")
        sight = dict(full["vision_config"])
        if sight.get("model_type", self.kind) == self.kind:
            sight["model_type"] = self.vision_type
        for new, old in (("num_heads", "num_attention_heads"), ("depth", "num_hidden_layers")):
            if old in sight:
                sight[new] = sight.pop(old)
        full["vision_config"] = sight
        full["text_config"] = decoder_part(full, {text_type: TEXTS[text_type]}, name)
        full["vision_config"] = part(
            full, "vision_config", {self.vision_type: self.vision_sizes}, name
        )
        self._check(full, name)
        return full

    def _check(self, full: Mapping[str, Any], name: str) -> None:
        check_parts(full, "hidden_size" if self.width == "embed_dim" else "out_hidden_size", name)

    def vision(self, sight: Mapping[str, Any]) -> PackedVision:
        """The tower's sizes."""
        return PackedVision(
            layers=sight["depth"],
            hidden=sight[self.width],
            ffn=self.ffn(sight),
            image_size=0,
            patch=sight["patch_size"],
            heads=sight["num_heads"],
            channels=sight["in_channels"],
            class_tokens=0,
            kind=sight["model_type"],
            merge=sight["spatial_merge_size"],
            frames=sight["temporal_patch_size"],
            **self.attends(sight),
        )

    def ffn(self, sight: Mapping[str, Any]) -> int:
        """Hidden width of the tower's MLP."""
        return int(sight["intermediate_size"])

    def attends(self, sight: Mapping[str, Any]) -> dict[str, Any]:
        """What of `PackedVision` differs from full attention and a two-matrix MLP."""
        return {}

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        full = self.completed(config, name)
        text, vision = full["text_config"], self.vision(full["vision_config"])
        return ModelShape(
            name=name,
            **decoder_sizes(text),
            vision=vision,
            projector_in=vision.hidden * vision.merge**2,
            tied=bool(full["tie_word_embeddings"]),
            family=self.kind,
        )

    def image_token(self, config: Mapping[str, Any]) -> int:
        return int(config["image_token_id"])

    def image_sizes(self, shape: ModelShape) -> list[ImageSize]:
        """Grids of up to 32 x 32 tokens, no side above twice the other; 24 x 24 first."""
        step = shape.vision.patch * 2
        sides = range(2, 33)
        found = [
            ImageSize((high * step, wide * step), 1, high * wide)
            for high in sides for wide in sides if max(high, wide) <= 2 * min(high, wide)
        ]  # fmt: skip
        usual = next(one for one in found if one.size == (24 * step, 24 * step))
        return [usual, *(one for one in found if one != usual)]

    def stretches(self, shape: ModelShape) -> bool:
        return False

    def budget_tokens(self, shape: ModelShape) -> int:
        return self.image_sizes(shape)[0].tokens

    def resized(
        self, config: Mapping[str, Any], text: Mapping[str, Any], sight: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Other sizes; the three axes share a head's numbers as before, as nearly as may be."""
        decoder = {**config["text_config"], **text}
        tower = {**config["vision_config"]}
        named = {"num_hidden_layers": "depth", "num_attention_heads": "num_heads",
                 "hidden_size": self.width}  # fmt: skip
        tower |= {named.get(key, key): value for key, value in sight.items()}
        tower["hidden_size" if self.width == "embed_dim" else "out_hidden_size"] = decoder[
            "hidden_size"
        ]
        half = decoder["head_dim"] // 2
        rope = dict(decoder.get("rope_parameters") or decoder.get("rope_scaling") or {})
        side = max(1, half * 3 // 8) if half > 2 else half // 2
        rope |= {"rope_type": "default", "mrope_section": [half - 2 * side, side, side]}
        rope.setdefault("rope_theta", decoder.get("rope_theta", 1e6))
        decoder = {k: v for k, v in decoder.items() if k not in ("rope_scaling", "rope_theta")}
        kept = {key: config[key] for key in ("model_type", *self.says)}
        return {**kept, "text_config": {**decoder, "rope_parameters": rope}, "vision_config": tower}

    def tiny(self) -> dict[str, Any]:
        text = {
            "model_type": f"{self.kind}_text", "vocab_size": 64, "hidden_size": 32,
            "intermediate_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4,
            "num_key_value_heads": 2, "eos_token_id": None, "pad_token_id": 0, "bos_token_id": 1,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
            },
        }  # fmt: skip
        sight = {
            "model_type": self.vision_type, "depth": 3, "num_heads": 2, "patch_size": 4,
            self.width: 16, ("hidden_size" if self.width == "embed_dim" else "out_hidden_size"): 32,
            **self.tiny_tower(),
        }  # fmt: skip
        ids = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62,
               "vision_end_token_id": 63}  # fmt: skip
        return {"model_type": self.kind, "text_config": text, "vision_config": sight, **ids}

    def tiny_tower(self) -> dict[str, Any]:
        """What else a tiny tower of this family needs."""
        return {"intermediate_size": 24}

    # --- cost ---------------------------------------------------------------------------------
    def sight(
        self, shape: ModelShape, grid: Grids, n_image: int, tower: Sequence[int] = ()
    ) -> list[Part]:
        """Patches one by one where they are alone, attention by the run that it covers."""
        assert isinstance(shape.vision, PackedVision)
        return packed_parts(shape, shape.vision, grid, n_image)

    def sight_weights(self, shape: ModelShape) -> int:
        vision = shape.vision
        assert isinstance(vision, PackedVision)
        d, wide = vision.hidden, vision.hidden * vision.merge**2
        layers = vision.layers * (4 * d * d + (3 if vision.gated else 2) * d * vision.ffn)
        return layers + (1 + vision.deepstack) * (wide * wide + wide * shape.hidden)

    def example(self, shape: ModelShape) -> list[Part]:
        """An image of 9 x 13 tokens, so that windows are cut at two sides."""
        return self.sight(shape, [{"rows": 9, "cols": 13}], 117)

    def module(self, shape: ModelShape, name: str, tokens: int) -> tuple[Any, Any] | None:
        return packed_module(self, shape, name, tokens)

    def merger_arguments(self, config: Any, name: str) -> tuple[Any, ...]:
        """Of the library's merger class, for the part of this name."""
        return config.out_hidden_size, config.hidden_size

    def check_processor(self, processor: Any, config: Mapping[str, Any], name: str) -> None:
        super().check_processor(processor, config, name)
        check_images(processor.image_processor, config["vision_config"], name)

    # --- parts --------------------------------------------------------------------------------
    def tower(self, model: Any) -> Any:
        return getattr(self.inner(model), "visual", None)

    def tower_layers(self, model: Any) -> Any:
        return getattr(self.tower(model), "blocks", None)

    def feature_layer(self, config: Any, depth: int) -> int:
        """The merger reads the last one."""
        return depth - 1

    def reading(
        self, model: Any, layers: Sequence[int], found: list[Crop]
    ) -> AbstractContextManager[None]:
        from harness.families.packed_reading import reading

        return reading(self.tower(model), self.modules[0], layers, found)

    def projector(self, model: Any) -> Any:
        return self.tower(model).merger

    def shrinking(self, model: Any, shrink: Shrink, saw: Saw) -> list[tuple[Any, Any]]:
        from harness.families.shrinking import packed

        return packed(self.tower(model), model.config.vision_config, shrink, saw)

    def stand_ins(self, model: Any) -> list[tuple[Any, Any]]:
        """The tower with its mergers: zeros for every token, of deepstack too."""
        width = int(model.config.text_config.hidden_size)
        vision = model.config.vision_config
        unit, deep = vision.spatial_merge_size**2, getattr(vision, "deepstack_visual_indexes", ())

        def see(hidden_states: Any, grid_thw: Any, **_: Any) -> Any:
            from transformers.modeling_outputs import BaseModelOutputWithPooling

            tokens = hidden_states.new_zeros(hidden_states.shape[0] // unit, width)
            out: Any = BaseModelOutputWithPooling(
                last_hidden_state=hidden_states, pooler_output=tokens
            )
            if deep:
                out.deepstack_features = [tokens for _ in deep]
            return out

        return [(self.tower(model), see)]
