"""LLaVA's model around two towers, and transformers' ConvNeXt as they use it: maps, no head.

Imports torch: asked for only when a model is built.
"""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

# Both come from timm, where only the large models are trained with another epsilon than 1e-6;
# transformers reads no epsilon from the config but for the norm that is not used here.
EPSILON = {3072: 1e-5}


def convnext(config: Any) -> Any:
    """A ``ConvNextModel`` without its last norm, every other norm at its family's epsilon."""
    from transformers import AutoModel
    from transformers.models.convnext.modeling_convnext import ConvNextLayerNorm

    config = copy.deepcopy(config)
    config._attn_implementation = "eager"  # it has no attention, and refuses a kernel for it
    model = AutoModel.from_config(config, trust_remote_code=False)
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


class TwoTowerModel(LlavaModel):
    """``vision_tower`` (both, of ``tower_class``), projector and decoder."""

    tower_class: ClassVar[Any]

    def __init__(self, config: Any) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.vision_tower = self.tower_class(config)
        self.multi_modal_projector = LlavaMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config, trust_remote_code=False)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """An output whose ``pooler_output`` lists [tokens, hidden] an image; pixels [n, 3, p, p].

        Raises ValueError for pixels of another size, and for readings that it does not give.
        """
        side = self.config.image_size
        if tuple(pixel_values.shape[-2:]) != (side, side):
            size = "x".join(map(str, pixel_values.shape[-2:]))
            raise ValueError(f"images of {size} pixels where the model sees {side}x{side}")
        for name in ("output_hidden_states", "output_attentions", "image_sizes"):
            if kwargs.get(name) is not None and kwargs[name] is not False:
                raise ValueError(f"{name} is not available on a model of two towers")
        states = self.vision_tower(pixel_values.to(self.dtype))
        features = list(self.multi_modal_projector(states))
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=features)


class TwoTowerForConditionalGeneration(LlavaForConditionalGeneration):
    """LLaVA's head on a `TwoTowerModel`."""

    inner_class: ClassVar[Any]
    _no_split_modules: ClassVar[list[str]] = ["Tower"]  # its parts feed one another all over

    def __init__(self, config: Any) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.model = self.inner_class(config)
        text: Any = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()
