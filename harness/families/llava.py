"""LLaVA-1.5 and its like: one square of CLIP or SigLIP patches an image, a two-layer projector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harness.families.decoders import Sizes
from harness.families.family import Family
from harness.families.towers import CLIP_L_336

VICUNA_13B = {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}


def config_of(kind: str, text: Mapping[str, Any], vocab: int = 32064, **more: Any) -> Sizes:
    """A config of the converted checkpoints: CLIP-L/14-336, vocabulary padded to 32,064 rows."""
    return {
        "model_type": kind,
        "text_config": {"model_type": "llama", **text, "vocab_size": vocab},
        "vision_config": CLIP_L_336,
        **more,
    }


class Llava(Family):
    """`model_type` llava."""

    kind = "llava"
    says: ClassVar[Sizes] = {
        "image_token_index": 32000,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    published: ClassVar[dict[str, Sizes]] = {
        "llava-hf/llava-1.5-7b-hf": config_of("llava", {}),
        "llava-hf/llava-1.5-13b-hf": config_of("llava", VICUNA_13B),
    }
    summaries: ClassVar[dict[str, str]] = {
        "llava-hf/llava-1.5-7b-hf": "LLaVA-1.5, Vicuna 7B, 576 image tokens",
        "llava-hf/llava-1.5-13b-hf": "LLaVA-1.5, Vicuna 13B, 576 image tokens",
    }
    library = ("LlavaConfig", "LlavaForConditionalGeneration")
    boxes_in_frame = True
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
