"""Vision towers under a family: sizes, class token, and the library's classes for their layers.

Torch-free until a class is asked for. Library defaults as in `harness.families.decoders`.
"""

from __future__ import annotations

from typing import Any

from harness.families.decoders import Sizes
from harness.families.shapes import ModelShape

CLIP = "clip_vision_model"
TOWERS: dict[str, Sizes] = {
    "clip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 32,
    },
    "siglip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 16,
        "vision_use_head": True,
    },
}
# Tokens in front of the patches, and the select strategy under which only patches are left.
CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
PATCHES_ONLY = {"clip_vision_model": "default", "siglip_vision_model": "full"}
# Class names of the layers, which sharded training may not split.
LAYERS = {"clip_vision_model": "CLIPEncoderLayer", "siglip_vision_model": "SiglipEncoderLayer"}

CLIP_L_336: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
SIGLIP_SO400M: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}


def tower_layers(tower: Any) -> Any:
    """The layers of a tower of these types, as a ModuleList; None where they are not found.

    With or without the ``vision_model`` level of older releases.
    """
    return getattr(getattr(whole(tower), "encoder", None), "layers", None)


def whole(tower: Any) -> Any:
    """The module that holds embeddings and encoder."""
    return getattr(tower, "vision_model", tower)


def tower_config(kind: str, width: int, ffn: int) -> Any:
    """The library's config of one layer of a tower of this kind, under sdpa."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        kind,
        hidden_size=width,
        intermediate_size=ffn,
        num_attention_heads=1,  # does not change the count
        attn_implementation="sdpa",
    )


def encoder_layer(kind: str, width: int, ffn: int) -> Any:
    """One layer of a tower of this kind, on the current default device."""
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer
    from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

    layers = {"clip_vision_model": CLIPEncoderLayer, "siglip_vision_model": SiglipEncoderLayer}
    return layers[kind](tower_config(kind, width, ffn))


def pooling_head(kind: str, width: int, ffn: int) -> Any:
    """SigLIP's pooling head, likewise."""
    from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

    return SiglipMultiheadAttentionPoolingHead(tower_config(kind, width, ffn))


def module_of(shape: ModelShape, name: str, tokens: int) -> tuple[Any, tuple[Any, ...]]:
    """(module, inputs) of a part that `harness.families.sight` counts, at its true size.

    On ``meta``, where it takes no memory, but the patch embedding: torch 2.13 cannot trace a
    convolution there, and this one is small.
    """
    import torch
    from torch import nn

    vision = shape.vision
    if name == "embedding":
        sizes = (vision.channels, vision.hidden, vision.patch, vision.patch)
        pixels = torch.zeros(1, vision.channels, vision.patch, vision.patch * tokens)
        return nn.Conv2d(*sizes, bias=False), (pixels,)
    with torch.device("meta"):
        if name == "projector":
            first = nn.Linear(shape.projector_in, shape.hidden)
            two = nn.Sequential(first, nn.GELU(), nn.Linear(shape.hidden, shape.hidden))
            return two, (torch.empty(1, tokens, shape.projector_in),)
        states = (torch.empty(1, tokens, vision.hidden),)
        if name == "head":
            return pooling_head(vision.kind, vision.hidden, vision.ffn), states
        layer: Any = encoder_layer(vision.kind, vision.hidden, vision.ffn)
        return (layer.mlp if name == "mlp" else _unmasked(layer.self_attn)), states


def _unmasked(attention: Any) -> Any:
    """A tower layer's attention without mask, as a module of one input."""
    from torch import nn

    class Unmasked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, states: Any) -> Any:
            return self.attention(states, attention_mask=None)[0]

    return Unmasked()


def stand_ins(config: Any, tower: Any, projector: Any) -> list[tuple[Any, Any]]:
    """`Family.stand_ins` of a tower of these types: zeros for every state, and for every token."""
    vision = config.vision_config
    width, ahead = int(config.text_config.hidden_size), CLASS_TOKENS[vision.model_type]

    def see(pixel_values: Any, **_: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        rows, cols = (side // vision.patch_size for side in pixel_values.shape[-2:])
        shape = (pixel_values.shape[0], ahead + rows * cols, vision.hidden_size)
        states = pixel_values.new_zeros(shape)
        depth = int(vision.num_hidden_layers) + 1
        return BaseModelOutputWithPooling(last_hidden_state=states, hidden_states=(states,) * depth)

    def project(features: Any) -> Any:
        return features.new_zeros(*features.shape[:-1], width)

    return [(tower, see), (projector, project)]
