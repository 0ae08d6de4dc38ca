"""One stock decoder layer, run whole or in its four parts, and attention rows taken from it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import Scope

Rotary = tuple[Tensor, Tensor]  # cos and sin, [B or 1, n, head_dim]


def run_layer(
    layer: Any,
    x: Tensor,
    mask: Tensor | None,
    rotary: Rotary,
    extra: dict[str, Any],
    weight: Tensor | None = None,
    scope: Scope = "mlp_branch",
) -> Tensor:
    """T(x) of a stock layer, with ``weight`` [B, n] applied where ``scope`` says.

    Without a weight the layer is called as it stands, hooks and gradient checkpointing included.
    """
    if weight is None:
        return layer(x, attention_mask=mask, position_embeddings=rotary, **extra)
    w = weight.unsqueeze(-1).to(x.dtype)
    if scope == "mlp_branch":
        call = partial(_weighted_mlp, layer, mask, rotary, extra)
        if layer.training and getattr(layer, "gradient_checkpointing", False):
            call = partial(
                layer._gradient_checkpointing_func,
                partial(_weighted_mlp, layer, mask, rotary, _uncached(extra)),
            )
        return call(x, w)
    y = layer(x, attention_mask=mask, position_embeddings=rotary, **extra)
    return w * y if scope == "layer_output" else x + w * (y - x)


def _uncached(extra: dict[str, Any]) -> dict[str, Any]:
    """A recomputed layer must not write to the cache twice."""
    return extra | {"past_key_values": None, "use_cache": False}


def _weighted_mlp(
    layer: Any,
    mask: Tensor | None,
    rotary: Rotary,
    extra: dict[str, Any],
    x: Tensor,
    w: Tensor,
) -> Tensor:
    normed = layer.input_layernorm(x)
    attended = layer.self_attn(
        hidden_states=normed, attention_mask=mask, position_embeddings=rotary, **extra
    )[0]
    h = x + attended
    return h + w * layer.mlp(layer.post_attention_layernorm(h))


def query_key(
    attention: nn.Module, states: Tensor, rotary: Rotary, which: str, head_dim: int
) -> Tensor:
    """Queries or keys of normed ``states`` [B, n, d] after RoPE, [B, heads, n, head_dim].

    A table narrower than a head turns its first numbers alone (partial rotary).
    """
    projection = attention.q_proj if which == "q" else attention.k_proj
    out = projection(states)
    out = out.view(*out.shape[:-1], -1, head_dim)
    norm = getattr(attention, f"{which}_norm", None)
    if norm is not None:
        out = norm(out)
    out = out.transpose(1, 2)
    cos, sin = rotary[0].unsqueeze(1), rotary[1].unsqueeze(1)
    width = cos.shape[-1]
    out, rest = out[..., :width], out[..., width:]
    half = width // 2
    turned = torch.cat((-out[..., half:], out[..., :half]), dim=-1)
    out = out * cos + turned * sin
    return torch.cat((out, rest), dim=-1) if rest.shape[-1] else out


def attention_rows(attention: nn.Module, queries: Tensor, keys: Tensor, allowed: Tensor) -> Tensor:
    """Softmax rows [B, heads, q, k] in float32 or better; ``allowed`` is [B, 1, q, k] bool.

    Keys are repeated over query groups (grouped-query attention).
    """
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
    scaling = getattr(attention, "scaling", queries.shape[-1] ** -0.5)
    scores = torch.matmul(queries, keys.transpose(2, 3)) * scaling
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
