"""p-MoD as released (`pmod_llava_llama`): LLaVA's names, routed layers' behind `decoder_layer`.

`model.layers.i.router.router.{weight,bias}` is layer i's predictor. The schedule is recomputed from
the config and must route exactly the layers that have one. The code's curve ends at 31 whatever the
depth, which is the last layer at 32.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import one_line
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
from harness.model.convert.parts import expect
from methods import build
from methods.base import Method, MethodError, ModelInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

ROUTER = re.compile(r"model\.layers\.(\d+)\.router\.router\.(weight|bias)")
WRAPPED = re.compile(r"(model\.layers\.\d+\.)decoder_layer\.(.+)")
DECAY = re.compile(r"shifted(cos|linear)_decay_([\d.]+)_([\d.]+)")
NORM = re.compile(r"(tanh|sigmoid|none)(?:_([\d.]+)_([\d.]+))?")
SPANS = {"deep_all": "deep", "deep_all_include_last": "deep_last"}
LAST = 31  # the released curve's denominator


class PModLayout(MethodLayout):
    """A dense LLaVA-1.5 or 1.6 and a checkpoint of `pmod`."""

    name: ClassVar[str] = "p-MoD"

    def claims(self, source: Source) -> bool:
        return source.config.get("model_type") == "pmod_llava_llama"

    def dense(self, source: Source) -> Source:
        return source.with_config(model_type="llava_llama")

    def wrapped(self, source: Source, target: Target) -> Target:
        try:
            method = build("pmod", params(source))
        except MethodError as error:
            raise source.refuse(one_line(error)) from None

        def finish(found: dict[str, Tensor], info: ModelInfo) -> tuple[Method, nn.Module | None]:
            return method, filled(source, method, info, found)

        note = "its dense weights were trained under p-MoD: without it they answer worse"
        return replace(
            target,
            streams=rerouted(target, place),
            method=finish,
            notes=[*target.notes, note],
        )


def place(name: str, dense: Placing) -> Place | None:
    """Predictors go to the method, the rest where its name without `decoder_layer` goes."""
    router, inner = ROUTER.fullmatch(name), WRAPPED.fullmatch(name)
    if router:
        return Place(METHOD, f"{router[1]}.{router[2]}")
    return dense(inner[1] + inner[2] if inner else name)


def params(source: Source) -> dict[str, Any]:
    """The method's parameters by the config's fields. Raises UsageError for what is not read."""
    expect(source, "mod_target_token_type", ("vision_all",))
    expect(source, "mod_bias_enabled", (True,))
    found = {**_schedule(source), **_norm(source)}
    if source.config.get("num_hidden_layers") != LAST + 1 and "beta" in found:
        found["denominator"] = LAST
    return found


def _schedule(source: Source) -> dict[str, Any]:
    said, factor = source.config.get("mod_target_layers"), source.config.get("mod_router_factor")
    if not isinstance(factor, (int, float)) or isinstance(factor, bool):
        raise source.refuse(f"mod_router_factor is {shown(factor)}, expected a number")
    decay = DECAY.fullmatch(str(said))
    try:
        if decay:
            kind = {"cos": "cosine", "linear": "linear"}[decay[1]]
            most, least = float(decay[2]), float(decay[3])
            return {"schedule": kind, "beta": float(factor), "max": most, "min": least}
    except ValueError:
        pass
    if said in SPANS:
        return {"schedule": "constant", "span": SPANS[str(said)], "ratio": float(factor)}
    if said == "interleave":
        return {"schedule": "interleaved", "ratio": float(factor)}
    raise source.refuse(
        f"mod_target_layers is {shown(said)}; read are shiftedcos_decay_MAX_MIN, "
        f"shiftedlinear_decay_MAX_MIN, {', '.join(SPANS)} and interleave"
    )


def _norm(source: Source) -> dict[str, Any]:
    """A bare name has scale 1 and bias 1. Softmax there runs over all tokens, not the image's."""
    said = source.config.get("mod_weight_norm")
    if said == "tanh_0.2_1":  # the method's own default
        return {"norm": "tanh"}
    found = NORM.fullmatch(str(said))
    if found is None:
        raise source.refuse(
            f"mod_weight_norm is {shown(said)}; read are tanh, sigmoid and none, each bare or as "
            "NAME_SCALE_BIAS"
        )
    try:
        return {"norm": found[1], "scale": float(found[2] or 1), "bias": float(found[3] or 1)}
    except ValueError:
        raise source.refuse(f"mod_weight_norm is {shown(said)}: no numbers in it") from None
