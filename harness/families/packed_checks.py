"""What of a config or a processor of packed patches cannot be right. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.common.errors import UsageError
from harness.families.configs import shown
from harness.families.framing import side_of

_PATCHES = (
    ("patch_size", "patch_size"),
    ("merge_size", "spatial_merge_size"),
    ("temporal_patch_size", "temporal_patch_size"),
)


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
    axes, turns = rope.get("mrope_section"), text["head_dim"] // 2
    if axes is not None and (len(axes) != 3 or sum(axes) != turns):
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
