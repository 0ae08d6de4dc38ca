"""Onlookers: a method listened to, decisions played again, tokens counted a second time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from methods.base import Decision, Drop, Merge


@dataclass
class Noted:
    """One answer of a method, and the running sequence as it stood when it was asked."""

    layer: int  # -1: before the first one
    decision: Drop | Merge | Any
    valid: Tensor  # [B, m] bool
    image: Tensor  # [B, m] bool
    index: Tensor  # [B, m] long

    @property
    def kept(self) -> Tensor:
        """[B, m] bool: tokens that are processed in their own slot."""
        if isinstance(self.decision, Merge):
            columns = torch.arange(self.valid.shape[1])
            return self.valid & (self.decision.assign == columns)
        keep = self.decision.keep
        return self.valid if keep is None else self.valid & keep


class Watched:
    """Stands in for a method and notes what it answers in the prompt."""

    def __init__(self, method: Any) -> None:
        self.method = method
        self.noted: list[Noted] = []
        self.running: list[Tensor] = []  # original columns of the sequence, asked at every layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def before(self, seq: Any) -> Decision:
        return self._note(-1, seq, self.method.before(seq))

    def layer(self, layer: int, seq: Any) -> Decision:
        self.running.append(seq.index.masked_fill(~seq.valid, -1))
        return self._note(layer, seq, self.method.layer(layer, seq))

    def _note(self, layer: int, seq: Any, decision: Decision) -> Decision:
        if decision is not None:
            self.noted.append(Noted(layer, decision, seq.valid, seq.image, seq.index))
        return decision


class Replayed:
    """Stands in for a method and answers what it answered before, whatever it sees now."""

    def __init__(self, watched: Watched) -> None:
        self.method = watched.method
        self.answers = {noted.layer: noted.decision for noted in watched.noted}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def before(self, seq: Any) -> Decision:
        return self._answer(-1, seq)

    def layer(self, layer: int, seq: Any) -> Decision:
        return self._answer(layer, seq)

    def _answer(self, layer: int, seq: Any) -> Decision:
        decision = self.answers.get(layer)
        if isinstance(decision, Merge) and decision.states is not None:
            # New states are the image's; text beside it is what runs now.
            states = torch.where(seq.image.unsqueeze(-1), decision.states, seq.hidden)
            return replace(decision, states=states)
        return decision


@contextmanager
def counted(layers: Any) -> Iterator[dict[str, list[int]]]:
    """Tokens that go through the attention output and the MLP of every decoder layer, summed.

    The two linear layers that no method has a reason to call itself.
    """
    found = {"attention": [0] * len(layers), "mlp": [0] * len(layers)}
    handles = []
    for i, layer in enumerate(layers):
        for part, module in (
            ("attention", layer.self_attn.o_proj),
            ("mlp", getattr(layer.mlp, "down_proj", layer.mlp)),  # or all experts of the layer
        ):

            def count(_m: Any, args: Any, i: int = i, part: str = part) -> None:
                found[part][i] += args[0].shape[:-1].numel()

            handles.append(module.register_forward_pre_hook(count))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
