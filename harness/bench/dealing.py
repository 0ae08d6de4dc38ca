"""How the batches of a cell are dealt to the processes that answer it. No torch.

The batches are composed once, of all requests in their order, and numbered: the same for any
number of processes, and for a cell that goes on. Whoever is free takes the next number, so that
unequal batches and devices balance by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

from harness.bench.request import Request


class ShareDone(Exception):
    """A process that is not the first has answered its share: nothing is left for it to do."""


class Dealer(Protocol):
    """One cell's dealing, as one process sees it."""

    @property
    def number(self) -> int:
        """Of this process, from 0: the first one merges and scores."""

    def take(self) -> int:
        """The number of the next batch that nobody has yet.

        Raises CellError when the cell has failed elsewhere.
        """

    def answered(self, requests: int, seconds: float) -> int:
        """Tell of a finished batch; returns the requests answered by all since they began."""

    def close(self, notes: Sequence[str]) -> list[str]:
        """Wait until every share is answered; returns the notes of all.

        Raises ShareDone in every process but the first, and CellError when another one failed.
        """


class Alone:
    """The dealer of a single process: it gets everything."""

    number = 0

    def __init__(self) -> None:
        self._next, self._answered = 0, 0

    def take(self) -> int:
        self._next += 1
        return self._next - 1

    def answered(self, requests: int, seconds: float) -> int:
        self._answered += requests
        return self._answered

    def close(self, notes: Sequence[str]) -> list[str]:
        return list(notes)


def compose(order: Sequence[Request], size: int) -> list[list[Request]]:
    """Batches of at most ``size`` requests that are answered alike, in their order."""
    batches: list[list[Request]] = []
    for _, alike in groupby(order, key=lambda request: request.how):
        group = list(alike)
        batches += [group[i : i + size] for i in range(0, len(group), size)]
    return batches
