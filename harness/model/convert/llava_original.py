"""LLaVA-1.5 and 1.6 as their authors released them (Vicuna and Mistral decoders).

Names and fields as in the released code. 1.5 takes its CLIP tower from elsewhere, 1.6 stores a
tuned one: what the file holds decides. The words `<image>` and `<pad>` get rows behind the
source's own. Tile shapes are (width, height) there, (height, width) in the library.
"""

from __future__ import annotations

from typing import Any, ClassVar

from harness.families.configs import shown
from harness.families.towers import PATCHES_ONLY
from harness.model.convert import processors
from harness.model.convert.layout import (
    LEFT_OUT,
    MODEL,
    DenseLayout,
    Place,
    Source,
    Stream,
    Target,
)
from harness.model.convert.parts import NEWLINE, ROWS, decoder_place, expect, text_config, tied
from harness.model.convert.towers import find_tower, stored_place

DECODERS = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral"}
# Fields of models built on this code that see images in another way, each a layout of its own.
OTHERS = {
    "vision_tower_slow": "LLaVA-HR",
    "mm_vision_tower_aux": "Mini-Gemini",
    "image_size_aux": "Mini-Gemini",
    "s2": "LLaVA with S2",
}


class OriginalLlava(DenseLayout):
    """Becomes `llava` (flat) or `llava_next` (spatial_unpad)."""

    name: ClassVar[str] = "original LLaVA"

    def claims(self, source: Source) -> bool:
        config = source.config
        return config.get("model_type") in DECODERS and "mm_vision_tower" in config

    def target(self, source: Source) -> Target:
        for field, whose in OTHERS.items():
            if source.config.get(field):
                raise source.refuse(f"{field} makes it {whose}, which is not converted")
        merge = expect(source, "mm_patch_merge_type", ("flat", "spatial_unpad"), "flat")
        _check(source)
        tower = find_tower(source)
        kind = DECODERS[str(source.config["model_type"])]
        text = text_config(source, kind)
        words = processors.Words(source, kind, text["vocab_size"])
        strategy = PATCHES_ONLY[tower.config["model_type"]]
        config: dict[str, Any] = {
            "model_type": "llava",
            "text_config": text,
            "vision_config": tower.config,
            "image_token_index": words.id(processors.IMAGE),
            "projector_hidden_act": "gelu",
            "vision_feature_layer": source.config["mm_vision_select_layer"],
            "vision_feature_select_strategy": strategy,
            "image_seq_length": tower.patches,
            "tie_word_embeddings": tied(source),
        }
        if merge == "flat":
            aspect = expect(source, "image_aspect_ratio", ("pad", "square", None))
            processor = processors.square(words, tower, aspect == "pad", strategy)
        else:
            expect(source, "image_aspect_ratio", ("anyres",))
            grids = turned(source, source.config.get("image_grid_pinpoints"))
            config |= {"model_type": "llava_next", "image_grid_pinpoints": grids}
            processor = processors.tiles(words, tower, grids, strategy)
        return Target(
            config=config,
            streams=[
                Stream(source.weights, lambda name: place(name, newline=merge != "flat")),
                *tower.streams(tower.config["num_hidden_layers"]),
            ],
            processor=processor.save_pretrained,
            rows=ROWS,
        )


def _check(source: Source) -> None:
    """Fields whose other values mean other tensors or another way to see an image."""
    expect(source, "mm_projector_type", ("mlp2x_gelu",))
    expect(source, "mm_vision_select_feature", ("patch",), "patch")
    expect(source, "mm_use_im_start_end", (False, None))
    expect(source, "mm_use_im_patch_token", (False, None))
    expect(source, "mm_resampler_type", (None,))
    layer = source.config.get("mm_vision_select_layer")
    if type(layer) is not int:
        raise source.refuse(f"mm_vision_select_layer is {shown(layer)}, expected a layer's number")


def place(name: str, newline: bool) -> Place | None:
    """Where a released tensor goes; ``newline``: whether the model has a newline embedding."""
    if name == NEWLINE:  # stored by flat models too, and read by none of them
        return Place(MODEL, NEWLINE) if newline else LEFT_OUT
    return stored_place(name) or decoder_place(name)


def turned(source: Source, grids: Any) -> list[list[int]]:
    """Tile grids in pixels from (width, height) to the library's (height, width), in order.

    The order stays: of two grids that fit equally well the first is taken.
    """
    good = isinstance(grids, list) and len(grids) > 0
    for grid in grids if good else []:
        pair = isinstance(grid, list) and len(grid) == 2
        good = good and pair and all(type(side) is int and side > 0 for side in grid)
    if not good:
        raise source.refuse(
            f"image_grid_pinpoints is {shown(grids)}, expected a list of [width, height] in pixels"
        )
    return [[high, wide] for wide, high in grids]
