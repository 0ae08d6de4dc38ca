"""Finds the parts of a LLaVA-family model that routing needs, and refuses what it cannot route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from harness.common.errors import UsageError
from harness.families.catalog import FAMILIES, completed
from harness.families.family import Family
from methods.base import Method, MethodError, ModelInfo

_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


class EngineError(UsageError, RuntimeError):
    """Something the engine cannot do exactly; the message is one line for the user."""


@dataclass(frozen=True)
class Parts:
    """References into an unmodified model; nothing here is a copy."""

    model: Any  # ...ForConditionalGeneration
    family: Family
    inner: Any  # joins vision features and text embeddings
    text: Any  # the decoder without head
    layers: nn.ModuleList
    tower: Any
    tower_layers: nn.ModuleList | None
    image_token: int
    info: ModelInfo

    @property
    def projector(self) -> Any:
        """What makes decoder states of tower states."""
        return self.family.projector(self.model)

    @property
    def config(self) -> Any:
        """Config of the decoder."""
        return self.text.config


def find_parts(model: nn.Module) -> Parts:
    """Locate decoder, tower and image token; :class:`EngineError` says what is missing."""
    said = getattr(getattr(model, "config", None), "model_type", None)
    family = FAMILIES.get(str(said), FAMILIES["llava"])  # one that is not known is refused below
    text = family.decoder(model)
    if text is None:
        raise EngineError(f"{type(model).__name__} is no model of a family that works here")
    try:
        config = completed(model.config.to_dict(), type(model).__name__)
    except UsageError as error:
        raise EngineError(str(error)) from None
    for name in ("layers", "norm", "rotary_emb"):
        if not hasattr(text, name):
            raise EngineError(f"{type(text).__name__} is not a Llama-like decoder: no '{name}'")
    for layer in text.layers:
        parts = {name for name, _ in layer.named_children()}
        if parts != _LAYER_PARTS or hasattr(layer, "residual_multiplier"):
            raise EngineError(f"{type(layer).__name__} is not a Llama-like decoder layer")
    tower_layers = family.tower_layers(model)
    return Parts(
        model=model,
        family=family,
        inner=family.inner(model),
        text=text,
        layers=text.layers,
        tower=family.tower(model),
        tower_layers=tower_layers,
        image_token=family.image_token(config),
        info=_info(family, config, tower_layers),
    )


def model_info(model: nn.Module) -> ModelInfo:
    """Depth, width and head sizes of a model, as methods need them."""
    return find_parts(model).info


def backend(config: Any) -> str:
    """``sdpa``, ``eager`` or ``flash``, from the decoder's attention setting."""
    name = str(getattr(config, "_attn_implementation", None) or "eager")
    if name in ("sdpa", "eager"):
        return name
    if "flash" in name and "paged" not in name:
        return "flash"
    raise EngineError(f"attention backend '{name}' is not supported: use sdpa, eager or flash")


def check_method(parts: Parts, method: Method) -> None:
    """Raise MethodError or :class:`EngineError` where a method cannot run on this model."""
    method.fits(parts.info)
    if parts.family.whole_grid and method.merge_layers(parts.info):
        raise MethodError(
            f"{method.name}: merges patches inside the vision tower, which joins a second one "
            f"patch by patch in {parts.family.kind}: choose a method that acts behind it"
        )
    if method.reads_tower:
        feature_layer(parts)


def feature_layer(parts: Parts) -> int:
    """Tower layer whose output the projector of a model reads, from 0; `EngineError` if none is."""
    try:
        return parts.family.feature_layer(parts.model.config, parts.info.tower_layers)
    except UsageError as error:
        raise EngineError(str(error)) from None


def _info(
    family: Family, config: Mapping[str, Any], tower_layers: nn.ModuleList | None
) -> ModelInfo:
    info = family.info(family.shape(config, "model"))
    return replace(info, tower_layers=len(tower_layers) if tower_layers is not None else 0)
