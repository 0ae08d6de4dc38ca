"""Qwen3-VL: packed patches of 16 pixels, and features of three tower layers that the decoder adds
behind its first three layers (deepstack).

What is added follows the tokens that are still there: it is dropped with a token, comes with one
that skips the layer (the model adds it outside the layer), and of tokens that merge it is the same
mean (or weighted sum) that the states are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import UsageError
from harness.families.configs import are_layers, shown
from harness.families.decoders import Sizes
from harness.families.packed import Packed
from harness.families.qwen2_vl import text

if TYPE_CHECKING:
    import torch

_SMALL = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096,
          "deepstack_visual_indexes": [5, 11, 17]}  # fmt: skip
_LARGE = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304,
          "deepstack_visual_indexes": [8, 16, 24]}  # fmt: skip


def released(tower: Mapping[str, Any], width: int, *sizes: int, tied: bool = False) -> Sizes:
    """A config of the releases: heads of 128, whatever the width is."""
    made = {"model_type": "qwen3_vl_text", "head_dim": 128, **text(width, *sizes)}
    return {
        "model_type": "qwen3_vl", "tie_word_embeddings": tied, "text_config": made,
        "vision_config": {"model_type": "qwen3_vl_vision", **tower, "out_hidden_size": width},
    }  # fmt: skip


class Qwen3VL(Packed):
    """`model_type` qwen3_vl."""

    kind = "qwen3_vl"
    library = ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration")
    vision_type = "qwen3_vl_vision"
    modules = ("qwen3_vl", "Qwen3VLVisionBlock", "Qwen3VLVisionPatchMerger")
    deepstack = ("visual_pos_masks", "deepstack_visual_embeds")
    tower_arguments = ("grid_thw", "return_dict")
    vision_sizes: ClassVar[Sizes] = {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
        "in_channels": 3, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "out_hidden_size": 3584, "num_position_embeddings": 2304,
    }  # fmt: skip
    published: ClassVar[dict[str, Sizes]] = {
        "Qwen/Qwen3-VL-2B-Instruct": released(_SMALL, 2048, 6144, 28, 16, 8, 151936, tied=True),
        "Qwen/Qwen3-VL-4B-Instruct": released(_SMALL, 2560, 9728, 36, 32, 8, 151936, tied=True),
        "Qwen/Qwen3-VL-8B-Instruct": released(_LARGE, 4096, 12288, 36, 32, 8, 151936),
        "Qwen/Qwen3-VL-32B-Instruct": released(_LARGE, 5120, 25600, 64, 64, 8, 151936),
    }
    summaries: ClassVar[dict[str, str]] = {
        name: f"Qwen3-VL {name.split('-')[2]}, any size, a token for 32 x 32 pixels"
        for name in published
    }

    relatives: ClassVar[dict[str, str]] = {
        "qwen3_vl_moe": "its MLPs are mixtures of experts, which are not counted here",
        "qwen3_omni_moe": "it also hears and speaks, and its MLPs are mixtures of experts",
    }

    def _check(self, full: Mapping[str, Any], name: str) -> None:
        super()._check(full, name)
        depth, text = full["vision_config"]["depth"], full["text_config"]
        deep = self._deep(full["vision_config"])
        if not are_layers(deep, depth):
            raise UsageError(
                f"{name}: vision_config.deepstack_visual_indexes is {shown(deep)}: the tower has "
                f"{depth} layers"
            )
        if len(deep) > text["num_hidden_layers"]:
            raise UsageError(f"{name}: deepstack for more layers than the decoder has")
        side = full["vision_config"]["num_position_embeddings"]
        if round(side**0.5) ** 2 != side:
            raise UsageError(f"{name}: vision_config.num_position_embeddings {side} is no square")

    @staticmethod
    def _deep(sight: Mapping[str, Any]) -> Sequence[int]:
        found: Sequence[int] = sight.get("deepstack_visual_indexes", (8, 16, 24))
        return found

    def attends(self, sight: Mapping[str, Any]) -> dict[str, Any]:
        return {"deepstack": len(self._deep(sight))}

    def resized(
        self, config: Mapping[str, Any], text: Mapping[str, Any], sight: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Of a shallower tower as many deepstack layers as both parts still have, evenly."""
        made = super().resized(config, text, sight)
        tower, layers = made["vision_config"], made["text_config"]["num_hidden_layers"]
        deep, before = self._deep(config["vision_config"]), config["vision_config"]["depth"]
        there = sorted({max(0, (i + 1) * tower["depth"] // before - 1) for i in deep})
        tower["deepstack_visual_indexes"] = there[:layers]
        return made

    def merger_arguments(self, config: Any, name: str) -> tuple[Any, ...]:
        """Of the library's merger class: deepstack's norms stand behind the 2 x 2 grouping."""
        return config, name != "merger"

    def added(self, given: Mapping[str, Any], states: torch.Tensor) -> list[torch.Tensor]:
        places, tables = (given[name] for name in self.deepstack)
        if tables is None:
            return []
        found = []
        for table in tables:
            wide = states.new_zeros(states.shape)
            wide[places.to(states.device)] = table.to(states.device, states.dtype)
            found.append(wide)
        return found

    def stored(self, output: Any) -> tuple[torch.Tensor, ...]:
        deep = (one[0].detach() for one in output.deepstack_features)
        return (output.pooler_output[0].detach(), *deep)

    def restored(self, images: Sequence[tuple[torch.Tensor, ...]]) -> Any:
        out = super().restored(images)
        out.deepstack_features = [list(one) for one in list(zip(*images, strict=True))[1:]]
        return out

    def tiny_tower(self) -> dict[str, Any]:
        return {"intermediate_size": 24, "deepstack_visual_indexes": [0, 1],
                "num_position_embeddings": 16}  # fmt: skip

    def tiny(self) -> dict[str, Any]:
        made = super().tiny()
        made["text_config"]["head_dim"] = 8
        return made
