"""gamma-MoD as released: plain names and `model.layers.i.router.weight` [2, d] (skip, keep).

One router serves all routed layers. Files repeat it under each of them or hold it once; copies must
agree, and where they do not, the model has a router a layer. The layers are the config's
`mod.mod_layers_idx`. `capacity_factor` says nothing: it reads 0.5 whatever the ratio was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from harness.families.configs import shown
from harness.model.convert.layout import (
    METHOD,
    MethodLayout,
    Place,
    Placing,
    Source,
    Target,
    rerouted,
)
from harness.model.convert.modules import filled
from harness.model.convert.released import listed
from methods import build
from methods.base import Method, ModelInfo
from methods.placement import parse_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

ROUTER = re.compile(r"model\.layers\.(\d+)\.router\.weight")
DENSE = {"mod_llava_llama": "llava", "mod_mgm": "mgm"}  # model_type of the dense parent


class GammaLayout(MethodLayout):
    """Whatever dense layout its parent has, and a checkpoint of `gamma`."""

    name: ClassVar[str] = "gamma-MoD"

    def claims(self, source: Source) -> bool:
        return source.config.get("model_type") in DENSE

    def dense(self, source: Source) -> Source:
        return source.with_config(model_type=DENSE[str(source.config["model_type"])], mod=None)

    def wrapped(self, source: Source, target: Target) -> Target:
        layers = routed_layers(source)
        usual = layers == _numbers(
            "default", int(target.config["text_config"]["num_hidden_layers"])
        )
        notes = [
            "the ratio it was trained at is not in its files: gamma's ratio, which matters with "
            "rule=topk and in training only, stays at the default",
            "its dense weights were trained under gamma-MoD: without it they answer worse",
        ]
        if not usual:
            notes.append(f"it routes layers {listed_numbers(layers)}, not gamma-MoD's usual ones")

        def finish(found: dict[str, Tensor], info: ModelInfo) -> tuple[Method, nn.Module | None]:
            return _method(source, found, layers, info)

        return replace(
            target,
            streams=rerouted(target, place),
            method=finish,
            notes=[*target.notes, *notes],
        )


def place(name: str, dense: Placing) -> Place | None:
    """Routers go to the method under their layer's number."""
    found = ROUTER.fullmatch(name)
    return Place(METHOD, found[1]) if found else dense(name)


def routed_layers(source: Source) -> list[int]:
    """`mod.mod_layers_idx`, ascending. Raises UsageError where it is missing or switched off."""
    mod = source.config.get("mod")
    layers = mod.get("mod_layers_idx") if isinstance(mod, Mapping) else None
    depth = source.config.get("num_hidden_layers")
    good = isinstance(layers, list) and layers and isinstance(depth, int)
    if not good or any(type(i) is not int or not 0 <= i < depth for i in layers):  # type: ignore
        raise source.refuse(
            f"mod.mod_layers_idx is {shown(layers)}, expected a list of layer numbers below "
            f"num_hidden_layers ({shown(depth)})"
        )
    assert isinstance(mod, Mapping) and isinstance(layers, list)
    if mod.get("mod_enable") is False:
        raise source.refuse("mod.mod_enable is false: its routers are switched off")
    return sorted(set(layers))


def _method(
    source: Source, found: dict[str, Tensor], layers: list[int], info: ModelInfo
) -> tuple[Method, nn.Module | None]:
    import torch

    if not found:
        raise source.refuse("no router in it (model.layers.N.router.weight)")
    extra = {int(name) for name in found} - set(layers)
    if extra:
        raise source.refuse(
            f"routers in layers {listed_numbers(extra)}, which mod.mod_layers_idx does not name"
        )
    first, *rest = found.values()
    shared = all(value.shape == first.shape and torch.equal(value, first) for value in rest)
    lost = set(layers) - {int(name) for name in found}
    if lost and not shared:
        raise source.refuse(
            f"its routers differ from layer to layer, and layers {listed_numbers(lost)} have none"
        )
    usual = layers == _numbers("default", info.layers)
    values: dict[str, Any] = {
        "layers": "default" if usual else "+".join(map(str, layers)),
        "shared": shared,
    }
    coefficient = source.config["mod"].get("router_aux_loss_coef")
    if isinstance(coefficient, (int, float)) and not isinstance(coefficient, bool):
        values["aux"] = float(coefficient)
    method = build("gamma", values)
    modules = {"router.weight": first} if shared else {f"{k}.weight": v for k, v in found.items()}
    return method, filled(source, method, info, modules)


def _numbers(preset: str, depth: int) -> list[int]:
    return [i for i, routed in enumerate(parse_layers("gamma", preset, depth)) if routed]


def listed_numbers(numbers: object) -> str:
    """Layer numbers in order, the first few of many."""
    every = [f"{i:03d}" for i in numbers]  # type: ignore[attr-defined]
    return re.sub(r"\b0+(?=\d)", "", listed(every, 6))
