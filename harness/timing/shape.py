"""Which model is timed: a real one, or one of random weights at true or reduced size.

Torch-free. Speed does not need trained weights, only shapes; a reduced decoder keeps the image
size and the number of image tokens, and its name says what was reduced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.common.errors import UsageError
from harness.families.catalog import completed, family_of, shape_from_config

MULTIPLE = 64  # widths that give whole attention heads


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
    token counts. Raises UsageError for a width that gives no whole attention heads, for a model of
    which only the sizes are known, and for what `harness.families.catalog.completed` refuses.
    """
    family = family_of(config, name, sizes_only=True)
    if not family.loads:
        raise UsageError(f"--model: only the sizes of {name} are known: it runs with --costs-only")
    full, shape = completed(config, name), shape_from_config(config, name)
    text: dict[str, Any] = {}
    sight: dict[str, Any] = {}
    if width is not None and width % MULTIPLE:
        raise UsageError(f"--width: a multiple of {MULTIPLE}, not {width}")
    if width is not None:
        size = 2 * MULTIPLE if width % (2 * MULTIPLE) == 0 else MULTIPLE
        heads = width // size
        text |= {"hidden_size": width, "num_attention_heads": heads, "head_dim": size}
        most = max(1, heads * shape.kv_heads // shape.heads)
        text["num_key_value_heads"] = max(k for k in range(1, most + 1) if heads % k == 0)
        text["intermediate_size"] = _scaled(shape.ffn, width, shape.hidden)
        tower = _scaled(shape.vision.hidden, width, shape.hidden)
        sight |= {"hidden_size": tower, "num_attention_heads": tower // MULTIPLE}
        sight["intermediate_size"] = _scaled(shape.vision.ffn, width, shape.hidden)
    if layers is not None:
        text["num_hidden_layers"] = layers
        # One entry a layer, and all the same: the library makes them again.
        kept = {k: v for k, v in full["text_config"].items() if k != "layer_types"}
        full = {**full, "text_config": kept}
        sight["num_hidden_layers"] = max(2, round(shape.vision.layers * layers / shape.layers))
    return family.resized(full, text, sight)


def _scaled(size: int, width: int, hidden: int) -> int:
    """``size`` in the proportion of width to hidden, in whole heads."""
    return max(MULTIPLE, round(size * width / hidden / MULTIPLE) * MULTIPLE)
