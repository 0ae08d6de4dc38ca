"""Which model is timed: a real one, or one of random weights at true or reduced size.

Torch-free. Speed does not need trained weights, only shapes; a reduced decoder keeps the image
size and the number of image tokens, and its name says what was reduced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.cost.shapes import CLIP, LLAMA, shape_from_config
from harness.errors import UsageError

MULTIPLE = 64  # widths that give whole attention heads
IMAGE_TOKEN = 32000  # of the converted checkpoints


def random_name(model: str, layers: int | None, width: int | None) -> str:
    """How tables call the model, e.g. ``llava-1.5-7b-hf, random weights, 4 layers, width 256``."""
    sizes = [f"{layers} layers"] if layers else []
    sizes += [f"width {width}"] if width else []
    return ", ".join([model.rpartition("/")[2], "random weights", *sizes])


def random_config(
    config: Mapping[str, Any], name: str, layers: int | None, width: int | None
) -> dict[str, Any]:
    """A complete config like ``config``, with ``layers`` decoder layers of ``width``.

    The tower shrinks by the same two factors; patch and image size stay, and so do the image
    token counts. Raises UsageError for a width that gives no whole attention heads.
    """
    shape = shape_from_config(config, name)
    text = {**LLAMA, **{k: v for k, v in config["text_config"].items() if v is not None}}
    sight = {**CLIP, **{k: v for k, v in config["vision_config"].items() if v is not None}}
    if width is not None and width % MULTIPLE:
        raise UsageError(f"--width: a multiple of {MULTIPLE}, not {width}")
    if width is not None:
        size = 2 * MULTIPLE if width % (2 * MULTIPLE) == 0 else MULTIPLE
        heads = width // size
        text |= {"hidden_size": width, "num_attention_heads": heads, "head_dim": size}
        text |= {"num_key_value_heads": max(1, heads * shape.kv_heads // shape.heads)}
        text["intermediate_size"] = _scaled(shape.ffn, width, shape.hidden)
        tower = _scaled(shape.vision.hidden, width, shape.hidden)
        sight |= {"hidden_size": tower, "num_attention_heads": tower // MULTIPLE}
        sight["intermediate_size"] = _scaled(shape.vision.ffn, width, shape.hidden)
    if layers is not None:
        text["num_hidden_layers"] = layers
        sight["num_hidden_layers"] = max(2, round(shape.vision.layers * layers / shape.layers))
    text.setdefault("num_key_value_heads", text["num_attention_heads"])
    sight.setdefault("num_attention_heads", max(1, sight["hidden_size"] // MULTIPLE))
    return {
        "vision_feature_layer": config.get("vision_feature_layer", -2),
        "image_token_index": config.get("image_token_index", IMAGE_TOKEN),
        "text_config": {"model_type": "llama", **text},
        "vision_config": {"model_type": "clip_vision_model", **sight},
        **({"image_grid_pinpoints": [list(t) for t in shape.tiles]} if shape.tiles else {}),
    }


def _scaled(size: int, width: int, hidden: int) -> int:
    """``size`` in the proportion of width to hidden, in whole heads."""
    return max(MULTIPLE, round(size * width / hidden / MULTIPLE) * MULTIPLE)
