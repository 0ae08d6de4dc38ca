"""Qwen2-VL: packed patches of 14 pixels, every tower layer attends to the whole image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harness.families.decoders import Sizes
from harness.families.packed import Packed


def text(width: int, ffn: int, layers: int, heads: int, kv: int, vocab: int) -> Sizes:
    """A text_config of the releases."""
    return {
        "hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab,
    }  # fmt: skip


def released(width: int, *sizes: int, tied: bool = False) -> Sizes:
    """A config of the releases."""
    return {
        "model_type": "qwen2_vl", "tie_word_embeddings": tied,
        "text_config": {"model_type": "qwen2_vl_text", **text(width, *sizes)},
        "vision_config": {"model_type": "qwen2_vl_vision", "hidden_size": width},
    }  # fmt: skip


class Qwen2VL(Packed):
    """`model_type` qwen2_vl. In its vision_config `embed_dim` is the tower's width."""

    kind = "qwen2_vl"
    library = ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration")
    vision_type = "qwen2_vl_vision"
    width = "embed_dim"
    modules = ("qwen2_vl", "Qwen2VLVisionBlock", "PatchMerger")
    vision_sizes: ClassVar[Sizes] = {
        "depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4,
        "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip

    published: ClassVar[dict[str, Sizes]] = {
        "Qwen/Qwen2-VL-2B-Instruct": released(1536, 8960, 28, 12, 2, 151936, tied=True),
        "Qwen/Qwen2-VL-7B-Instruct": released(3584, 18944, 28, 28, 4, 152064),
        "Qwen/Qwen2-VL-72B-Instruct": released(8192, 29568, 80, 64, 8, 152064),
    }
    summaries: ClassVar[dict[str, str]] = {
        name: f"Qwen2-VL {name.split('-')[2]}, any size, a token for 28 x 28 pixels"
        for name in published
    }

    def ffn(self, sight: Mapping[str, Any]) -> int:
        return int(sight["embed_dim"] * sight["mlp_ratio"])

    def merger_arguments(self, config: Any, name: str) -> tuple[Any, ...]:
        """Of the library's merger class."""
        return config.hidden_size, config.embed_dim

    def tiny_tower(self) -> dict[str, Any]:
        return {"mlp_ratio": 2}
