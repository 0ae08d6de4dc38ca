"""How many positions a model was made for."""

from __future__ import annotations

from typing import Any


def context_length(config: Any) -> int | None:
    """Positions that the language model of a checkpoint was trained on or stretched to.

    ``max_position_embeddings``, times the factor of a rotary scaling that stretches it: linear and
    dynamic ones state the length before, yarn and longrope keep it as
    ``original_max_position_embeddings``; llama3's length is the stretched one already. None where
    the config names no length.
    """
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None)
    if not length:
        return None
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    factor = float(rope.get("factor") or 1.0)
    kind = rope.get("rope_type") or rope.get("type")
    if kind in ("linear", "dynamic"):
        return int(length * factor)
    before = rope.get("original_max_position_embeddings")
    return max(int(length), int((before or 0) * factor))
