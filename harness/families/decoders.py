"""Decoders under a family: library defaults of their sizes, and what of them cannot be routed.

Torch-free. Only types that the engine runs and the ledger counts exactly (transformers 5.23; a test
compares the defaults with the library's).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.common.errors import UsageError

Sizes = dict[str, Any]

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
