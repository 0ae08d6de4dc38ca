"""Ranks of attention maps, head by head: the two definitions of γ-MoD's ARank.

- `logits` (paper Eq. 5): rank of (x W_Q)(x W_K)^T, without rotation, scale or mask;
- `probs` (released code): rank of the causal softmax map with its diagonal set to zero.

Both in float32 with the default tolerance of `torch.linalg.matrix_rank`, N * eps * sigma_max. x is
the layer's normed input, N the sample's real tokens. A rank is not normalised by N: its scale
follows the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
        q, k = (_split(attention, which, states) for which in "qk")
        found["logits"] = _by_heads(_product_ranks, q, k)
    if "probs" in variants:
        q, k = (
            query_key(attention, batched, turn, which, attention.head_dim)[0].float()
            for which in "qk"
        )
        found["probs"] = _by_heads(partial(_map_ranks, attention), q, k)
    return found


def _split(attention: Any, which: str, states: Tensor) -> Tensor:
    """float32 [heads, n, head_dim] of x W."""
    projected = (attention.q_proj if which == "q" else attention.k_proj)(states)
    return projected.view(states.shape[0], -1, attention.head_dim).transpose(0, 1).float()


def _by_heads(rank: Callable[[Tensor, Tensor], Tensor], q: Tensor, k: Tensor) -> list[int]:
    """`rank` of queries and keys [heads, n, head_dim], some heads at a time.

    On a CPU every core takes some heads in one thread: decompositions of this size share a
    matrix badly, and on busy cores their threads wait for each other (25 times as long, measured).
    """
    heads, n = q.shape[:2]
    k = k.repeat_interleave(heads // k.shape[0], dim=0)
    workers = torch.get_num_threads() if q.device.type == "cpu" else 1
    group = max(1, min(MAP_BYTES // (4 * n * n * workers), -(-heads // workers)))
    parts = list(zip(q.split(group), k.split(group), strict=True))
    if workers == 1:
        return torch.cat([rank(*part) for part in parts]).tolist()

    def alone(part: tuple[Tensor, Tensor]) -> Tensor:
        with torch.inference_mode():  # a state of each thread
            return rank(*part)

    torch.set_num_threads(1)
    try:
        # The setting is one of each thread: a new one would start with all cores again.
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(alone, parts))).tolist()
    finally:
        torch.set_num_threads(workers)


def _product_ranks(q: Tensor, k: Tensor) -> Tensor:
    """Ranks of q k^T [heads, n, n], from the triangular factors where these are smaller.

    With q = Q1 R1 and k = Q2 R2 the map is Q1 (R1 R2^T) Q2^T: the same singular values, in a
    matrix of head_dim rows. The tolerance stays that of the n x n map.
    """
    n, width = q.shape[1:]
    if n > width:
        q, k = (torch.linalg.qr(x, mode="r").R for x in (q, k))
    values = torch.linalg.svdvals(q @ k.mT)
    tolerance = n * torch.finfo(values.dtype).eps * values.amax(dim=1, keepdim=True)
    return (values > tolerance).sum(dim=1)


def _map_ranks(attention: Any, q: Tensor, k: Tensor) -> Tensor:
    """Ranks of the causal softmax maps [heads, n, n] without their diagonal."""
    n = q.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    maps = attention_rows(attention, q[None], k[None], causal[None, None])[0]
    maps.diagonal(dim1=1, dim2=2).zero_()
    return torch.linalg.matrix_rank(maps)
