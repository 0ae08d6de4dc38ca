"""Sampled answers that neither batch nor resume changes: each row draws from a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from harness.bench.request import GenerationKwargs

# In the order in which the library applies them.
WARPERS: tuple[tuple[str, Any], ...] = (
    ("temperature", TemperatureLogitsWarper),
    ("top_k", lambda k: TopKLogitsWarper(int(k))),
    ("top_p", TopPLogitsWarper),
)


class Draw(LogitsProcessor):
    """Draws each row's next token and leaves greedy choice nothing else.

    ``names``: what a row's draws are seeded by, with ``seed``. A token is found where a uniform
    number falls among the probabilities in the vocabulary's order, so that the last bits of
    logits, which a batch does change, move it no more than they move probabilities.
    """

    def __init__(self, how: GenerationKwargs, seed: int, names: Sequence[str]) -> None:
        asked = dict(how.sampling)
        self.warpers = [make(asked[name]) for name, make in WARPERS if asked.get(name)]
        self.rows = [Random(f"{seed} {name}") for name in names]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        heaped = scores.float().softmax(dim=-1).cumsum(dim=-1)
        drawn = torch.tensor([[row.random()] for row in self.rows], device=scores.device)
        chosen = torch.searchsorted(heaped, drawn * heaped[:, -1:], right=True)
        chosen = chosen.clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)
