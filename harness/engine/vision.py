"""Runs the vision tower: captures what methods ask for, or leaves it out altogether."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.engine.model import EngineError, Parts
from methods.base import MethodError


@contextmanager
def captured_cls(parts: Parts, layer: int | None) -> Iterator[list[Tensor]]:
    """Collect the CLS attention rows of one tower layer, [heads, patches] per crop.

    Only that row is formed, from the layer's own query and key projections, so the tower keeps
    its fast attention kernel.
    """
    rows: list[Tensor] = []
    if layer is None:
        yield rows
        return
    if parts.tower_layers is None:
        raise EngineError("this vision tower has no CLIP-type layers to read attention from")
    depth = len(parts.tower_layers)
    if not -depth <= layer < depth:
        raise MethodError(f"tower layer {layer} does not exist: the tower has {depth}")
    attention = parts.tower_layers[layer].self_attn
    seen: dict[str, Tensor] = {}

    def keep(name: str, _module: Any, _inputs: Any, output: Tensor) -> None:
        seen[name] = output.detach()
        if len(seen) == 2:
            rows.extend(_cls_rows(attention, seen.pop("q"), seen.pop("k")))

    hooks = [
        attention.q_proj.register_forward_hook(functools.partial(keep, "q")),
        attention.k_proj.register_forward_hook(functools.partial(keep, "k")),
    ]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def _cls_rows(attention: Any, query: Tensor, key: Tensor) -> list[Tensor]:
    heads = attention.num_heads
    crops, length, width = query.shape
    size = width // heads
    q = query[:, 0].view(crops, heads, 1, size)
    k = key.view(crops, length, heads, size).permute(0, 2, 3, 1)
    scores = (torch.matmul(q, k) * size**-0.5)[:, :, 0]
    rows = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1)
    return list(rows[:, :, 1:])


@contextmanager
def no_tower(parts: Parts) -> Iterator[None]:
    """Tower and projector give zeros of the right shape without running."""
    projector = parts.inner.multi_modal_projector
    width = int(parts.model.config.text_config.hidden_size)

    def tower(pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        vision = parts.model.config.vision_config
        rows = pixel_values.shape[-2] // vision.patch_size
        cols = pixel_values.shape[-1] // vision.patch_size
        shape = (pixel_values.shape[0], rows * cols + 1, vision.hidden_size)
        states = pixel_values.new_zeros(shape)
        depth = int(vision.num_hidden_layers) + 1
        return BaseModelOutputWithPooling(last_hidden_state=states, hidden_states=(states,) * depth)

    def project(features: Tensor) -> Tensor:
        return features.new_zeros(*features.shape[:-1], width)

    with shadowed(parts.tower, "forward", tower), shadowed(projector, "forward", project):
        yield


@contextmanager
def shadowed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Shadow a method on this one object; whatever the object held before comes back."""
    had = name in owner.__dict__
    before = owner.__dict__.get(name)
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if had:
            object.__setattr__(owner, name, before)
        else:
            object.__delattr__(owner, name)


def encode_images(
    model: Any, pixel_values: Tensor, image_sizes: Any = None, tower_layer: int | None = None
) -> Any:
    """Image features once, for ``generate(..., mm_encoder_outputs={"image": features})``.

    ``tower_layer``: also keep the CLS attention rows of that tower layer as ``.cls_rows``, for
    methods that select by them. Each image's features are what the model itself would make.
    """
    from harness.engine.model import find_parts

    parts = find_parts(model)
    extra = {} if image_sizes is None else {"image_sizes": image_sizes}
    with captured_cls(parts, tower_layer) as rows:
        out = parts.inner.get_image_features(pixel_values=pixel_values, return_dict=True, **extra)
    out.cls_rows = rows if tower_layer is not None else None
    out.image_sizes = image_sizes
    return out
