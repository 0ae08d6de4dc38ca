"""LLaVA-1.5 and its like: one square of CLIP or SigLIP patches an image, a two-layer projector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harness.families.decoders import Sizes
from harness.families.family import Family
from harness.families.towers import CLIP_L_336, SIGLIP_SO400M

VICUNA_13B = {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}


def decoder(width: int, ffn: int, layers: int, heads: int, kv: int, kind: str = "llama") -> Sizes:
    """Sizes of a decoder; Mistral's without the window that the releases switch off."""
    sizes = {
        "model_type": kind, "hidden_size": width, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
    }  # fmt: skip
    return {**sizes, "sliding_window": None} if kind == "mistral" else sizes


def config_of(kind: str, text: Mapping[str, Any], vocab: int = 32064, **more: Any) -> Sizes:
    """A config of the converted checkpoints: CLIP-L/14-336, vocabulary padded to 32,064 rows."""
    return {
        "model_type": kind,
        "text_config": {"model_type": "llama", **text, "vocab_size": vocab},
        "vision_config": CLIP_L_336,
        **more,
    }


def interleaved(text: Mapping[str, Any], tied: bool) -> Sizes:
    """A config of llava-interleave-qwen: SigLIP, all of its 729 patches, a Qwen1.5 decoder."""
    return {
        **config_of("llava", text, 152000, image_token_index=151646, tie_word_embeddings=tied),
        "vision_config": SIGLIP_SO400M, "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }  # fmt: skip


class Llava(Family):
    """`model_type` llava."""

    kind = "llava"
    says: ClassVar[Sizes] = {
        "image_token_index": 32000,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
    }
    # Whether its class shares the embedding table with the LM head where the text_config alone
    # says so.
    text_ties: ClassVar[bool] = True
    published: ClassVar[dict[str, Sizes]] = {
        "llava-hf/llava-1.5-7b-hf": config_of("llava", {}),
        "llava-hf/llava-1.5-13b-hf": config_of("llava", VICUNA_13B),
        "llava-hf/llava-interleave-qwen-0.5b-hf": interleaved(
            decoder(1024, 2816, 24, 16, 16, "qwen2"), tied=True
        ),
        "llava-hf/llava-interleave-qwen-7b-hf": interleaved(
            decoder(4096, 11008, 32, 32, 32, "qwen2"), tied=False
        ),
    }
    summaries: ClassVar[dict[str, str]] = {
        "llava-hf/llava-1.5-7b-hf": "LLaVA-1.5, Vicuna 7B, 576 image tokens",
        "llava-hf/llava-1.5-13b-hf": "LLaVA-1.5, Vicuna 13B, 576 image tokens",
        "llava-hf/llava-interleave-qwen-0.5b-hf": "LLaVA-Interleave, Qwen1.5 0.5B, SigLIP",
        "llava-hf/llava-interleave-qwen-7b-hf": "LLaVA-Interleave, Qwen1.5 7B, SigLIP",
    }
    library = ("LlavaConfig", "LlavaForConditionalGeneration")
    boxes_in_frame = True
    squares = True
    unshrunk = ""
    trains = True
    tensors: ClassVar[dict[str, tuple[str, ...]]] = {
        "projector": ("model.multi_modal_projector.", "model.image_newline"),
        "decoder": ("model.language_model.", "lm_head."),
        "tower": ("model.vision_tower.",),
    }
    renamed: ClassVar[tuple[tuple[str, str], ...]] = (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
        ("image_newline", "model.image_newline"),
    )

    def completed(self, config: Mapping[str, Any], name: str) -> dict[str, Any]:
        full = super().completed(config, name)
        if self.text_ties and full["text_config"].get("tie_word_embeddings"):
            full["tie_word_embeddings"] = True
        return full
