"""Single layers of a model as the counters of FLOPs want them: positional inputs, no cache object.

A layer is made on the current default device; on ``meta`` it takes no memory at any size.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from harness.engine.block import attention_rows, query_key
from harness.families.shapes import Mixture, ModelShape


class _Past:
    """The part of a cache that an attention layer asks for."""

    def __init__(self, past: torch.Tensor) -> None:
        self.past = past

    def update(self, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> Any:
        return torch.cat([self.past, key], 2), torch.cat([self.past, value], 2)


class Behind(nn.Module):
    """A decoder layer behind a cache, with the positional inputs a tracer wants."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Any, cos: Any, sin: Any, past: Any, mask: Any) -> Any:
        angles = (cos, sin)
        return self.layer(
            hidden, position_embeddings=angles, attention_mask=mask, past_key_values=_Past(past)
        )


class Rows(nn.Module):
    """A decoder layer's attention rows as the engine forms them for a method.

    `asked` [1, q, d] are the states whose rows are wanted, `states` [1, n, d] all running ones.
    """

    def __init__(self, layer: nn.Module, head_dim: int) -> None:
        super().__init__()
        self.attention: Any = layer.self_attn
        self.head_dim = head_dim

    def forward(self, asked: Any, states: Any, turn: Any, turns: Any, allowed: Any) -> Any:
        query = query_key(self.attention, asked, (turn, turn), "q", self.head_dim)
        keys = query_key(self.attention, states, (turns, turns), "k", self.head_dim)
        return attention_rows(self.attention, query, keys, allowed)


class Chosen(nn.Module):
    """An MLP of experts: its gate, and the layer's MLP once for every expert that a token meets.

    Which expert each is does not change the count, and a tracer cannot follow it.
    """

    def __init__(self, mlp: nn.Module, width: int, mixture: Mixture) -> None:
        super().__init__()
        self.mlp, self.chosen = mlp, mixture.chosen
        self.gate = nn.Linear(width, mixture.experts, bias=False)

    def forward(self, states: Any) -> Any:
        shares = self.gate(states).softmax(dim=-1)
        made = shares[..., :1] * self.mlp(states)
        for i in range(1, self.chosen):
            made = made + shares[..., i : i + 1] * self.mlp(states)
        return made


class Scores(nn.Module):
    """All attention rows of a tower layer from its queries and keys, one head (the same count)."""

    def forward(self, queries: Any, keys: Any) -> Any:
        return (queries @ keys.transpose(1, 2)).softmax(dim=-1)


class Products(nn.Module):
    """So many pairs of vectors [n, 1, w] and [n, w, 1], multiplied."""

    def forward(self, left: Any, right: Any) -> Any:
        return left @ right


class Distances(nn.Module):
    """How far apart so many pairs of vectors [n, 1, w] and [n, w, 1] are."""

    def forward(self, left: Any, right: Any) -> Any:
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(left, right.transpose(1, 2), compute_mode=mode)


class Alone(nn.Module):
    """A CLIP-type layer with nothing but its states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: Any) -> Any:
        return self.layer(states, attention_mask=None)


@dataclass(frozen=True)
class DecoderLike:
    """Makes decoder layers of one class and config; equal ones make equal layers."""

    layer: type[nn.Module]
    sizes: str  # the config as JSON
    config: Any = field(compare=False, repr=False)

    def __call__(self) -> nn.Module:
        return self.layer(self.config, 0)


def decoder_like(layer: nn.Module, config: Any) -> DecoderLike:
    """What makes a decoder layer of this one's own class, for `Referees`.

    Counted under sdpa whatever kernel runs, so that eager and fused kernels are never mixed.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = "sdpa"
    return DecoderLike(type(layer), config.to_json_string(use_diff=False), config)


def with_experts(layer: Any, shape: ModelShape) -> nn.Module:
    """A decoder layer whose MLP is that of the layers with experts."""
    assert shape.mixture is not None
    layer.mlp = Chosen(layer.mlp, shape.hidden, shape.mixture)
    return layer


def rotary_width(attention: Any, head_dim: int) -> int:
    """Numbers of a head that the rotary table of a decoder's layer turns."""
    return int(getattr(attention, "rotary_ndims", head_dim))


def llama_layer(shape: ModelShape) -> nn.Module:
    """One Llama decoder layer at the sizes of `shape`, on the current default device.

    Where an MLP has two matrices (Phi's), without Llama's gate.
    """
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        attn_implementation="sdpa",
    )
    layer = LlamaDecoderLayer(config, 0)
    if shape.mlp_matrices == 2:
        up = nn.Linear(shape.hidden, shape.ffn, bias=False)
        layer.mlp = nn.Sequential(up, nn.GELU(), nn.Linear(shape.ffn, shape.hidden, bias=False))
    return layer
