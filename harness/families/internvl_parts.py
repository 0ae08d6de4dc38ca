"""InternVL's tower in parts: default sizes, the library's modules, what stands in for them.

Torch-free until a module is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.common.errors import UsageError
from harness.families.configs import shown
from harness.families.decoders import Sizes
from harness.families.framing import side_of

if TYPE_CHECKING:
    from harness.families.shapes import ModelShape

MERGE = 2  # patches along one side of a token
TOWER: dict[str, Sizes] = {
    "internvl_vision": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_channels": 3, "image_size": 448, "patch_size": 14,
    }
}  # fmt: skip
VIT_300M: Sizes = {**TOWER["internvl_vision"], "attention_bias": True}
VIT_6B: Sizes = {
    **TOWER["internvl_vision"], "hidden_size": 3200, "intermediate_size": 12800,
    "num_hidden_layers": 45, "num_attention_heads": 25, "norm_type": "rms_norm",
    "use_qk_norm": True,
}  # fmt: skip


def released(width: int, ffn: int, layers: int, heads: int, kv: int, **more: Any) -> Sizes:
    """A config of the releases. ``text``: the decoder's type; ``tower``: the other one."""
    text = {
        "model_type": more.get("text", "qwen2"), "hidden_size": width, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "vocab_size": more.get("vocab", 151674), "use_sliding_window": False,
    }  # fmt: skip
    return {
        "model_type": "internvl", "image_token_id": more.get("token", 151667), "text_config": text,
        "vision_config": {"model_type": "internvl_vision", **more.get("tower", VIT_300M)},
    }  # fmt: skip


RELEASED: dict[str, Sizes] = {
    "OpenGVLab/InternVL3-1B-hf": released(896, 4864, 24, 14, 2),
    "OpenGVLab/InternVL3-2B-hf": released(1536, 8960, 28, 12, 2),
    "OpenGVLab/InternVL3-8B-hf": released(3584, 18944, 28, 28, 4),
    "OpenGVLab/InternVL3-14B-hf": released(5120, 13824, 48, 40, 8),
    "OpenGVLab/InternVL3-38B-hf": released(5120, 27648, 64, 40, 8, tower=VIT_6B),
    "OpenGVLab/InternVL3_5-8B-HF": released(
        4096, 12288, 36, 32, 8, text="qwen3", vocab=151936, token=151671
    ),
}


def tokens(patches: int) -> int:
    """Tokens of a tile of ``patches`` x ``patches`` patches."""
    return (patches // MERGE) ** 2


def joined(patches: int) -> list[list[int]]:
    """The patches of a tile of ``patches`` x ``patches`` behind each token, row by row."""
    steps = range(0, patches, MERGE)
    inside = [row * patches + col for row in range(MERGE) for col in range(MERGE)]
    return [[top * patches + left + one for one in inside] for top in steps for left in steps]


def check(full: Mapping[str, Any], name: str) -> None:
    """Raise UsageError for what a complete config says of images and cannot be."""
    sight, layer = full["vision_config"], full["vision_feature_layer"]
    patches, rest = divmod(sight["image_size"], sight["patch_size"])
    if rest or patches % MERGE:
        raise UsageError(
            f"{name}: vision_config: tiles of {sight['image_size']} pixels are no even number "
            f"of patches of {sight['patch_size']}"
        )
    if full["downsample_ratio"] != 1 / MERGE:
        raise UsageError(
            f"{name}: downsample_ratio is {shown(full['downsample_ratio'])}: only 0.5 works"
        )
    made, said = tokens(patches), full.get("image_seq_length")
    if said not in (None, made):
        raise UsageError(f"{name}: image_seq_length is {shown(said)}, a tile makes {made} tokens")
    strategy = full["vision_feature_select_strategy"]
    if strategy != "default":
        raise UsageError(
            f"{name}: vision_feature_select_strategy={shown(strategy)} leaves the class token "
            "among the image's tokens: only 'default' works"
        )
    depth = sight["num_hidden_layers"]
    if type(layer) is not int or not -depth - 1 <= layer <= depth:
        raise UsageError(
            f"{name}: vision_feature_layer={shown(layer)} is no layer of a tower of {depth}"
        )


def side(value: Any) -> Any:
    """One side of a square that a config has as two numbers; anything else as it is."""
    two = isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == value[1]
    return value[0] if two else value


def raster(size: tuple[int, int], processor: Any) -> tuple[int, int]:
    """Rows and columns of tiles that a processor makes of an image; 0, 0 where it has no rule."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    tile = getattr(processor, "size", None)
    least, most = (getattr(processor, name, None) for name in ("min_patches", "max_patches"))
    if tile is None or least is None or most is None:
        return 0, 0
    across, down = get_optimal_tiled_canvas(
        size, (side_of(tile, "height"), side_of(tile, "width")), least, most
    )
    return down, across


def module_of(shape: ModelShape, name: str, tokens: int) -> tuple[Any, tuple[Any, ...]]:
    """(module, inputs) of a part at its true size, the library's own.

    On ``meta``, where it takes no memory, but the patch embedding: torch 2.13 cannot trace a
    convolution there, and this one is small.
    """
    import torch
    from torch import nn
    from transformers.models.internvl import modeling_internvl as library

    vision = shape.vision
    if name == "embedding":
        sizes = (vision.channels, vision.hidden, vision.patch, vision.patch)
        pixels = torch.zeros(1, vision.channels, vision.image_size, vision.image_size)
        return nn.Conv2d(*sizes, bias=False), (pixels,)
    config = _config(shape)
    with torch.device("meta"):
        if name == "projector":
            states = torch.empty(1, tokens, shape.projector_in)
            return library.InternVLMultiModalProjector(config), (states,)
        layer: Any = library.InternVLVisionLayer(config.vision_config)
        states = torch.empty(1, tokens, vision.hidden)
        return (layer.mlp if name == "mlp" else layer.attention), (states,)


def _config(shape: ModelShape) -> Any:
    """The library's config of a one-layer model of these widths."""
    from transformers import InternVLConfig

    vision = {
        "model_type": "internvl_vision", "hidden_size": shape.vision.hidden,
        "intermediate_size": shape.vision.ffn, "num_hidden_layers": 1,
        "num_attention_heads": 1,  # changes no count
    }  # fmt: skip
    text = {"model_type": "qwen2", "hidden_size": shape.hidden}
    made = InternVLConfig(text_config=text, vision_config=vision)
    made.vision_config._attn_implementation = "sdpa"
    return made


def stand_ins(config: Any, tower: Any, projector: Any) -> list[tuple[Any, Any]]:
    """`Family.stand_ins`: zeros for every state of a tile, and for every token."""
    vision, width = config.vision_config, int(config.text_config.hidden_size)
    patch = side(vision.patch_size)

    def see(pixel_values: Any, **_: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        rows, cols = (edge // patch for edge in pixel_values.shape[-2:])
        shape = (pixel_values.shape[0], 1 + rows * cols, vision.hidden_size)
        states = pixel_values.new_zeros(shape)
        depth = int(vision.num_hidden_layers) + 1
        return BaseModelOutputWithPooling(last_hidden_state=states, hidden_states=(states,) * depth)

    def project(features: Any) -> Any:
        return features.new_zeros(*features.shape[:-1], width)

    return [(tower, see), (projector, project)]
