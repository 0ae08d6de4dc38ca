"""Finds the parts of a LLaVA-family model that routing needs, and refuses what it cannot route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from methods.base import ModelInfo

_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


class EngineError(RuntimeError):
    """Something the engine cannot do exactly; the message is one line for the user."""


@dataclass(frozen=True)
class Parts:
    """References into an unmodified model; nothing here is a copy."""

    model: Any  # ...ForConditionalGeneration
    inner: Any  # joins vision features and text embeddings
    text: Any  # the decoder without head
    layers: nn.ModuleList
    tower: Any
    tower_layers: nn.ModuleList | None
    image_token: int
    info: ModelInfo

    @property
    def config(self) -> Any:
        """Config of the decoder."""
        return self.text.config


def find_parts(model: nn.Module) -> Parts:
    """Locate decoder, tower and image token; :class:`EngineError` says what is missing."""
    inner = getattr(model, "model", None)
    text = getattr(inner, "language_model", None)
    if inner is None or text is None:
        raise EngineError(f"{type(model).__name__} is not a LLaVA-family model")
    for name in ("layers", "norm", "rotary_emb"):
        if not hasattr(text, name):
            raise EngineError(f"{type(text).__name__} is not a Llama-like decoder: no '{name}'")
    for layer in text.layers:
        parts = {name for name, _ in layer.named_children()}
        if parts != _LAYER_PARTS or hasattr(layer, "residual_multiplier"):
            raise EngineError(f"{type(layer).__name__} is not a Llama-like decoder layer")
    _refuse_windows(text.config)
    token = getattr(model.config, "image_token_id", None)
    if token is None:
        token = getattr(model.config, "image_token_index", None)
    if token is None:
        raise EngineError(f"{type(model).__name__} names no image token id")
    tower = getattr(inner, "vision_tower", None)
    tower_layers = _tower_layers(tower)
    return Parts(
        model=model,
        inner=inner,
        text=text,
        layers=text.layers,
        tower=tower,
        tower_layers=tower_layers,
        image_token=int(token),
        info=_info(text, tower_layers, model.config),
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


def _info(text: Any, tower_layers: nn.ModuleList | None, whole: Any) -> ModelInfo:
    config = text.config
    vision: Any = getattr(whole, "vision_config", None)
    patch = int(getattr(vision, "patch_size", None) or 0)
    side = int(vision.image_size) // patch if patch else 0
    tiles = getattr(whole, "image_grid_pinpoints", None)
    heads = int(config.num_attention_heads)
    return ModelInfo(
        layers=len(text.layers),
        width=int(config.hidden_size),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        tower_layers=len(tower_layers) if tower_layers is not None else 0,
        tower_width=int(getattr(vision, "hidden_size", None) or 0),
        tower_side=side,
        image_tokens=0 if tiles else side**2,
    )


def _tower_layers(tower: Any) -> nn.ModuleList | None:
    """CLIP layers, with or without the ``vision_model`` level of older releases."""
    encoder = getattr(getattr(tower, "vision_model", tower), "encoder", None)
    return getattr(encoder, "layers", None)


def _refuse_windows(config: Any) -> None:
    types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    sliding = any("full" not in t for t in types) if types else window is not None
    if sliding:
        raise EngineError(
            f"sliding-window attention (window {window}) cannot be routed: "
            "load the model with text_config.sliding_window=None"
        )
