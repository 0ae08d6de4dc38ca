"""What is watched while a batch is generated: NaN logits and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

TAIL = 8  # tokens more than a stop string has characters: enough to find it at the end


def first_stop(text: str, stops: Sequence[str]) -> int:
    """Where the first stop string begins, or the length of the text."""
    return min([len(text), *(text.index(stop) for stop in stops if stop in text)])


class NanWatch(LogitsProcessor):
    """Notes rows with NaN logits, without asking the device before the batch is done."""

    def __init__(self) -> None:
        self.flags: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.flags.append(torch.isnan(scores).any(dim=-1))
        return scores

    def first_bad(self) -> dict[int, int]:
        """Row -> first step with a NaN, for the rows that had one."""
        if not self.flags:
            return {}
        bad = torch.stack(self.flags, dim=1)
        return {
            row: int(bad[row].to(torch.uint8).argmax())
            for row in bad.any(dim=1).nonzero().flatten().tolist()
        }


class StopOnText(StoppingCriteria):
    """Ends a row when its new text contains a stop string; ``ended`` says after how many tokens."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], start: int) -> None:
        self.tokenizer, self.stops, self.start = tokenizer, stops, start
        self.tail = max((len(stop) for stop in stops), default=0) + TAIL
        self.ended: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        new = input_ids[:, self.start :]
        texts = self.tokenizer.batch_decode(new[:, -self.tail :], skip_special_tokens=True)
        for row, text in enumerate(texts):
            if row not in self.ended and any(stop in text for stop in self.stops):
                self.ended[row] = int(new.shape[1])
        done = [row in self.ended for row in range(len(texts))]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)
