"""What of a config or a processor of packed patches cannot be right. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.common.errors import UsageError
from harness.families.configs import shown
from harness.families.decoders import DECODERS, Sizes
from harness.families.framing import side_of

_PATCHES = (
    ("patch_size", "patch_size"),
    ("merge_size", "spatial_merge_size"),
    ("temporal_patch_size", "temporal_patch_size"),
)

# Library defaults of their decoders; no other family has these.
_QWEN2 = {
    **DECODERS["qwen2"], "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 152064,
    "max_window_layers": 80,
}  # fmt: skip
_QWEN3 = {
    **DECODERS["llama"], "intermediate_size": 22016, "num_key_value_heads": 32, "head_dim": 128,
    "vocab_size": 151936,
}  # fmt: skip
TEXTS: dict[str, Sizes] = {
    "qwen2_vl_text": _QWEN2, "qwen2_5_vl_text": _QWEN2, "qwen3_vl_text": _QWEN3,
}  # fmt: skip
ROTARY = ("rope_scaling", "rope_parameters", "rope_theta")


def check_parts(full: Mapping[str, Any], out: str, name: str) -> None:
    """Tower, decoder and positions of a complete config; ``out``: where the tower's output width
    stands. Raises UsageError."""
    text, sight = full["text_config"], full["vision_config"]
    if sight[out] != text["hidden_size"]:
        raise UsageError(
            f"{name}: the tower gives features of width {sight[out]} (vision_config.{out}), the "
            f"decoder's is {text['hidden_size']}"
        )
    if sight["spatial_merge_size"] != 2 or sight["temporal_patch_size"] != 2:
        raise UsageError(f"{name}: vision_config: only patches merged 2 x 2, of 2 frames, work")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    # The library's own, of either model, share out 64.
    axes, turns = rope.get("mrope_section", (16, 24, 24)), text["head_dim"] // 2
    if not isinstance(axes, (list, tuple)) or len(axes) != 3 or sum(axes) != turns:
        raise UsageError(
            f"{name}: text_config: mrope_section {shown(axes)} does not share out the {turns} "
            "turns of a head over time, rows and columns"
        )


def check_images(processor: Any, sight: Mapping[str, Any], name: str) -> None:
    """An image processor against the tower it is for. Raises UsageError."""
    for mine, tower in _PATCHES:
        found = getattr(processor, mine, None)
        if found != sight[tower]:
            raise UsageError(
                f"{name}: the image processor's {mine} is {shown(found)}, the tower's is "
                f"{sight[tower]}: a processor of another model?"
            )
    least, most = (side_of(processor.size, one) for one in ("shortest_edge", "longest_edge"))
    token = (sight["patch_size"] * sight["spatial_merge_size"]) ** 2
    if not least or most < max(least, token):
        raise UsageError(
            f"{name}: the image processor makes images of {least} to {most} pixels, and a token "
            f"takes {token}: set min_pixels and max_pixels in preprocessor_config.json"
        )
