"""LLaVA-HR and Mini-Gemini-HD: sizes only, for the ledger; this harness cannot load them yet.

LLaVA-HR shows its CLIP tower 448 pixels (32 x 32 patches, class token dropped, all 24 layers run)
beside a ConvNeXt at 1024; Mini-Gemini-HD has five CLIP crops and a ConvNeXt at 1536 whose patch
mining nobody has counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from harness.families.convnext import CONVNEXT_L, llava_hr_flops
from harness.families.decoders import Sizes
from harness.families.llava import VICUNA_13B, Llava, config_of
from harness.families.shapes import ModelShape
from harness.families.towers import CLIP_L_336

_HR_TOWER = {**CLIP_L_336, "image_size": 448}


class LlavaHr(Llava):
    """`model_type` llava_hr, a name of this harness."""

    kind = "llava_hr"
    loads = False
    published: ClassVar[dict[str, Sizes]] = {
        "llava-hr-7b": config_of("llava_hr", {}, 32000, vision_config=_HR_TOWER),
        "llava-hr-13b": config_of("llava_hr", VICUNA_13B, 32000, vision_config=_HR_TOWER),
    }
    summaries: ClassVar[dict[str, str]] = {
        "llava-hr-7b": "LLaVA-HR, Vicuna 7B, 1024 image tokens",
        "llava-hr-13b": "LLaVA-HR, Vicuna 13B, 1024 image tokens",
    }

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        found = super().shape(config, name)
        second = llava_hr_flops(1024, *CONVNEXT_L)
        tower = replace(found.vision, class_tokens=0)
        return replace(found, vision=tower, image_tokens=1024, second_tower=second)


class MiniGeminiHd(Llava):
    """`model_type` mini_gemini_hd, a name of this harness."""

    kind = "mini_gemini_hd"
    loads = False
    published: ClassVar[dict[str, Sizes]] = {
        "mini-gemini-hd-7b": config_of("mini_gemini_hd", {}, 32000)
    }
    summaries: ClassVar[dict[str, str]] = {
        "mini-gemini-hd-7b": "Mini-Gemini-HD, Vicuna 7B, 2880 image tokens"
    }

    def shape(self, config: Mapping[str, Any], name: str) -> ModelShape:
        return replace(super().shape(config, name), image_tokens=2880, second_tower=None)
