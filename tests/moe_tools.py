"""Tiny random MoE-LLaVA models, and their experts written down a second time."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from harness.families.catalog import FAMILIES
from tests.tiny import BOS, EOS, IMAGE, PAD, VOCAB, _finish, vision_config

DECODERS = ["llama", "mistral", "qwen2", "stablelm"]


def tiny_moe(
    text: str = "llama",
    layers: int = 4,
    dtype: torch.dtype = torch.float32,
    attn: str = "sdpa",
    seed: int = 0,
    **extra: Any,
) -> Any:
    """A random MoE-LLaVA of width 32: experts in every second layer, 16 tokens an image."""
    family = FAMILIES["moe_llava"]
    decoder = {
        "model_type": text, "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 24,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "bos_token_id": BOS, "eos_token_id": EOS,
        "pad_token_id": PAD,
    }  # fmt: skip
    if text == "mistral":
        decoder["sliding_window"] = None
    config = family.config_class()(
        text_config=decoder,
        vision_config=vision_config().to_dict(),
        image_token_index=IMAGE,
        image_seq_length=16,
        **extra,
    )
    model = family.model_class()._from_config(config, attn_implementation=attn)
    return _finish(model, seed, dtype, scale=0.3)


class OneByOne(nn.Module):
    """A layer's experts, token by token and number by number, from the description in the paper."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, states: Tensor) -> Tensor:
        rows = [self.one(row) for row in states.reshape(-1, states.shape[-1])]
        return torch.stack(rows).view(states.shape)

    def one(self, row: Tensor) -> Tensor:
        experts = self.mlp.experts
        scores = [math.exp(float(gate @ row)) for gate in self.mlp.gate.weight]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        first, second = order[:2]
        total = torch.zeros_like(row)
        for expert in (first, second):
            share = scores[expert] / (scores[first] + scores[second])
            half = len(experts.gate_up_proj[expert]) // 2
            gate, up = experts.gate_up_proj[expert][:half], experts.gate_up_proj[expert][half:]
            inner = gate @ row
            inner = inner / (1 + torch.exp(-inner)) * (up @ row)
            total = total + share * (experts.down_proj[expert] @ inner)
        return total


def one_by_one(model: Any) -> Any:
    """A model of the same weights whose experts are `OneByOne`."""
    twin = copy.deepcopy(model)
    for layer in twin.model.language_model.layers:
        if hasattr(layer.mlp, "gate"):
            layer.mlp = OneByOne(layer.mlp)
    return twin
