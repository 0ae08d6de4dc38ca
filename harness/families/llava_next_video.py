"""LLaVA-NeXT-Video on images: LLaVA-NeXT with the ids of image and video changed round.

Its videos, which another module pools 2 x 2 before the projector, are refused like all video.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harness.families.decoders import Sizes
from harness.families.llava import config_of
from harness.families.llava_next import GRIDS, LlavaNext


class LlavaNextVideo(LlavaNext):
    """`model_type` llava_next_video."""

    kind = "llava_next_video"
    trains = False
    text_ties = True
    library = ("LlavaNextVideoConfig", "LlavaNextVideoForConditionalGeneration")
    says: ClassVar[Sizes] = {
        **LlavaNext.says,
        "image_token_index": 32001,
        "video_token_index": 32000,
    }
    published: ClassVar[dict[str, Sizes]] = {
        "llava-hf/LLaVA-NeXT-Video-7B-hf": config_of(
            "llava_next_video", {}, image_grid_pinpoints=GRIDS, image_token_index=32001
        )
    }
    summaries: ClassVar[dict[str, str]] = {
        "llava-hf/LLaVA-NeXT-Video-7B-hf": "LLaVA-NeXT-Video, Vicuna 7B, on images"
    }

    def tiny(self) -> dict[str, Any]:
        return {**super().tiny(), "video_token_index": 61}

    def resized(
        self, config: Mapping[str, Any], text: Mapping[str, Any], sight: Mapping[str, Any]
    ) -> dict[str, Any]:
        made = super().resized(config, text, sight)
        # An id of the vocabulary's own, which a smaller one has not.
        made["video_token_index"] = min(
            made["video_token_index"], text.get("vocab_size", 1 << 30) - 1
        )
        return made
