"""The model families that are known, and the one place where a size may come from a default.

Torch-free. Released configs name only what differs from the library's config classes: the
text_config of llava-hf/llava-1.5-7b-hf says `llama` and a vocabulary, all else is `LlamaConfig`'s.
Those class defaults stand here, type by type (transformers 5.23; a test compares them), and only
for types that the engine runs and the ledger counts exactly. Whatever else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json

Sizes = dict[str, Any]

# What a family's config class says beside the two parts.
_LLAVA: Sizes = {
    "image_token_index": 32000,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
_GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
FAMILIES: dict[str, Sizes] = {
    "llava": _LLAVA,
    "llava_next": {**_LLAVA, "image_grid_pinpoints": _GRIDS},
}

# Decoders: Llama's two norms, four attention and three FFN matrices a layer. A head_dim of None is
# the width over the heads, key-value heads of None are as many as heads.
DECODERS: dict[str, Sizes] = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "vocab_size": 32000,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "vocab_size": 32000,
        "sliding_window": 4096,
    },
    "qwen2": {
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": None,
        "vocab_size": 151936,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
}
DECODERS["qwen3"] = {**DECODERS["qwen2"], "head_dim": 128}
DECODERS["gemma"] = {
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "vocab_size": 256000,
}
TOWERS: dict[str, Sizes] = {
    "clip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 32,
    },
    "siglip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 16,
        "vision_use_head": True,
    },
}
# Tokens in front of the patches, and the select strategy under which only patches are left.
CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
_PATCHES_ONLY = {"clip_vision_model": "default", "siglip_vision_model": "full"}
_DERIVED = ("num_key_value_heads", "head_dim")
_NO_SIZES = ("sliding_window", "use_sliding_window", "max_window_layers", "vision_use_head")


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder, `completed`.

    Raises UsageError, one line: a missing or unreadable file, and what `completed` refuses.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: not a model folder (no config.json)")
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as JSON ({one_line(error, 120)})") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path}: not a model config, but a {type(config).__name__}")
    return completed(config, str(folder))


def completed(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A LLaVA or LLaVA-NeXT config with every size in it, from itself or its types' defaults.

    Raises UsageError, one line, for another family, decoder or tower, a size that is no positive
    whole number, attention windows, and features that are not one token for each patch.
    """
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise UsageError(
            f"{name}: a model of type '{family}'; the LLaVA-family types that work are "
            + " and ".join(FAMILIES)
        )
    if "text_config" not in config or "vision_config" not in config:
        raise UsageError(
            f"{name}: no text_config and vision_config: weights in the original LLaVA layout, "
            "which is not read and not converted here; the llava-hf models are in the other one"
        )
    text = _part(config, "text_config", DECODERS, name)
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
    sight = _part(config, "vision_config", TOWERS, name)
    full = {**FAMILIES[family], **_given(config), "text_config": text, "vision_config": sight}
    full["image_token_index"] = full.pop("image_token_id", full["image_token_index"])  # one's alias
    _check_features(full, name)
    return full


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without fields that stand there as null, which the family's class fills in as well."""
    return {key: value for key, value in config.items() if value is not None}


def _part(
    config: Mapping[str, Any], key: str, known: Mapping[str, Sizes], name: str
) -> dict[str, Any]:
    """One of the two parts, complete."""
    part = config[key]
    kind = part.get("model_type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in known:
        raise UsageError(
            f"{name}: {key}.model_type is {_shown(kind)}; the types that work are "
            + ", ".join(known)
        )
    full = {**known[kind], **part}
    for field in known[kind]:
        value = full[field]
        free = field in _NO_SIZES or (value is None and field in _DERIVED)
        if not free and (type(value) is not int or value < 1):
            raise UsageError(
                f"{name}: {key}.{field} is {_shown(value)}, not a whole number above 0"
            )
    return full


def _shown(value: Any) -> str:
    return "missing" if value is None else one_line(repr(value), 60)


def refuse_windows(text: Mapping[str, Any], where: str = "") -> None:
    """Raise UsageError unless every layer of a decoder sees all earlier tokens, and no later ones.

    `text` is a complete text_config.
    """
    window, kinds = text.get("sliding_window"), text.get("layer_types")
    slides = window is not None
    if isinstance(kinds, (list, tuple)) and text["model_type"] != "mistral":
        slides = any("full" not in str(kind) for kind in kinds)
    elif slides and "use_sliding_window" in text:
        first, depth = text["max_window_layers"], text["num_hidden_layers"]
        slides = bool(text["use_sliding_window"]) and not (type(first) is int and first >= depth)
    if slides:
        raise UsageError(
            f"{where}sliding-window attention (window {window}) cannot be routed: set "
            "text_config.sliding_window to null in config.json, which changes nothing in prompts "
            "and answers that are shorter than the window"
        )
    if text.get("use_bidirectional_attention"):
        raise UsageError(f"{where}a decoder with bidirectional attention cannot be routed")


def _check_features(config: Mapping[str, Any], name: str) -> None:
    """What the projector reads must be one state, or several, of each patch and of nothing else."""
    sight, strategy = config["vision_config"], config["vision_feature_select_strategy"]
    kind, depth = sight["model_type"], sight["num_hidden_layers"]
    if strategy != _PATCHES_ONLY[kind]:
        raise UsageError(
            f"{name}: vision_feature_select_strategy={_shown(strategy)} on a {kind} "
            + ("leaves its class token among" if CLASS_TOKENS[kind] else "cuts the first of")
            + f" the image's tokens: only '{_PATCHES_ONLY[kind]}' works"
        )
    size = sight["image_size"]
    for grid in (
        config.get("image_grid_pinpoints", ()) if config["model_type"] == "llava_next" else ()
    ):
        pair = isinstance(grid, (list, tuple)) and len(grid) == 2
        if not pair or any(type(side) is not int or side < size for side in grid):
            raise UsageError(
                f"{name}: image_grid_pinpoints: {_shown(grid)} is no (height, width) of at least "
                f"{size} pixels"
            )
    layers = config["vision_feature_layer"]
    for layer in layers if isinstance(layers, (list, tuple)) and layers else [layers]:
        if type(layer) is not int or not -depth - 1 <= layer <= depth:
            raise UsageError(
                f"{name}: vision_feature_layer={_shown(layer)} is no layer of a tower of {depth}"
            )
