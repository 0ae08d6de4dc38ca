"""Answering the batches of a cell: dealt, halved where they do not fit, written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from harness.bench.dealing import Dealer
from harness.bench.forms import Form
from harness.bench.generation import Generator
from harness.bench.request import Request
from harness.common.errors import CellError, HarnessError
from harness.store.response_log import Answer, Batch, ResponseLog

OUT_OF_MEMORY = "out of memory"
NAMED = 4  # samples of a failed batch that its error names
OnBatch = Callable[[int, int], None]  # answered requests, all requests
Keep = Callable[[Request, Any], Answer]


class Batches:
    """Answers in one form; ``size`` is what a batch holds by now, ``notes`` say when it shrank."""

    def __init__(
        self,
        form: Form,
        generator: Generator,
        dealer: Dealer,
        keep: Keep,
        size: int,
        seed: int,
        on_batch: OnBatch | None,
        device: torch.device,
    ) -> None:
        self.form, self.generator, self.dealer, self.keep = form, generator, dealer, keep
        self.device = device
        self.size, self.seed, self.notes = size, seed, list[str]()
        self.on_batch = on_batch or (lambda answered, everything: None)

    def answer(self, batches: list[list[Request]], log: ResponseLog, everything: int) -> set[int]:
        """Answer what is left of the batches that are dealt to this process; returns what it did.

        A batch that does not fit in memory is halved, and so are those that follow.
        """
        before, mine = len(log), set[int]()
        self.on_batch(before, everything)
        while (number := self.dealer.take()) < len(batches):
            left = [request for request in batches[number] if request.position not in log]
            while left:
                batch = left[: self.size]
                done = self._one(batch)
                if done is None:
                    self._halve(len(batch), batch[0])
                    continue
                log.append(done)
                mine.update(done.positions)
                left = left[len(batch) :]
                answered = self.dealer.answered(len(batch), done.seconds)
                self.on_batch(min(before + answered, everything), everything)
        return mine

    def _one(self, batch: list[Request]) -> Batch | None:
        """A batch's answers; None when memory ran out."""
        started = time.perf_counter()
        # The same draw for the same batch, whether or not others ran before it.
        torch.manual_seed((self.seed * 1_000_003 + batch[0].position) % 2**63)
        outputs = self._try(batch)
        if outputs is None:
            return None
        answers = tuple(self.keep(r, o) for r, o in zip(batch, outputs, strict=True))
        positions = tuple(r.position for r in batch)
        return Batch(positions, answers, self.size, time.perf_counter() - started)

    def _try(self, batch: list[Request]) -> Any:
        """The batch's outputs, or None when memory ran out.

        The exception is left behind before anything is retried: its traceback holds tensors.
        """
        try:
            return self.form.answer(self.generator, batch)
        except Exception as error:
            if not is_out_of_memory(error):
                if not isinstance(error, HarnessError):  # ours name it themselves
                    error.add_note(_where(batch, self.generator.label))
                raise
        _free_memory(self.device)
        return None

    def _halve(self, size: int, first: Request) -> None:
        self.generator.forget_features()
        if size == 1:
            raise CellError(
                f"method {self.generator.label}: out of memory on {self.device} at batch size 1, "
                f"sample {first.name}"
            )
        self.size = size // 2
        self.notes.append(f"{OUT_OF_MEMORY} at batch size {size}, halved to {self.size}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return OUT_OF_MEMORY in text or "can't allocate memory" in text


def _free_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _where(batch: Sequence[Request], label: str) -> str:
    """Of which samples an error comes; a batch is not taken apart to find the one."""
    names = [request.name for request in batch]
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" * (len(names) > NAMED))
    return f"method {label}, sample {shown}" if len(names) == 1 else f"method {label}, in {shown}"
