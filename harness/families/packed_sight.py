"""What a tower of packed patches costs: closed form, and the library's modules behind it.

Torch-free but for `packed_module`. FLOPs, 2 per multiply-accumulate.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.families.shapes import ModelShape, Part, VisionShape
from harness.families.sight import Grids

if TYPE_CHECKING:
    from harness.families.packed import Packed


@dataclass(frozen=True)
class PackedVision(VisionShape):
    """A tower of packed patches. `image_size` is 0: images have no one size.

    `merge`: patches a side of a token; `gated`: the MLP has three matrices; `window`: tokens a
    side of an attention window, 0 for none; `whole`: layers that attend to the whole image all the
    same; `deepstack`: mergers behind the last layer's own.
    """

    merge: int = 2
    frames: int = 2  # of a patch: a still is shown twice
    gated: bool = False
    window: int = 0
    whole: tuple[int, ...] = ()
    deepstack: int = 0


def packed_parts(shape: ModelShape, vision: PackedVision, grid: Grids, n_image: int) -> list[Part]:
    """Patches one by one where they are alone, attention by the run that it covers."""
    grids = [tuple(map(int, g.get("saw") or (g["rows"], g["cols"]))) for g in grid]
    if not grids and n_image:
        grids = [(1, n_image)]
    tokens = sum(rows * cols for rows, cols in grids)
    if not tokens:
        return []
    d, unit = vision.hidden, vision.merge**2
    patches = tokens * unit
    inputs = vision.channels * vision.frames * vision.patch**2
    mlp = (6.0 if vision.gated else 4.0) * d * vision.ffn
    merged = 2.0 * (d * unit) ** 2 + 2.0 * d * unit * shape.hidden
    runs: Counter[int] = Counter()
    for rows, cols in grids:
        runs[rows * cols * unit] += _full_layers(vision)
        for one in _windows(rows, cols, vision.window):
            runs[one * unit] += vision.layers - _full_layers(vision)
    parts = [
        Part("vision", "embedding", 1, patches, 2.0 * inputs * d),
        *(
            Part("vision", "attention", n, times, 8.0 * n * d * d + 4.0 * n * n * d)
            for n, times in sorted(runs.items()) if times
        ),
        Part("vision", "mlp", 1, patches * vision.layers, mlp),
        Part("projector", "merger", unit, tokens, merged),
    ]  # fmt: skip
    if vision.deepstack:
        times = tokens * vision.deepstack
        parts.append(Part("projector", "deepstack merger", unit, times, merged))
    return parts


def _full_layers(vision: PackedVision) -> int:
    return len(vision.whole) if vision.window else vision.layers


def _windows(rows: int, cols: int, side: int) -> list[int]:
    """Tokens of each attention window; those at the right and lower edge are smaller."""
    if not side:
        return []
    heights = [min(side, rows - top) for top in range(0, rows, side)]
    widths = [min(side, cols - left) for left in range(0, cols, side)]
    return [high * wide for high in heights for wide in widths]


def packed_module(family: Packed, shape: ModelShape, name: str, tokens: int) -> tuple[Any, Any]:
    """The library's own module behind a part, at its true size, and inputs for it."""
    import importlib

    import torch
    from torch import nn

    vision = shape.vision
    assert isinstance(vision, PackedVision)
    d = vision.hidden
    if name == "embedding":
        side = (vision.frames, vision.patch, vision.patch)
        pixels = torch.zeros(1, vision.channels, *side)
        return nn.Conv3d(vision.channels, d, side, stride=side, bias=False), (pixels,)
    library, block, merger = family.modules
    found = importlib.import_module(f"transformers.models.{library}.modeling_{library}")
    sizes: dict[str, Any] = {"depth": 1, "num_heads": 1, family.width: d, "hidden_act": "silu",
             "intermediate_size": vision.ffn}  # fmt: skip
    if family.width == "embed_dim":
        sizes["mlp_ratio"] = vision.ffn // d
    sizes["hidden_size" if family.width == "embed_dim" else "out_hidden_size"] = shape.hidden
    config = family.config_class()().vision_config.__class__(**sizes)
    with torch.device("meta"):
        if "merger" in name:
            states = torch.empty(tokens, d)
            return getattr(found, merger)(*family.merger_arguments(config, name)), (states,)
        layer: Any = getattr(found, block)(config)
        states = torch.empty(tokens, d)
        return (layer.mlp if name == "mlp" else _alone(layer.attn, vision.heads)), (states,)


def _alone(attention: Any, heads: int) -> Any:
    """The attention of a packed tower on one run of patches, its rotary embedding left out."""
    import torch
    from torch import nn

    class OneRun(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = attention.qkv, attention.proj

        def forward(self, states: Any) -> Any:
            n, d = states.shape
            parts = self.qkv(states).view(1, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
            query, key, value = parts[0], parts[1], parts[2]
            out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
            return self.proj(out.transpose(1, 2).reshape(n, d))

    return OneRun()
