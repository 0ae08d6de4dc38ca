"""Generated tokens of a method that leaves them alone: the model's own layers, one after the other.

What the layers need beside the states is made once for all of them. Layers that hold the same
tokens form a group and share a mask and rotary tables; the tables of all groups come from one call.
Nothing is asked of the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.engine.block import Rotary
from harness.engine.cache import LayerState, RoutedCache
from harness.engine.masks import step_mask
from harness.engine.model import Parts
from harness.engine.positions import PositionIds
from methods.base import Method

ROOM = 64  # columns by which a table of valid keys grows, so that a step copies none
ASKS = ("dynamic", "longrope")  # rotary tables that depend on the largest position of a call


def leaves_alone(method: Method) -> bool:
    """Whether every layer processes every generated token, unscaled."""
    return getattr(method.decode, "__func__", None) is Method.decode


def run_untouched(
    parts: Parts, kind: str, hidden: Tensor, positions: PositionIds, cache: RoutedCache,
    extra: dict[str, Any],
) -> Tensor:  # fmt: skip
    """Normed states [B, q, d] of new tokens [B, q, d] behind a cache, which grows by them."""
    if cache.decoding is None:
        cache.decoding = Decoding(cache, len(hidden), hidden.device)
    return cache.decoding.run(parts, kind, hidden, positions, cache, extra)


@dataclass
class Group:
    """Layers whose caches hold the same tokens."""

    state: LayerState
    columns: int  # that each of them holds
    seen: Tensor | None  # [B, columns + room] bool, True behind ``columns``; None = all real
    held: Tensor  # [B, 1] long, tokens of each row

    def keys(self, length: int) -> Tensor | None:
        """[B, length] bool: the columns that hold a token, new ones included; None = all."""
        if self.seen is None:
            return None
        if length > self.seen.shape[1]:
            more = self.seen.new_ones(self.seen.shape[0], length - self.seen.shape[1] + ROOM)
            self.seen = torch.cat([self.seen, more], dim=1)
        return self.seen[:, :length]


class Decoding:
    """The decode steps behind one prompt, until rows of the cache move."""

    def __init__(self, cache: RoutedCache, rows: int, device: torch.device) -> None:
        known: dict[Any, int] = {}
        self.groups: list[Group] = []
        self.of_layer: list[int] = []
        for layer, state in enumerate(cache.states):
            columns = cache.stored(layer)
            key = (id(state.valid), id(state.shift), columns, state.compact)
            if key not in known:
                known[key] = len(self.groups)
                if state.valid is None:
                    held = torch.full((rows, 1), columns, device=device)
                else:
                    held = state.valid.sum(dim=1, keepdim=True)
                self.groups.append(Group(state, columns, state.valid, held))
            self.of_layer.append(known[key])
        # New positions are the running ones less a shift, or counted by the group on its own.
        zero = torch.zeros((rows, 1), dtype=torch.long, device=device)
        shifts = [g.state.shift for g in self.groups]
        self.plain = not any(g.state.compact for g in self.groups) and len(self.groups) == 1
        self.plain = self.plain and shifts[0] is None
        self.shift = torch.cat([zero if shift is None else shift for shift in shifts])
        self.compact = any(g.state.compact for g in self.groups)
        own = [torch.full_like(zero, g.state.compact, dtype=torch.bool) for g in self.groups]
        self.own, self.held = torch.cat(own), torch.cat([g.held for g in self.groups])

    def run(
        self, parts: Parts, kind: str, hidden: Tensor, positions: PositionIds, cache: RoutedCache,
        extra: dict[str, Any],
    ) -> Tensor:  # fmt: skip
        """As :func:`run_untouched`."""
        queries = hidden.shape[1]
        tables, masks = self._rotary(parts, hidden, positions), []
        for group in self.groups:
            length = group.columns + queries
            keys = group.keys(length)
            masks.append(step_mask(kind, hidden.dtype, hidden.device, keys, length, queries))
            group.columns = length
        for layer, which in zip(parts.layers, self.of_layer, strict=True):
            hidden = layer(
                hidden, attention_mask=masks[which], position_embeddings=tables[which],
                past_key_values=cache, **extra,
            )  # fmt: skip
        self.held = self.held + queries
        return parts.text.norm(hidden)

    def settle(self, cache: RoutedCache) -> None:
        """Write down in the cache which of its columns hold a token by now."""
        states = [
            LayerState(g.keys(g.columns), g.state.compact, g.state.shift) for g in self.groups
        ]
        cache.states = [states[which] for which in self.of_layer]

    # --- positions --------------------------------------------------------------------------
    def _rotary(self, parts: Parts, hidden: Tensor, positions: PositionIds) -> list[Rotary]:
        """cos and sin of the new tokens, a pair a group."""
        if self.plain:
            return [positions.rotary(parts.text, hidden)]
        rows, count = hidden.shape[0], len(self.groups)
        given = positions.of_rows(rows).ids
        ids = given.repeat(*[1] * (given.dim() - 2), count, 1) - self.shift
        if self.compact:
            steps = torch.arange(hidden.shape[1], device=hidden.device)
            ids = torch.where(self.own, self.held + steps, ids)
        if getattr(parts.text.rotary_emb, "rope_type", "").startswith(ASKS):
            split = ids.split(rows, dim=-2)
            return [PositionIds(one).rotary(parts.text, hidden) for one in split]
        cos, sin = PositionIds(ids).rotary(parts.text, hidden)
        return list(zip(cos.split(rows, dim=-3), sin.split(rows, dim=-3), strict=True))
