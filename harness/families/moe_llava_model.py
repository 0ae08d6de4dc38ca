"""MoE-LLaVA as a model: LLaVA's class with experts in place of some MLPs. Imports torch.

The experts are Mixtral's, of transformers; the gate is not, because it decides in float32 or better
whatever the model's dtype is, as the released code's does.
"""

# transformers reads the annotations of these classes: they stay what they are, and not strings.
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
)
from transformers.models.mixtral.modeling_mixtral import MixtralExperts


class MoeLlavaConfig(LlavaConfig):
    """LLaVA's, and which decoder layers have how many experts.

    ``moe_layers_idx`` None: every second layer from the first.
    """

    model_type = "moe_llava"
    moe_layers_idx: list[int] | None = None
    num_local_experts: int = 4
    num_experts_per_tok: int = 2

    @property
    def mixed(self) -> list[int]:
        """The layers with experts."""
        depth = self.text_config.num_hidden_layers
        return list(range(0, depth, 2)) if self.moe_layers_idx is None else self.moe_layers_idx


class Gate(nn.Linear):
    """Which experts a token goes to: softmax over all of them, the largest few renormalised."""

    def __init__(self, width: int, experts: int, chosen: int) -> None:
        super().__init__(width, experts, bias=False)
        self.chosen = chosen

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Weights and indices of the experts, [n, chosen] each, for tokens [n, d]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        shares = nn.functional.linear(x.to(wide), self.weight.to(wide)).softmax(dim=-1)
        weights, chosen = shares.topk(self.chosen, dim=-1)
        return weights / weights.sum(dim=-1, keepdim=True), chosen


class ExpertMlp(nn.Module):
    """The MLP of a layer with experts, each of them the MLP that the decoder has elsewhere.

    Every token is served, padding too, and none by what else stands in the batch.
    """

    def __init__(self, text: Any, experts: int, chosen: int) -> None:
        super().__init__()
        sizes = MixtralConfig(
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            hidden_act=text.hidden_act,
            num_local_experts=experts,
            experts_implementation="eager",
        )
        self.gate = Gate(text.hidden_size, experts, chosen)
        self.experts = MixtralExperts(sizes)
        for value in self.parameters():
            nn.init.normal_(value, std=text.initializer_range)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, n, d] -> [B, n, d]."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        weights, chosen = self.gate(flat)
        return self.experts(flat, chosen, weights).view(hidden.shape)


class MoeLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """LLaVA with experts in the layers that its config names."""

    config: MoeLlavaConfig
    config_class = MoeLlavaConfig

    def __init__(self, config: MoeLlavaConfig) -> None:
        super().__init__(config)
        text = config.text_config
        for i, layer in enumerate(self.model.language_model.layers):
            if i in config.mixed:
                layer.mlp = ExpertMlp(text, config.num_local_experts, config.num_experts_per_tok)
            if isinstance(getattr(layer, "dropout", None), nn.Dropout):
                # StableLM's layer ends in a dropout of rate 0: no part that does anything, and the
                # engine runs layers of four parts.
                del layer.dropout
                layer.dropout = _same


def _same(states: Tensor) -> Tensor:
    return states


AutoConfig.register(MoeLlavaConfig.model_type, MoeLlavaConfig, exist_ok=True)
AutoModelForImageTextToText.register(
    MoeLlavaConfig, MoeLlavaForConditionalGeneration, exist_ok=True
)
