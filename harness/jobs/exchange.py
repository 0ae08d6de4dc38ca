"""What the processes of one run say to each other: short texts in the launcher's key-value store.

No tensor is ever gathered: answers go through the logs in the run directory, so there is no process
group, no collective and no barrier. Who waits looks twenty times a second, at whether the other
process lives and whether it gets on; both have a time limit. torch is imported by `join`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

from harness.bench.dealing import ShareDone
from harness.common.errors import (
    CellError,
    HarnessError,
    SaidElsewhere,
    StoreError,
    UsageError,
    one_line,
)
from harness.common.ranks import Rank

LOOK = 0.05  # seconds between two looks
BEAT = 1.0  # seconds between two signs of life
SILENT = 60.0  # seconds without one after which a process is gone
PATIENCE = 600.0  # seconds without progress after which it hangs, at least
SLOWEST = 20  # so many times the slowest batch seen, if that is longer
MEET = 300.0  # seconds for all to come to the meeting place


class RankError(StoreError):
    """A process of the run is gone or hangs: the run ends, finished batches are kept."""


class Exchange:
    """All processes of a run, as one of them sees them."""

    def __init__(self, rank: Rank, store: Any, timeout: float | None = None) -> None:
        self.rank, self.timeout = rank, timeout
        self._store = store
        self._slowest, self._steps = 0.0, 0
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    @property
    def others(self) -> list[int]:
        return [number for number in range(self.rank.count) if number != self.rank.number]

    # --- texts ------------------------------------------------------------------------------------
    def tell(self, key: str, value: Any) -> None:
        """Leave a JSON-able value for whoever asks for it."""
        with self._reaching():
            self._store.set(key, json.dumps(value))

    def look(self, key: str) -> Any:
        """What was left under a key; None while there is nothing."""
        with self._reaching():
            return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def hear(self, key: str, of: int = 0) -> Any:
        """What rank ``of`` leaves under a key, waited for.

        Raises RankError when that process is gone or hangs, SaidElsewhere when it ended the run.
        """
        watch = _Watch(self, of)
        while (found := self.look(key)) is None:
            watch.look()
            time.sleep(LOOK)
        return found

    def count(self, key: str, more: int = 1) -> int:
        """Add to a number that all share; returns what it is then."""
        with self._reaching():
            return int(self._store.add(key, more))

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's DistError is one
            raise RankError(
                f"rank {self.rank.number}: the place where the processes meet is gone "
                f"({one_line(error, 80)})"
            ) from None

    # --- signs of life ----------------------------------------------------------------------------
    def __enter__(self) -> Exchange:
        clone = self._store.clone()

        def beat() -> None:
            number = 0
            with suppress(RuntimeError):  # the store is gone: so is the run
                while not self._ended.wait(0 if number == 0 else BEAT):
                    number += 1
                    clone.set(f"alive/{self.rank.number}", str(number))

        self._beating = threading.Thread(target=beat, daemon=True)
        self._beating.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        if self._beating is not None:
            self._beating.join(timeout=BEAT)

    def step(self, doing: str, seconds: float = 0.0) -> None:
        """Say that this process gets on, and what it is doing; ``seconds``: of a batch."""
        self._steps += 1
        self._slowest = max(self._slowest, seconds)
        self.tell(f"step/{self.rank.number}", [self._steps, doing, self._slowest])

    def patience(self, slowest: float) -> float:
        """Seconds without progress after which a process hangs."""
        if self.timeout is not None:
            return self.timeout
        return max(PATIENCE, SLOWEST * max(slowest, self._slowest))

    # --- ends -------------------------------------------------------------------------------------
    def end(self, code: int, error: BaseException | None = None) -> None:
        """Tell the others that this process ends the run, and why."""
        why = ["", ""] if error is None else [type(error).__name__, one_line(error, 1000)]
        with suppress(HarnessError):
            self.tell(f"end/{self.rank.number}", [*why, code])

    def linger(self) -> None:
        """Stay until the first process has ended: a launcher ends all when one ends in failure."""
        until = time.monotonic() + SILENT
        with suppress(HarnessError):
            watch = _Watch(self, 0)
            while time.monotonic() < until:
                watch.look()
                time.sleep(LOOK)


class _Watch:
    """Watches one process while something of it is waited for."""

    def __init__(self, exchange: Exchange, number: int) -> None:
        self.exchange, self.number = exchange, number
        self._alive: Any = None
        self._step: Any = None
        self._lived = self._moved = time.monotonic()

    def look(self) -> None:
        """Raise RankError for a process that is gone or hangs, SaidElsewhere where it said so."""
        exchange, now = self.exchange, time.monotonic()
        if (end := exchange.look(f"end/{self.number}")) is not None:
            raise_as(end, self.number)
        alive = exchange.look(f"alive/{self.number}")
        step = exchange.look(f"step/{self.number}")
        if alive != self._alive:
            self._alive, self._lived = alive, now
        if step != self._step:
            self._step, self._moved = step, now
        doing, slowest = (step[1], step[2]) if step else ("starting", 0.0)
        limit = exchange.patience(slowest)
        silent = min(SILENT, limit) if self._alive is not None else max(MEET, limit)
        if now - self._lived > silent:
            self._fail(f"gone or stopped: no sign of life for {silent:.0f} s", doing)
        # The first process writes, scores and draws at its own pace.
        if self.number != 0 and now - self._moved > limit:
            self._fail(f"hanging: no progress for {limit:.0f} s (--rank-timeout)", doing)

    def _fail(self, what: str, doing: str) -> NoReturn:
        raise RankError(
            f"rank {self.number} of {self.exchange.rank.count} is {what}, last seen {doing}"
        )


def raise_as(end: Sequence[Any], number: int) -> NoReturn:
    """What rank ``number`` ended with, as an error here."""
    kind, line, code = end
    if number == 0:
        said = SaidElsewhere(line)
        said.exit_code = code
        raise said
    raise (UsageError if kind == "UsageError" else RankError)(f"rank {number}: {line}")


class CellDealer:
    """Deals the batches of one cell; see `harness.bench.dealing.Dealer`."""

    def __init__(self, exchange: Exchange, cell_id: str, name: str) -> None:
        self.exchange, self.cell, self.name = exchange, cell_id, name
        self.number = exchange.rank.number
        self._batches = 0

    def take(self) -> int:
        self._raise_failure()
        return self.exchange.count(f"{self.cell}/next") - 1

    def answered(self, requests: int, seconds: float) -> int:
        self._batches += 1
        self.exchange.step(f"answering {self.name}, batch {self._batches}", seconds)
        return self.exchange.count(f"{self.cell}/answered", requests)

    def close(self, notes: Sequence[str]) -> list[str]:
        if self.number != 0:
            self.exchange.tell(f"{self.cell}/share/{self.number}", list(notes))
            raise ShareDone
        found = dict.fromkeys(notes)
        for other in self.exchange.others:
            watch = _Watch(self.exchange, other)
            while (theirs := self.exchange.look(f"{self.cell}/share/{other}")) is None:
                self._raise_failure()
                watch.look()
                time.sleep(LOOK)
            found |= dict.fromkeys(theirs)
        return list(found)

    def fail(self, error: BaseException, trace: str = "") -> None:
        """Tell the others that the cell failed here; the first to say so is heard."""
        if self.exchange.count(f"{self.cell}/failures") == 1:
            said = [self.number, one_line(error), trace]
            self.exchange.tell(f"{self.cell}/failure", said)

    @property
    def trace(self) -> str:
        """Of an unexpected error in another process; empty where there was none."""
        failure = self.exchange.look(f"{self.cell}/failure")
        return failure[2] if failure and failure[0] != self.number else ""

    def _raise_failure(self) -> None:
        failure = self.exchange.look(f"{self.cell}/failure")
        if failure is not None and failure[0] != self.number:
            raise CellError(f"rank {failure[0]}: {failure[1]}" if failure[2] else failure[1])


def join(rank: Rank, timeout: float | None = None, meet: float = MEET) -> Exchange:
    """Come to the meeting place. Raises RankError when there is none within ``meet`` seconds.

    ``timeout``: seconds without progress after which another process hangs; None: see `patience`.
    """
    from torch.distributed import PrefixStore, TCPStore

    keeps = rank.leads and not rank.agent
    wait = timedelta(seconds=meet)
    try:
        meeting = TCPStore(
            rank.host, rank.port, is_master=keeps, timeout=wait, wait_for_workers=False
        )
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"rank {rank.number}: no meeting place at {rank.host}:{rank.port} within "
            f"{meet:.0f} s ({one_line(error, 80)})"
        ) from None
    return Exchange(rank, PrefixStore(f"modsuite/{rank.attempt}", meeting), timeout)
