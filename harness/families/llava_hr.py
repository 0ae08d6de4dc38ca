"""LLaVA-HR (arXiv 2403.03003): CLIP at 448 pixels beside a ConvNeXt at 1024, one token a patch.

Both towers see one tensor; CLIP's is resized from it. CLIP has no class token here and all of its
24 layers run; after the 6th, 12th and 18th an adapter adds the ConvNeXt's last map, and a fusion
adds it once more at the end. An image is 32 x 32 tokens, row by row. What methods read of the tower
are CLIP's layers: their queries and keys, and the states that the fusion reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from harness.common.errors import UsageError
from harness.families.configs import shown
from harness.families.convnext import stride_of
from harness.families.decoders import Sizes
from harness.families.llava import VICUNA_13B, config_of
from harness.families.shapes import ModelShape
from harness.families.towers import CLIP_L_336
from harness.families.two_towers import SLOW_L, SLOW_XXL, TwoTowers

_TOWER = {**CLIP_L_336, "image_size": 448}


def _published(text: Mapping[str, int], slow: Sizes) -> Sizes:
    sizes: Sizes = {"vision_config": _TOWER, "slow_config": slow, "image_size": 1024}
    return config_of("llava_hr", text, **sizes)


class LlavaHr(TwoTowers):
    """`model_type` llava_hr, a name of this harness."""

    kind = "llava_hr"
    says: ClassVar[Sizes] = {
        "image_token_index": 32000,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",  # patches alone, as everywhere
        "slow_config": SLOW_L,
        "image_size": 1024,
        "position_size": 336,
        "adapters": True,
    }
    published: ClassVar[dict[str, Sizes]] = {
        "llava-hr-7b": _published({}, SLOW_L),
        "llava-hr-13b": _published(VICUNA_13B, SLOW_L),
        "llava-hr-x-13b": _published(VICUNA_13B, SLOW_XXL),
    }
    summaries: ClassVar[dict[str, str]] = {
        "llava-hr-7b": "LLaVA-HR, Vicuna 7B, ConvNeXt-L, 1024 image tokens",
        "llava-hr-13b": "LLaVA-HR, Vicuna 13B, ConvNeXt-L, 1024 image tokens",
        "llava-hr-x-13b": "LLaVA-HR-X, Vicuna 13B, ConvNeXt-XXL, 1024 image tokens",
    }
    library = ("LlavaHrConfig", "LlavaHrForConditionalGeneration")
    model_file = "harness.families.llava_hr_model"

    def check_images(self, config: Mapping[str, Any], name: str) -> None:
        super().check_images(config, name)
        sight, layer = config["vision_config"], config["vision_feature_layer"]
        if layer not in (-1, sight["num_hidden_layers"]):
            raise UsageError(
                f"{name}: vision_feature_layer={shown(layer)}: all layers of LLaVA-HR's tower run, "
                "-1 is the only choice"
            )
        positions, patch = config["position_size"], sight["patch_size"]
        if type(positions) is not int or positions < patch or positions % patch:
            raise UsageError(f"{name}: position_size is {shown(positions)}, no multiple of {patch}")
        side = config["image_size"] // stride_of(config["slow_config"]["depths"])
        expected = max(side * patch, positions)
        if sight["image_size"] != expected:
            raise UsageError(
                f"{name}: vision_config.image_size is {sight['image_size']}: of "
                f"{config['image_size']} pixels LLaVA-HR's CLIP tower sees {expected}"
            )
        seen = expected // patch
        if max(seen, side) % min(seen, side):
            raise UsageError(f"{name}: grids of {seen} and {side} tokens a side do not divide")

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        found = super().shape(config, name)
        return replace(found, vision=replace(found.vision, class_tokens=0))

    def tiny(self) -> dict[str, Any]:
        """Positions of 3 x 3 on a grid of 4 x 4, adapters after layers 1, 2 and 3."""
        return {**super().tiny(), "position_size": 12}
