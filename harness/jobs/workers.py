"""`--jobs N`: the cells of a run by several processes of one machine, one a device.

The parent deals the cells one by one and is the only one that writes `cells.csv`, `run.json` and
tables; a worker answers a cell into the files that are the cell's own and hands its row back. So no
two compute one cell, a worker that dies leaves nothing but an unfinished cell (with its answers so
far), and the run directory is what one process would have made of it.

A worker is a fresh process of the same job: it finds and loads everything for itself, once.
"""

from __future__ import annotations

import copy
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import EXIT_USAGE, CellError, HarnessError, StoreError, UsageError
from harness.common.forecast import Part
from harness.common.progress import Progressing
from harness.common.stops import PROGRAM, heed
from harness.common.threads import in_use
from harness.jobs.cellrun import record_failure
from harness.jobs.devices import FLAG, environment, undisturbed
from harness.jobs.grid import Cell
from harness.jobs.planned import part_of
from harness.jobs.shards import by_weights
from harness.jobs.worker import AT, DISK, DONE, FAILED, IMAGES_LOCK, READY, REFUSED, SAY, serve
from harness.store.rundir import Store

if TYPE_CHECKING:
    from harness.jobs.benchmarks import Benchmarks

TRIES = 2  # of a cell whose process ends under it
LISTEN = 1.0  # seconds: an interrupt that the system gave another thread is seen so soon
PATIENCE = 5.0  # seconds that a process is given to end when it is told to


@dataclass
class _Worker:
    """One process as the parent knows it."""

    slot: int
    process: Any
    line: Connection
    ready: bool = False
    cell: Cell | None = None
    weights: Any = None  # of the cell it had last
    part: Part | None = None
    began: tuple[int, float] | None = None  # documents of its cell that were done first, and when


@dataclass
class Team:
    """The workers of one run. `start` loads the model in each, `answers` deals the cells."""

    job: Benchmarks
    out: Path
    environments: Sequence[dict[str, str]]
    workers: list[_Worker] = field(default_factory=list)
    _deaths: dict[str, int] = field(default_factory=dict)

    @property
    def described(self) -> dict[str, Any]:
        """What run.json says of it: how many processes, and on which GPUs."""
        gpus = [one["CUDA_VISIBLE_DEVICES"] for one in self.environments if one]
        return {"processes": len(self.environments), **({"gpus": gpus} if gpus else {})}

    # --- starting -----------------------------------------------------------------------------
    def start(self, show: Progressing) -> dict[str, Any]:
        """What the loaded model says of itself, for run.json, when every worker is ready.

        Each checks a part of the methods. Raises UsageError for what does not fit the model, and
        HarnessError where nothing could be loaded; no process is left then.
        """
        try:
            for slot, _ in enumerate(self.environments):
                self.workers.append(self._spawn(slot, (slot, len(self.environments))))
            loaded: dict[str, Any] = {}
            while any(not worker.ready for worker in self.workers):
                for worker, message in self._messages():
                    if message is None:
                        self._bury(worker)
                        show.warn(f"{PROGRAM}: {FLAG}: {_ended(worker)} while loading")
                    elif message[0] == READY:
                        worker.ready, loaded = True, loaded or message[1]
                    else:
                        _said(message, show)
            if not self.workers:
                raise HarnessError(f"{FLAG}: no process could load the model")
        except BaseException:
            self.close()
            raise
        return loaded

    def _spawn(self, slot: int, checks: tuple[int, int] | None) -> _Worker:
        job = copy.copy(self.job)
        job.settings = replace(job.settings, jobs=1)
        if self.job.grid.runtime.device == "cpu":
            job.settings = replace(job.settings, threads=in_use() or 1)
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, job, self.out, checks), daemon=True
        )
        with environment(self.environments[slot]), undisturbed():
            process.start()
        theirs.close()
        return _Worker(slot, process, ours)

    # --- answering ------------------------------------------------------------------------------
    def answers(
        self, todo: Sequence[Cell], store: Store, show: Progressing
    ) -> Iterator[tuple[Cell, bool]]:
        """Every cell as it is over, and whether it failed; its row is written then.

        Raises StoreError when the disk does not take a cell, and when no process is left.
        """
        waiting, over = by_weights(todo), 0
        show.forecast.workers = len(self.workers)
        while over < len(todo):
            self._deal(waiting, show)
            for worker, message in self._messages():
                cell, title = worker.cell, f"[{over + 1}/{len(todo)}]"
                failed = self._heard(worker, message, title, waiting, store, show)
                if failed is not None and cell is not None:
                    over += 1
                    if worker.part is not None:
                        worker.part.finished = True
                    worker.cell = None
                    yield cell, failed
        show.doing, show.forecast.workers = "", 1

    def _heard(
        self,
        worker: _Worker,
        message: tuple[Any, ...] | None,
        title: str,
        waiting: list[Cell],
        store: Store,
        show: Progressing,
    ) -> bool | None:
        """Whether its cell failed; None as long as the cell is not over."""
        cell = worker.cell
        if message is None:
            return self._lost(worker, waiting, store, show)
        if message[0] == DONE and cell is not None:
            _, row, told, notes = message
            store.record(row)
            store.drop_partial(cell.key.cell_id)
            for line in (f"{title} {cell.name}: {told}", *(f"    {note}" for note in notes)):
                show.say(line)
            return False
        if message[0] == FAILED and cell is not None:
            return self._failed(cell, message[1], store, show)
        if message[0] == READY:  # one that was started in place of another
            worker.ready = True
        elif message[0] == AT and worker.part is not None:
            self._progress(worker, *message[1:])
            show.doing = self._doing()
        else:
            _said(message, show)
        return None

    def _deal(self, waiting: list[Cell], show: Progressing) -> None:
        """A cell for every worker that has none: best one on the weights that it had."""
        for worker in self.workers:
            if not waiting or not worker.ready or worker.cell is not None:
                continue
            others = {other.weights for other in self.workers if other is not worker}
            cell = next(
                (c for c in waiting if c.checkpoint == worker.weights),
                next((c for c in waiting if c.checkpoint not in others), waiting[0]),
            )
            waiting.remove(cell)
            worker.cell, worker.weights = cell, cell.checkpoint
            worker.part, worker.began = part_of(cell, show.forecast), None
            with suppress(OSError):  # it is dead: the next look at it says so
                worker.line.send(cell.key.cell_id)
        show.doing = self._doing()

    def _doing(self) -> str:
        """`fastv on gqa 12/40, dense on pope`."""
        found = []
        for worker in self.workers:
            if worker.cell is not None and (part := worker.part) is not None:
                count = f" {part.done}/{part.units}" if part.units and part.done else ""
                found.append(worker.cell.name + count)
        return ", ".join(found)

    def _progress(self, worker: _Worker, done: int, units: int) -> None:
        """A part of the forecast, as `Progressing.part` keeps it for a cell of one process."""
        part, now = worker.part, time.monotonic()
        assert part is not None
        if worker.began is None:
            worker.began = (done, now)
        part.units, part.done = units, done
        part.measured, part.seconds = done - worker.began[0], now - worker.began[1]

    def _failed(self, cell: Cell, why: str, store: Store, show: Progressing) -> bool:
        record_failure(cell, CellError(why), store)
        show.warn(f"{PROGRAM}: {cell.name} failed: {why}")
        return True

    # --- a worker that is gone --------------------------------------------------------------------
    def _lost(
        self, worker: _Worker, waiting: list[Cell], store: Store, show: Progressing
    ) -> bool | None:
        """Another process in its place; True where its cell is given up, None where it waits."""
        cell, how = worker.cell, _ended(worker)
        self._bury(worker)
        if worker.ready:
            self.workers.append(self._spawn(worker.slot, None))
        if not self.workers:
            raise StoreError(f"{FLAG}: every process has ended, the last one: {how}")
        if cell is None:
            show.warn(f"{PROGRAM}: {FLAG}: {how}; the others go on")
            return None
        deaths = self._deaths[cell.key.cell_id] = self._deaths.get(cell.key.cell_id, 0) + 1
        if deaths >= TRIES:
            return self._failed(cell, f"its process ended {deaths} times; {how}", store, show)
        show.warn(f"{PROGRAM}: {FLAG}: {how}; {cell.name} is taken over")
        waiting.insert(0, cell)
        return None

    def _bury(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        worker.line.close()

    def _messages(self) -> Iterator[tuple[_Worker, tuple[Any, ...] | None]]:
        """What has come within `LISTEN`; None from a worker that is gone."""
        there = {worker.line: worker for worker in self.workers}
        heed()
        for line in wait(list(there), LISTEN):
            worker = there[line]  # type: ignore[index]
            try:
                yield worker, worker.line.recv()
            except (EOFError, OSError):
                yield worker, None

    def close(self) -> None:
        """End every process; what it had in work is kept as far as it was written."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.line.close()
        self.workers.clear()
        (self.out / IMAGES_LOCK).unlink(missing_ok=True)


def _said(message: tuple[Any, ...], show: Progressing) -> None:
    """A line, or why a worker cannot go on."""
    if message[0] == SAY:
        show.say(message[1])
    elif message[0] == REFUSED:
        raise (UsageError if message[2] == EXIT_USAGE else HarnessError)(message[1])
    elif message[0] == DISK:
        raise StoreError(message[1])


def _ended(worker: _Worker) -> str:
    """`process 2 was killed by signal 9`."""
    worker.process.join(PATIENCE)
    code = worker.process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"process {worker.slot + 1} {how}"
