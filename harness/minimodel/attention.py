"""Attention of packed questions: an image's prefix once, and every question sees it and itself.

The mask of `harness.minimodel.packing` is mostly empty: with 149 tokens of prefix and 320 of
questions, seven in ten of its entries are masked. Here the prefix attends causally to itself, and
the questions, in windows of `WINDOW` tokens, to the prefix and to their own window and the one
before. The numbers are those of the full mask (a test holds them against it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

WINDOW = 64  # tokens; a question may be one token longer than that
PLAIN = (
    256  # patches of a tower that attend to each other as plain products; beyond, fused is faster
)


def window_mask(block_of: Tensor) -> Tensor:
    """Bool [B, T / WINDOW, WINDOW, 2 * WINDOW], True = may attend, from question numbers [B, T].

    The keys are those of the window before and of the window itself. Equal numbers are one
    question; -1 is padding, which sees the prefix only.
    """
    rows = block_of.view(len(block_of), -1, WINDOW)
    before = torch.cat([torch.full_like(rows[:, :1], -1), rows[:, :-1]], dim=1)
    keys = torch.cat([before, rows], dim=2)
    same = (rows[..., :, None] == keys[..., None, :]) & (rows >= 0)[..., None]
    at = torch.arange(2 * WINDOW)
    return same & (at <= at[WINDOW:, None])


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """`query` [B, h, n, d]; the last T of the n tokens are questions, T from `window_mask`."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    windows = attention_mask.shape[1]
    start = query.shape[2] - windows * WINDOW
    causal = torch.ones(start, start, dtype=torch.bool, device=query.device).tril()
    first = query[:, :, :start] @ key[:, :, :start].mT * scaling
    low = torch.finfo(first.dtype).min  # under autocast not the queries' type
    first = first.masked_fill(~causal, low).softmax(-1, dtype=torch.float32).to(query.dtype)
    prefix = first @ value[:, :, :start]

    asked = query[:, :, start:]
    near_keys, near_values = (_windows(t[:, :, start:], windows) for t in (key, value))
    far = asked @ key[:, :, :start].mT * scaling
    near = asked.unflatten(2, (windows, WINDOW)) @ near_keys.mT * scaling
    near = near.masked_fill(~attention_mask[:, None], low)
    scores = torch.cat([far.unflatten(2, (windows, WINDOW)), near], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    seen = weights[..., :start].flatten(2, 3) @ value[:, :, :start]
    own = (weights[..., start:] @ near_values).flatten(2, 3)
    return torch.cat([prefix, seen + own], dim=2).transpose(1, 2), None


def _windows(states: Tensor, windows: int) -> Tensor:
    """[B, h, T, d] -> [B, h, windows, 2 * WINDOW, d]: each window behind the one before it."""
    own = states.unflatten(2, (windows, WINDOW))
    before = torch.cat([torch.zeros_like(own[:, :, :1]), own[:, :, :-1]], dim=2)
    return torch.cat([before, own], dim=3)


def tower_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of a Qwen2.5-VL tower: states [1, h, N, d] of the windows (or images) that end at
    `cu_seq_lens_q`. Those of one length, as in a batch of one size, are one product."""
    lengths, states = cu_seq_lens_q.diff().tolist(), (query, key, value)
    if len(set(lengths)) == 1:
        windows = [t.unflatten(2, (len(lengths), -1)) for t in states]
        seen = _attend(windows, scaling).flatten(2, 3)
    else:
        chunks = zip(*(t.split(lengths, dim=2) for t in states), strict=True)
        seen = torch.cat([_attend(chunk, scaling) for chunk in chunks], dim=2)
    return seen.transpose(1, 2), None


def _attend(states: Sequence[Tensor], scaling: float) -> Tensor:
    """Of queries, keys and values [..., n, d], without a mask."""
    query, key, value = states
    if query.shape[-2] > PLAIN:
        # Of four axes: of five the library takes its slow form, with all scores in memory.
        flat = (t.flatten(0, -4).transpose(0, 1) for t in (query, key, value))
        fused = nn.functional.scaled_dot_product_attention(*flat, scale=scaling)
        return fused.transpose(0, 1).reshape(query.shape)
    scores = query @ key.mT * scaling
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


AttentionInterface.register("packed", packed_attention)
# By "flash" in its name the library knows what takes all windows in one call.
TOWER = "tower_flash"
AttentionInterface.register(TOWER, tower_attention)
