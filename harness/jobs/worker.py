"""One process of `--jobs N`: loads the model, answers the cells that its parent names.

It writes the files that are a cell's own and hands the cell's row to the parent, which alone
writes what the processes share (see `harness.jobs.workers`).
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.std import TqdmDefaultWriteLock

from harness.common.errors import EXIT_INTERRUPTED, CellError, HarnessError, StoreError, one_line
from harness.common.progress import OnBatch, Progressing
from harness.jobs.cellrun import run_cell, told
from harness.jobs.grid import Cell
from harness.store.csvfile import TEMPORARY
from harness.store.folder import RunLock
from harness.store.rundir import Store

if TYPE_CHECKING:
    from harness.jobs.benchmarks import Benchmarks

# First word of a message to the parent.
READY, SAY, AT = "ready", "say", "at"  # loaded; a line; documents done of all
DONE, FAILED = "done", "failed"  # a cell, with its row and lines; with the reason
REFUSED, DISK = "refused", "disk"  # the run cannot be; the disk does not take it
OFTEN = 0.5  # seconds between two words on how far it is
IMAGES_LOCK = f"images.lock{TEMPORARY}"  # what a killed run leaves of it, the next one removes


class _WorkerStore(Store):
    """A run directory whose rows another process writes: the row of a cell is kept for it."""

    row: dict[str, Any]

    def record(self, row: Any) -> None:
        self.row = dict(row)

    def drop_partial(self, cell_id: str) -> None:
        """The parent's, when the row is there."""


class _Words(Progressing):
    """What is said while loading goes to the parent."""

    def __init__(self, line: Connection) -> None:
        super().__init__(quiet=True)
        self.line = line

    def say(self, line: str) -> None:
        self.line.send((SAY, line))


def serve(line: Connection, job: Benchmarks, out: Path, checks: tuple[int, int] | None) -> None:
    """Load, then answer until the parent is gone.

    ``checks``: (i, N), every N-th of the methods is checked from the i-th on; None: none is.
    """
    inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, inbox), daemon=True).start()
    # Its bars lock processes out by a semaphore, which nobody removes after one that was ended.
    TqdmDefaultWriteLock.mp_lock = None
    try:
        job.resolve(out)
        methods = list({cell.method: cell.checkpoint for cell in job.cells}.items())
        first, step = checks or (len(methods), 1)
        show = _Words(line) if first == 0 else Progressing(quiet=True)  # all would say the same
        line.send((READY, job.load_checked(dict(methods[first::step]), show)))
    except BaseException as error:
        code = error.exit_code if isinstance(error, HarnessError) else HarnessError.exit_code
        line.send((REFUSED, one_line(error, 1000), code))
        return
    cells = {cell.key.cell_id: cell for cell in job.cells}
    store = _WorkerStore(out)
    while True:
        line.send(_answered(job, cells.get(inbox.get()), store, line))


def _listen(line: Connection, inbox: queue.SimpleQueue[str]) -> None:
    """Pass the parent's words on; end with it, whatever is being done."""
    try:
        while True:
            inbox.put(line.recv())
    except (EOFError, OSError):
        os._exit(EXIT_INTERRUPTED)


def _answered(
    job: Benchmarks, cell: Cell | None, store: _WorkerStore, line: Connection
) -> tuple[Any, ...]:
    """One cell, as the parent is told of it."""
    if cell is None:
        return REFUSED, "files of the run changed while it was started", HarnessError.exit_code
    evaluate = _one_image_at_a_time(job.evaluate, store.path / IMAGES_LOCK)
    heard = None if job.settings.quiet else _now_and_then(line)
    verbose = job.settings.verbose
    try:
        result = run_cell(cell, job.session, store, evaluate, job.referees, heard, verbose)
    except CellError as error:
        return FAILED, one_line(error)
    except StoreError as error:
        return DISK, one_line(error, 1000)
    return DONE, store.row, told(result), list(result.notes)


def _now_and_then(line: Connection) -> OnBatch:
    said = -OFTEN

    def on_batch(done: int, everything: int) -> None:
        nonlocal said
        if time.monotonic() - said >= OFTEN:
            said = time.monotonic()
            line.send((AT, done, everything))

    return on_batch


def _one_image_at_a_time(evaluate: Callable[..., Any], lock: Path) -> Callable[..., Any]:
    """Two workers on one bench show the same images, and an image has one place."""

    def evaluated(*args: Any, on_image: Callable[..., None], **options: Any) -> Any:
        def locked(*image: Any) -> None:
            with RunLock(lock):
                on_image(*image)

        return evaluate(*args, on_image=locked, **options)

    return evaluated
