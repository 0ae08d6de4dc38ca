"""Several continuations of one prompt: each is fed behind the same cache, then taken back.

Keys and values of the prompt are neither copied nor changed: feeding makes longer tensors beside
them. What is fed goes the way of generated tokens, with the positions ``generate`` would give them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.engine.model import EngineError
from harness.engine.run import Run


class Branches:
    """Behind the last prompt of ``run``; ``mask`` [B, n] is the prompt's, 0 at padding."""

    def __init__(self, run: Run, mask: Tensor) -> None:
        if run.cache is None or run.ended_at is None:
            raise EngineError("nothing to go on from: run a prompt with a cache first")
        self.run, self.mask, self.cache, self.ended_at = run, mask, run.cache, run.ended_at

    @contextmanager
    def fed(self, ids: Tensor) -> Iterator[Tensor | None]:
        """Logits [B, q, V] behind new tokens ``ids`` [B, q], None for q = 0.

        While open, ``run.records`` speaks of prompt and these tokens.
        """
        cache, recorder = self.cache, self.run.recorder
        cache.settle()
        held = [(one, one.is_initialized, one.keys, one.values) for one in cache.layers]
        states, length = cache.states, cache.global_length
        mark = recorder.mark() if recorder is not None else None
        try:
            yield self._logits(ids) if ids.shape[1] else None
        finally:
            del cache.layers[len(held) :]
            for one, filled, keys, values in held:
                one.is_initialized, one.keys, one.values = filled, keys, values
            cache.decoding, cache.states, cache.global_length = None, states, length
            if recorder is not None and mark is not None:
                recorder.back(mark)

    def _logits(self, ids: Tensor) -> Tensor:
        steps = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        out = self.run.parts.model(
            input_ids=ids,
            attention_mask=torch.cat([self.mask, torch.ones_like(ids)], dim=1),
            position_ids=self.ended_at.to(ids.device) + steps,
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = out.logits
        return logits
