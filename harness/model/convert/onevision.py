"""LLaVA-OneVision as lmms-lab released it: Qwen2, SigLIP, any resolution.

The released code deletes the tower's last block and reads the last state, whatever
`mm_vision_select_layer` says; here the tower has one block less and feature layer -1.
"""

from __future__ import annotations

import re
from typing import ClassVar

from harness.families.configs import shown
from harness.model.convert import llava_original, processors
from harness.model.convert.layout import DenseLayout, Source, Stream, Target
from harness.model.convert.parts import ROWS, expect, text_config, tied
from harness.model.convert.towers import find_tower

RANGE = re.compile(r"\((\d+)x(\d+)\),\.\.\.,\((\d+)x(\d+)\)")


class OneVision(DenseLayout):
    """Becomes `llava_onevision`."""

    name: ClassVar[str] = "lmms-lab LLaVA-OneVision"

    def claims(self, source: Source) -> bool:
        config = source.config
        said = config.get("architectures")
        named = isinstance(said, list) and "LlavaQwenForCausalLM" in said
        kind = config.get("model_type")
        return "mm_vision_tower" in config and (kind == "llava_qwen" or (kind == "llava" and named))

    def target(self, source: Source) -> Target:
        expect(source, "mm_projector_type", ("mlp2x_gelu",))
        expect(source, "mm_patch_merge_type", ("spatial_unpad",))
        expect(source, "mm_use_im_start_end", (False, None))
        expect(source, "mm_use_im_patch_token", (False, None))
        aspect = source.config.get("image_aspect_ratio")
        if not re.fullmatch(r"anyres_max_[1-9]\d*", str(aspect)):
            raise source.refuse(
                f"image_aspect_ratio is {shown(aspect)}, which is not converted; read is "
                "anyres_max_N"
            )
        tower = find_tower(source)
        if tower.config["model_type"] != "siglip_vision_model":
            raise source.refuse("its vision tower is no SigLIP, which LLaVA-OneVision's is")
        depth = tower.config["num_hidden_layers"] - 1
        vision = {**tower.config, "num_hidden_layers": depth, "vision_use_head": False}
        text = text_config(source, "qwen2")
        words = processors.Words(
            source, "qwen2", text["vocab_size"], (processors.IMAGE, processors.VIDEO)
        )
        grids = grid_pinpoints(source, tower.config["image_size"])
        config = {
            "model_type": "llava_onevision",
            "text_config": text,
            "vision_config": vision,
            "image_token_index": words.id(processors.IMAGE),
            "video_token_index": words.id(processors.VIDEO),
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": aspect,
            "image_grid_pinpoints": grids,
            "tie_word_embeddings": tied(source),
        }
        return Target(
            config=config,
            streams=[
                Stream(source.weights, lambda name: llava_original.place(name, newline=True)),
                *tower.streams(depth),
            ],
            processor=processors.onevision(words, tower, grids, str(aspect)).save_pretrained,
            rows=ROWS,
        )


def grid_pinpoints(source: Source, side: int) -> list[list[int]]:
    """Tile grids as (height, width) in pixels, from a list or from `(1x1),...,(6x6)`.

    The text means every (width, height) between its ends, in tiles of ``side`` pixels.
    """
    said = source.config.get("image_grid_pinpoints")
    if not isinstance(said, str):
        return llava_original.turned(source, said)
    found = RANGE.fullmatch(said.replace(" ", ""))
    if found is None:
        raise source.refuse(
            f"image_grid_pinpoints is {shown(said)}, expected a list or a text like (1x1),...,(6x6)"
        )
    first, low, last, high = map(int, found.groups())
    pairs = [[w * side, h * side] for w in range(first, last + 1) for h in range(low, high + 1)]
    return llava_original.turned(source, pairs)
