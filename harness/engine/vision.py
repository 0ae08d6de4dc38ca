"""Runs the vision tower: captures what methods ask for, or leaves it out altogether."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from harness.engine.arguments import check_tower
from harness.engine.model import EngineError, Parts, check_method, feature_layer
from harness.engine.shadow import shadowed
from harness.engine.tower import TowerMerge, merging
from methods.base import Crop, Method


@dataclass
class Captured:
    """What is kept of one pass of the tower, beside the features."""

    crops: list[Crop] = field(default_factory=list)
    merge: TowerMerge | None = None

    def attach(self, features: Any) -> Any:
        """Give the features along what was kept."""
        features.crops, features.merge = self.crops or None, self.merge
        return features


@contextmanager
def captured(parts: Parts, method: Method) -> Iterator[Captured]:
    """Collect a ``Crop`` for every square of pixels that goes through the tower, or merge there.

    Queries and keys are read where the layer's own projections make them, so the tower keeps its
    fast attention kernel.
    """
    with merging(parts, method) as merge:
        found = Captured(merge=merge)
        if merge is not None or not method.reads_tower:
            yield found
            return
        if parts.tower_layers is None:
            raise EngineError("this vision tower has no CLIP-type layers to read attention from")
        depth, taps = len(parts.tower_layers), method.taps(parts.info)
        seen: dict[Any, Tensor] = {}

        def keep(key: Any, _module: Any, _inputs: Any, output: Any) -> None:
            seen[key] = (output[0] if isinstance(output, tuple) else output).detach()

        modules: dict[Any, Any] = {
            "states": parts.tower_layers[feature_layer(parts.model.config, depth)]
        }
        for layer in taps:
            attention = parts.tower_layers[layer].self_attn
            modules |= {(layer, "q"): attention.q_proj, (layer, "k"): attention.k_proj}
        hooks = [m.register_forward_hook(functools.partial(keep, k)) for k, m in modules.items()]
        hooks.append(
            parts.tower.register_forward_hook(
                lambda *_: found.crops.extend(_crops(parts, taps, seen))
            )
        )
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()


def _crops(parts: Parts, taps: tuple[int, ...], seen: dict[Any, Tensor]) -> list[Crop]:
    heads = int(parts.model.config.vision_config.num_attention_heads)
    return [
        Crop(
            states,
            {x: (seen[x, "q"][i], seen[x, "k"][i]) for x in taps},
            heads,
            parts.info.class_tokens,
        )
        for i, states in enumerate(seen["states"])
    ]


@contextmanager
def no_tower(parts: Parts) -> Iterator[None]:
    """Tower and projector give zeros of the right shape without running."""
    projector = parts.projector
    width = int(parts.model.config.text_config.hidden_size)

    def tower(pixel_values: Tensor, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        check_tower(kwargs)
        vision = parts.model.config.vision_config
        rows = pixel_values.shape[-2] // vision.patch_size
        cols = pixel_values.shape[-1] // vision.patch_size
        tokens = parts.info.class_tokens + rows * cols
        shape = (pixel_values.shape[0], tokens, vision.hidden_size)
        states = pixel_values.new_zeros(shape)
        depth = int(vision.num_hidden_layers) + 1
        return BaseModelOutputWithPooling(last_hidden_state=states, hidden_states=(states,) * depth)

    def project(features: Tensor) -> Tensor:
        return features.new_zeros(*features.shape[:-1], width)

    with shadowed(parts.tower, "forward", tower), shadowed(projector, "forward", project):
        yield


def encode_images(
    model: Any, pixel_values: Tensor, image_sizes: Any = None, method: Any = None
) -> Any:
    """Image features once, for ``generate(..., mm_encoder_outputs={"image": features})``.

    ``method``: also keep what this method reads from the tower, as ``.crops``, and merge what it
    merges there. Each image's features are otherwise what the model itself would make.
    """
    from harness.engine.model import find_parts

    parts = find_parts(model)
    check_method(parts, method or Method())
    extra = {} if image_sizes is None else {"image_sizes": image_sizes}
    with captured(parts, method or Method()) as found:
        out = parts.inner.get_image_features(pixel_values=pixel_values, return_dict=True, **extra)
    found.attach(out)
    out.extents = image_sizes
    return out
