"""A config's parts made complete, and what of them cannot be right. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.common.errors import UsageError, one_line
from harness.families.decoders import Sizes, refuse_windows
from harness.families.towers import CLASS_TOKENS, PATCHES_ONLY

_NO_SIZES = ("sliding_window", "use_sliding_window", "max_window_layers", "vision_use_head")
_DERIVED = ("num_key_value_heads", "head_dim")


def decoder_part(config: Mapping[str, Any], known: Mapping[str, Sizes], name: str) -> Sizes:
    """The text_config, complete: every layer attends to all before it.

    Raises UsageError for another decoder, sizes that are no numbers, heads that cannot be shared
    and attention windows.
    """
    text = part(config, "text_config", known, name)
    if text["num_key_value_heads"] is None:
        text["num_key_value_heads"] = text["num_attention_heads"]
    if text["head_dim"] is None:
        text["head_dim"] = text["hidden_size"] // text["num_attention_heads"]
    if text["num_attention_heads"] % text["num_key_value_heads"]:
        raise UsageError(
            f"{name}: text_config: {text['num_attention_heads']} heads cannot share "
            f"{text['num_key_value_heads']} key-value heads"
        )
    refuse_windows(text, f"{name}: ")
    return text


def decoder_sizes(text: Mapping[str, Any]) -> dict[str, Any]:
    """A complete text_config as the fields of `ModelShape`."""
    return {
        "layers": text["num_hidden_layers"],
        "hidden": text["hidden_size"],
        "ffn": text["intermediate_size"],
        "heads": text["num_attention_heads"],
        "kv_heads": text["num_key_value_heads"],
        "head_dim": text["head_dim"],
        "vocab": text["vocab_size"],
    }


def part(
    config: Mapping[str, Any], key: str, known: Mapping[str, Sizes], name: str
) -> dict[str, Any]:
    """One of the two parts, complete."""
    part = config[key]
    kind = part.get("model_type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in known:
        raise UsageError(
            f"{name}: {key}.model_type is {shown(kind)}; the types that work are "
            + ", ".join(known)
        )
    full = {**known[kind], **part}
    for field in known[kind]:
        value = full[field]
        free = field in _NO_SIZES or (value is None and field in _DERIVED)
        if not free and (type(value) is not int or value < 1):
            raise UsageError(f"{name}: {key}.{field} is {shown(value)}, not a whole number above 0")
    return full


def shown(value: Any) -> str:
    """A value of a config as a message shows it."""
    return "missing" if value is None else one_line(repr(value), 60)


def check_features(config: Mapping[str, Any], name: str) -> None:
    """What the projector reads must be one state, or several, of each patch and of nothing else."""
    sight, strategy = config["vision_config"], config["vision_feature_select_strategy"]
    kind, depth = sight["model_type"], sight["num_hidden_layers"]
    if strategy != PATCHES_ONLY[kind]:
        raise UsageError(
            f"{name}: vision_feature_select_strategy={shown(strategy)} on a {kind} "
            + ("leaves its class token among" if CLASS_TOKENS[kind] else "cuts the first of")
            + f" the image's tokens: only '{PATCHES_ONLY[kind]}' works"
        )
    layers = config["vision_feature_layer"]
    for layer in layers if isinstance(layers, (list, tuple)) and layers else [layers]:
        if type(layer) is not int or not -depth - 1 <= layer <= depth:
            raise UsageError(
                f"{name}: vision_feature_layer={shown(layer)} is no layer of a tower of {depth}"
            )


def are_layers(value: Any, depth: int) -> bool:
    """Whether a config's list names layers of a tower of this depth, and nothing else."""
    listed = isinstance(value, (list, tuple))
    return listed and all(type(i) is int and 0 <= i < depth for i in value)
