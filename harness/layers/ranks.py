"""Ranks of attention maps, head by head: the two definitions of γ-MoD's ARank.

- `logits` (paper Eq. 5): rank of (x W_Q)(x W_K)^T, without rotation, scale or mask;
- `probs` (released code): rank of the causal softmax map with its diagonal set to zero.

Both in float32 with the default tolerance of `torch.linalg.matrix_rank`, N * eps * sigma_max. x is
the layer's normed input, N the sample's real tokens. A rank is not normalised by N: its scale
follows the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from harness.engine.block import Rotary, attention_rows, query_key

Variant = Literal["logits", "probs"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
MAP_BYTES = 256 * 2**20  # float32 maps held at once; heads are taken in groups of that size


def head_ranks(
    attention: Any, states: Tensor, rotary: Rotary, variants: Sequence[Variant]
) -> dict[Variant, list[int]]:
    """The rank of every query head's map, of one layer and one sample.

    Args:
        attention: the layer's `self_attn`.
        states: [n, d] normed input of the layer, real tokens only.
        rotary: cos and sin, [n, head_dim] each.
        variants: which definitions.

    Returns:
        variant -> ranks in the order of the query heads. Keys are repeated over query groups.
    """
    found: dict[Variant, list[int]] = {}
    batched = states.unsqueeze(0)
    turn = rotary[0].unsqueeze(0), rotary[1].unsqueeze(0)
    if "logits" in variants:
        found["logits"] = _product_ranks(
            _split(attention, "q", states), _split(attention, "k", states)
        )
    if "probs" in variants:
        q = query_key(attention, batched, turn, "q", attention.head_dim)[0].float()
        k = query_key(attention, batched, turn, "k", attention.head_dim)[0].float()
        found["probs"] = _map_ranks(attention, q, _repeated(k, q))
    return found


def _split(attention: Any, which: str, states: Tensor) -> Tensor:
    """float32 [heads, n, head_dim] of x W."""
    projected = (attention.q_proj if which == "q" else attention.k_proj)(states)
    return projected.view(states.shape[0], -1, attention.head_dim).transpose(0, 1).float()


def _repeated(keys: Tensor, queries: Tensor) -> Tensor:
    return keys.repeat_interleave(queries.shape[0] // keys.shape[0], dim=0)


def _product_ranks(q: Tensor, k: Tensor) -> list[int]:
    """Ranks of q k^T [heads, n, n], from the triangular factors where these are smaller.

    With q = Q1 R1 and k = Q2 R2 the map is Q1 (R1 R2^T) Q2^T: the same singular values, in a
    matrix of head_dim rows. The tolerance stays that of the n x n map.
    """
    n, width = q.shape[1:]
    if n <= width:
        values = torch.linalg.svdvals(q @ _repeated(k, q).mT)
    else:
        upper, lower = torch.linalg.qr(q, mode="r").R, torch.linalg.qr(k, mode="r").R
        values = torch.linalg.svdvals(upper @ _repeated(lower, upper).mT)
    tolerance = n * torch.finfo(values.dtype).eps * values.amax(dim=1, keepdim=True)
    return (values > tolerance).sum(dim=1).tolist()


def _map_ranks(attention: Any, q: Tensor, k: Tensor) -> list[int]:
    """Ranks of the causal softmax maps without their diagonal; `q`, `k` [heads, n, head_dim]."""
    heads, n = q.shape[:2]
    group = max(1, MAP_BYTES // (4 * n * n))
    causal = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    ranks: list[int] = []
    for start in range(0, heads, group):
        part = slice(start, start + group)
        maps = attention_rows(attention, q[None, part], k[None, part], causal[None, None])[0]
        maps.diagonal(dim1=1, dim2=2).zero_()
        ranks += torch.linalg.matrix_rank(maps).tolist()
    return ranks
