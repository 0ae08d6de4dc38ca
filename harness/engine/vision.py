"""Runs the vision tower: captures what methods ask for, shrinks images, or leaves it out."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from harness.engine.arguments import check_tower
from harness.engine.model import EngineError, Parts, check_method, feature_layer
from harness.engine.shadow import shadowed
from harness.engine.tower import TowerMerge, merging
from harness.families.shrinking import Saw
from methods.base import Crop, Method, on_device


@dataclass
class Captured:
    """What is kept of one pass of the tower, beside the features."""

    crops: list[Crop] = field(default_factory=list)
    merge: TowerMerge | None = None
    saw: Saw | None = None  # of every image, the smaller grid that the tower was shown

    def attach(self, features: Any) -> Any:
        """Give the features along what was kept."""
        features.crops, features.merge = self.crops or None, self.merge
        features.saw = self.saw
        return features


@contextmanager
def captured(parts: Parts, method: Method) -> Iterator[Captured]:
    """Collect a ``Crop`` for every square of pixels that goes through the tower, or merge there.

    Queries and keys are read where the layer's own projections make them, so the tower keeps its
    fast attention kernel.
    """
    with ExitStack() as stack:
        merge = stack.enter_context(merging(parts, method))
        found = Captured(merge=merge)
        if method.shrinks:
            found.saw = []
            for module, forward in parts.family.shrinking(parts.model, method.shrink, found.saw):
                stack.enter_context(shadowed(module, "forward", forward))
        if merge is not None or not method.reads_tower:
            yield found
            return
        if parts.tower_layers is None:
            raise EngineError("this vision tower has no CLIP-type layers to read attention from")
        taps = method.taps(parts.info)
        reading = parts.family.reading(parts.model, taps, found.crops)
        if reading is not None:
            with reading:
                yield found
            return
        seen: dict[Any, Tensor] = {}

        def keep(key: Any, _module: Any, _inputs: Any, output: Any) -> None:
            seen[key] = (output[0] if isinstance(output, tuple) else output).detach()

        modules: dict[Any, Any] = {"states": parts.tower_layers[feature_layer(parts)]}
        for layer in taps:
            query, key = parts.family.taps(parts.tower_layers[layer])
            modules |= {(layer, "q"): query, (layer, "k"): key}
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
    table = parts.family.blocks(parts.model.config)
    joined = None if table is None else on_device(table, seen["states"].device)
    return [
        Crop(
            states,
            {x: (seen[x, "q"][i], seen[x, "k"][i]) for x in taps},
            heads,
            parts.info.class_tokens,
            joined,
        )
        for i, states in enumerate(seen["states"])
    ]


@contextmanager
def no_tower(parts: Parts) -> Iterator[None]:
    """What sees pixels gives zeros of the right shape without running."""
    with ExitStack() as stack:
        for module, forward in parts.family.stand_ins(parts.model):
            stack.enter_context(shadowed(module, "forward", _checked(parts, forward)))
        yield


def _checked(parts: Parts, forward: Any) -> Any:
    """The stand-in, which refuses what would change the shape of what it stands for."""

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        known = parts.family.tower_arguments
        check_tower({name: value for name, value in kwargs.items() if name not in known})
        return forward(*args, **kwargs)

    return stand_in


def encode_images(
    model: Any, pixel_values: Tensor, image_sizes: Any = None, method: Any = None, **more: Any
) -> Any:
    """Image features once, for ``generate(..., mm_encoder_outputs={"image": features})``.

    ``method``: also keep what this method reads from the tower, as ``.crops``, and merge what it
    merges there. ``more``: what else the model's ``get_image_features`` takes of its images. Each
    image's features are otherwise what the model itself would make.
    """
    from harness.engine.model import find_parts

    parts = find_parts(model)
    check_method(parts, method or Method())
    given = {"image_sizes": image_sizes, **more}
    extra = {name: value for name, value in given.items() if value is not None}
    with captured(parts, method or Method()) as found:
        out = parts.inner.get_image_features(pixel_values=pixel_values, return_dict=True, **extra)
    found.attach(out)
    out.extents = extra.get(parts.family.extents or "")
    return out
