"""Reads the tower of packed patches: queries and keys of chosen layers, image by image.

The tower makes queries, keys and values by one fused layer, turns the first two by each patch's row
and column, and (Qwen2.5-VL) runs tokens in the order of attention windows. Here they are tapped
behind the fused layer, turned by the library's own function, sorted back and split by image; the
tower itself runs as it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from methods.crop import Crop


@contextmanager
def reading(tower: Any, library: str, layers: Sequence[int], found: list[Crop]) -> Iterator[None]:
    """While open, a pass of ``tower`` adds a ``Crop`` of every image to ``found``.

    ``library``: the library's module name, whose rotary function turns queries and keys.
    """
    module = importlib.import_module(f"transformers.models.{library}.modeling_{library}")
    seen: dict[Any, Any] = {}

    def keep(key: Any, _module: Any, _args: Any, out: Any) -> None:
        seen[key] = (out[0] if isinstance(out, tuple) else out).detach()

    def note(layer: int, _module: Any, _args: Any, given: dict[str, Any]) -> None:
        seen[layer, "turn"], seen[layer, "runs"] = given["position_embeddings"], given["cu_seqlens"]

    def collect(_module: Any, args: Any, given: dict[str, Any], _out: Any) -> None:
        grid = given["grid_thw"] if "grid_thw" in given else args[1]
        found.extend(_crops(tower, grid, layers, seen, module.apply_rotary_pos_emb_vision))
        seen.clear()

    with ExitStack() as stack:
        hooks = [tower.blocks[-1].register_forward_hook(partial(keep, "states"))]
        for layer in layers:
            attention = tower.blocks[layer].attn
            hooks += [
                attention.qkv.register_forward_hook(partial(keep, (layer, "qkv"))),
                attention.register_forward_pre_hook(partial(note, layer), with_kwargs=True),
            ]
        hooks.append(tower.register_forward_hook(collect, with_kwargs=True))
        for hook in hooks:
            stack.callback(hook.remove)
        yield


def _crops(
    tower: Any, grid: Tensor, layers: Sequence[int], seen: dict[Any, Any], turn: Any
) -> list[Crop]:
    """Of every image, in raster order of its tokens, a token's patches together."""
    config, states = tower.config, seen["states"]
    unit, heads = config.spatial_merge_size**2, int(config.num_heads)
    lengths = [high * wide * frames for frames, high, wide in grid.tolist()]
    whole, order = getattr(tower, "fullatt_block_indexes", None), None
    if whole is not None:
        index, _ = get_vision_window_index(
            grid, config.spatial_merge_size, config.window_size, config.patch_size
        )
        order = index.to(states.device).argsort()

    def split(run: Tensor) -> tuple[Tensor, ...]:
        if order is not None:
            run = run.unflatten(0, (-1, unit))[order].flatten(0, 1)
        return run.split(lengths)

    taps, windows = {}, {}
    for layer in layers:
        query, key, _ = seen[layer, "qkv"].unflatten(1, (3, heads, -1)).unbind(1)
        query, key = turn(query, key, *seen[layer, "turn"])
        taps[layer] = split(query.flatten(1)), split(key.flatten(1))
        if whole is not None and layer % len(tower.blocks) not in whole:
            sizes = seen[layer, "runs"].diff().long()
            numbers = torch.arange(len(sizes), device=sizes.device)
            runs = numbers.repeat_interleave(sizes, output_size=sum(lengths))
            windows[layer] = split(runs.to(states.device))
    return [
        Crop(
            states=of_image,
            taps={layer: (query[i], key[i]) for layer, (query, key) in taps.items()},
            heads=heads,
            class_tokens=0,
            joined=torch.arange(len(of_image), device=states.device).view(-1, unit),
            windows={layer: runs[i] for layer, runs in windows.items()},
        )
        for i, of_image in enumerate(split(states))
    ]
