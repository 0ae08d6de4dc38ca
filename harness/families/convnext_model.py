"""transformers' ConvNeXt as LLaVA-HR and Mini-Gemini use it: feature maps, no head.

Imports torch: asked for only when a model is built.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

# Both come from timm, where only the large models are trained with another epsilon than 1e-6;
# transformers reads no epsilon from the config but for the norm that is not used here.
EPSILON = {3072: 1e-5}


def convnext(config: Any) -> Any:
    """A ``ConvNextModel`` without its last norm, every other norm at its family's epsilon."""
    from transformers import AutoModel
    from transformers.models.convnext.modeling_convnext import ConvNextLayerNorm

    config = copy.deepcopy(config)
    config._attn_implementation = "eager"  # it has no attention, and refuses a kernel for it
    model = AutoModel.from_config(config)
    model.layernorm = nn.Identity()
    for module in model.modules():
        if isinstance(module, ConvNextLayerNorm):
            module.eps = EPSILON.get(config.hidden_sizes[-1], 1e-6)
    return model


def stages(model: Any, pixels: Tensor) -> list[Tensor]:
    """Maps [n, width, side, side] behind every stage, for pixels [n, 3, p, p]."""
    states = model.embeddings(pixels)
    found = []
    for stage in model.encoder.stages:
        states = stage(states)
        found.append(states)
    return found


def resized(x: Tensor, side: int, **how: Any) -> Tensor:
    """``x`` [n, c, h, w] at side x side, at least in single precision, in its own dtype again.

    ``how``: mode and corners, as ``torch.nn.functional.interpolate`` takes them.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return nn.functional.interpolate(wide, size=(side, side), **how).to(x.dtype)
