"""Qwen2.5-VL: as Qwen2-VL with a gated tower MLP and windows of 112 pixels in most tower layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harness.common.errors import UsageError
from harness.families.configs import are_layers
from harness.families.decoders import Sizes
from harness.families.packed import Packed
from harness.families.qwen2_vl import text


def released(width: int, *sizes: int, tied: bool = False, ffn: int = 3420) -> Sizes:
    """A config of the releases: a tower of width 1280, whatever the library's default is."""
    vision = {"hidden_size": 1280, "out_hidden_size": width, "intermediate_size": ffn}
    return {
        "model_type": "qwen2_5_vl", "tie_word_embeddings": tied,
        "text_config": {"model_type": "qwen2_5_vl_text", **text(width, *sizes)},
        "vision_config": {"model_type": "qwen2_5_vl_vision", **vision, "tokens_per_second": 2},
    }  # fmt: skip


class Qwen25VL(Packed):
    """`model_type` qwen2_5_vl."""

    kind = "qwen2_5_vl"
    boxes_in_pixels = True
    library = ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration")
    vision_type = "qwen2_5_vl_vision"
    modules = ("qwen2_5_vl", "Qwen2_5_VLVisionBlock", "Qwen2_5_VLPatchMerger")
    vision_sizes: ClassVar[Sizes] = {
        "depth": 32, "hidden_size": 3584, "intermediate_size": 3420, "num_heads": 16,
        "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "window_size": 112, "out_hidden_size": 3584,
    }  # fmt: skip
    published: ClassVar[dict[str, Sizes]] = {
        "Qwen/Qwen2.5-VL-3B-Instruct": released(2048, 11008, 36, 16, 2, 151936, tied=True),
        "Qwen/Qwen2.5-VL-7B-Instruct": released(3584, 18944, 28, 28, 4, 152064),
        "Qwen/Qwen2.5-VL-32B-Instruct": released(5120, 27648, 64, 40, 8, 152064, ffn=3456),
        "Qwen/Qwen2.5-VL-72B-Instruct": released(8192, 29568, 80, 64, 8, 152064, ffn=3456),
    }
    summaries: ClassVar[dict[str, str]] = {
        name: f"Qwen2.5-VL {name.split('-')[2]}, any size, a token for 28 x 28 pixels"
        for name in published
    }
    relatives: ClassVar[dict[str, str]] = {
        "qwen2_5_omni": "it also hears and speaks: its decoder lies under other names",
    }
    tiny_images = (((40, 72), 1), ((24, 48), 1))  # windows of 4 x 4 tokens cut at both edges

    def _check(self, full: Mapping[str, Any], name: str) -> None:
        super()._check(full, name)
        sight = full["vision_config"]
        whole = sight.get("fullatt_block_indexes", (7, 15, 23, 31))
        if not are_layers(whole, sight["depth"]):
            raise UsageError(
                f"{name}: vision_config.fullatt_block_indexes names no list of its layers: "
                f"the tower has {sight['depth']}"
            )
        if sight["window_size"] % (2 * sight["patch_size"]):
            raise UsageError(f"{name}: vision_config.window_size is no whole number of tokens")

    def attends(self, sight: Mapping[str, Any]) -> dict[str, Any]:
        window = sight["window_size"] // sight["patch_size"] // sight["spatial_merge_size"]
        whole = tuple(sight.get("fullatt_block_indexes", (7, 15, 23, 31)))
        return {"gated": True, "window": window, "whole": whole}

    def resized(
        self, config: Mapping[str, Any], text: Mapping[str, Any], sight: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Of a shallower tower, the layers with full attention stand in the same proportion."""
        made = super().resized(config, text, sight)
        tower, before = made["vision_config"], config["vision_config"]["depth"]
        whole = tower.get("fullatt_block_indexes", (7, 15, 23, 31))
        depth = tower["depth"]
        tower["fullatt_block_indexes"] = sorted(
            {(i + 1) * depth // before - 1 for i in whole} - {-1}
        )
        return made

    def tiny_tower(self) -> dict[str, Any]:
        return {"intermediate_size": 24, "fullatt_block_indexes": [1], "window_size": 32}
