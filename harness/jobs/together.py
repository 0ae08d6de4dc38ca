"""One run in several processes (`torchrun`, `accelerate launch`): the first leads, others answer.

The first does what a run in one process does: it alone writes the run directory, scores and
speaks. The others load the model, answer the batches of each cell that are dealt to them, and write
nothing but their own logs. They do not wait: while the first scores a cell they are at the next.
"""

from __future__ import annotations

import json
import platform
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from harness.bench.dealing import ShareDone
from harness.common.errors import (
    EXIT_CELLS_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    CellError,
    HarnessError,
    SaidElsewhere,
    StoreError,
    UsageError,
    one_line,
)
from harness.common.progress import Progressing
from harness.common.ranks import Rank
from harness.common.stops import stoppable, tell
from harness.jobs.benchmarks import Benchmarks
from harness.jobs.cellrun import asked
from harness.jobs.exchange import CellDealer, Exchange, join
from harness.jobs.grid import Cell
from harness.jobs.runner import run
from harness.options.settings import Settings
from harness.store.rundir import Store

ONE_FOR_ALL = ("method", "params", "method_source", "weights", "bench", "task", "task_version")
SHORT = 20.0  # seconds to find the others when all there is to say is an error


def refuse(what: str) -> NoReturn:
    """Raise UsageError for what several processes cannot do together."""
    raise UsageError(
        f"{what} runs in one process: start it without torchrun; several processes answer "
        "benchmarks together (--methods, --bench)"
    )


def run_together(settings: Settings, argv: Sequence[str], rank: Rank) -> int:
    """This process's part of a run; returns its exit code."""
    with join(rank, settings.rank_timeout) as exchange:
        if rank.leads:
            return lead(Leading(settings, argv), exchange)
        return follow(Benchmarks(settings, argv), exchange)


@contextmanager
def said_by_the_first(rank: Rank) -> Iterator[None]:
    """What goes wrong in another process before they meet is the first one's to say."""
    try:
        yield
    except (SaidElsewhere, SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if rank.leads:
            raise
        try:
            with join(rank, meet=SHORT) as exchange:
                exchange.end(getattr(error, "exit_code", EXIT_CELLS_FAILED), error)
                exchange.linger()
        except HarnessError:  # nobody is there
            tell(f"rank {rank.number}: {one_line(error)}")
        raise SaidElsewhere(one_line(error)) from error


# --- the first ------------------------------------------------------------------------------------
def lead(job: Leading, exchange: Exchange) -> int:
    """The run itself, told to the others when it ends."""
    job.exchange = exchange
    try:
        code = run(job)
    except BaseException as error:
        exchange.end(getattr(error, "exit_code", EXIT_CELLS_FAILED), error)
        raise
    exchange.end(code)
    return code


class Leading(Benchmarks):
    """A run on benchmarks of which other processes answer a part."""

    exchange: Exchange
    _todo: Sequence[Cell] = ()
    _dealer: CellDealer | None = None
    _told: frozenset[str] = frozenset()  # ids of the cells that the others know of

    def open(self, out: Path, show: Progressing) -> dict[str, Any] | None:
        show.phase(f"meeting {self.exchange.rank.count - 1} other processes", soon=True)
        devices = agree(self.exchange, facts(self))
        show.say(f"{len(devices)} processes answer together: {', '.join(devices)}")
        self._out = out
        about = super().open(out, show)
        if not self._told:
            self.exchange.tell("plan", None)
        return about and {**about, "ranks": {"count": len(devices), "devices": devices}}

    def _left(self, out: Path) -> tuple[list[Cell], dict[str, StoreError]]:
        self._todo, damaged = super()._left(out)
        return list(self._todo), damaged

    def load(self, show: Progressing) -> Any:
        ids = [cell.key.cell_id for cell in self._todo]
        ids = [one for one in ids if one not in self.reuse.taken]
        self._told = frozenset(ids)
        self.exchange.tell(
            "plan", {"out": str(self._out.absolute()), "cells": ids} if ids else None
        )
        return super().load(show)

    def work(self, store: Store, show: Progressing) -> bool:
        # Logs in a folder without run.json are no run that could be gone on with.
        self.exchange.tell("opened", True)
        return super().work(store, show)

    def _cell(self, cell: Cell, title: str, store: Store, show: Progressing) -> None:
        if cell.key.cell_id not in self._told:
            return super()._cell(cell, title, store, show)
        self._dealer = CellDealer(self.exchange, cell.key.cell_id, cell.name)
        self.exchange.step(f"beginning {cell.name}")
        try:
            super()._cell(cell, title, store, show)
        except CellError as error:
            self._dealer.fail(error)
            _keep(self._dealer.trace, store, cell.key.cell_id)
            raise
        finally:
            self._dealer = None

    def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
        more = {} if self._dealer is None else {"dealer": self._dealer}
        return super().evaluate(session, method, bench, **options, **more)


def _keep(trace: str, store: Store, cell_id: str) -> None:
    if trace:
        folder = store.path / "logs"
        folder.mkdir(exist_ok=True)
        (folder / f"{cell_id}.txt").write_text(trace, encoding="utf-8")


def agree(exchange: Exchange, mine: dict[str, Any]) -> list[str]:
    """The devices of all processes. Raises UsageError where one is not like the first."""
    mine = json.loads(json.dumps(mine))  # as it comes from the others
    found = [mine]
    for other in exchange.others:
        theirs = exchange.hear(f"facts/{other}", of=other)
        for name in [*mine["same"], *(n for n in theirs["same"] if n not in mine["same"])]:
            here, there = mine["same"].get(name), theirs["same"].get(name)
            if here != there:
                raise UsageError(
                    f"rank {other} has another {name} than rank 0: {_short(there)}, not "
                    f"{_short(here)}; all processes of a run must answer alike"
                )
        for number, before in enumerate(found):
            if theirs["device"] is not None and before["device"] == theirs["device"]:
                raise UsageError(
                    f"ranks {number} and {other} have the same device, {theirs['name']}: start "
                    "one process a device (--nproc-per-node)"
                )
        found.append(theirs)
    return [one["name"] for one in found]


def _short(value: Any) -> str:
    return one_line(str(value), 60)


def facts(job: Benchmarks) -> dict[str, Any]:
    """What must be the same in all processes, and the device, which may not."""
    first = asdict(job.grid.cells[0].key)
    same = {"python": platform.python_version(), **first.pop("versions")}
    same["source code"] = first.pop("engine_source")
    same |= {name: value for name, value in first.items() if name not in ONE_FOR_ALL}
    name, unique, kind = device_of(job)
    same["device"], same["number of threads"] = kind, job.grid.runtime.threads
    same["model files"] = job.grid.source.file_hashes
    same["cells"] = [cell.key.cell_id for cell in job.grid.cells]
    return {"same": same, "device": unique, "name": name}


def device_of(job: Benchmarks) -> tuple[str, list[str] | None, str]:
    """A device's name, what no other device has (None on a CPU), and what its numbers follow."""
    import torch

    if job.grid.runtime.device != "cuda":
        kind = f"{job.grid.runtime.device} {torch.backends.cpu.get_cpu_capability()}"
        return job.grid.runtime.device, None, kind
    from harness.model.loading import pick_device

    device = pick_device(job.settings.device)
    about = torch.cuda.get_device_properties(device)
    return f"{device} {about.name}", [socket.gethostname(), str(about.uuid)], about.name


# --- the others -----------------------------------------------------------------------------------
def follow(job: Benchmarks, exchange: Exchange) -> int:
    """Answer this process's share of every cell; what goes wrong is the first process's to say."""
    try:
        with stoppable():
            return _follow(job, exchange)
    except SaidElsewhere:
        raise
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BaseException as error:
        exchange.end(getattr(error, "exit_code", EXIT_CELLS_FAILED), error)
        exchange.linger()
        raise SaidElsewhere(one_line(error)) from error


def _follow(job: Benchmarks, exchange: Exchange) -> int:
    exchange.step("looking up names, model and data")
    job.resolve(Path(job.settings.out or "runs"))  # nothing of it is read
    exchange.tell(f"facts/{exchange.rank.number}", facts(job))
    plan = exchange.hear("plan")
    if plan is None:
        return EXIT_OK
    exchange.step("loading the model")
    with Progressing(quiet=True) as show:
        session = job.session = job.loaded(show)
    cells = {cell.key.cell_id: cell for cell in job.grid.cells}
    exchange.hear("opened")
    store = Store(Path(plan["out"]))  # never opened: the first process holds it
    for cell_id in plan["cells"]:
        _share(cells[cell_id], session, store, job, exchange)
    return EXIT_OK


def _share(cell: Cell, session: Any, store: Store, job: Benchmarks, exchange: Exchange) -> None:
    """One cell's share; a failure is told, and the next cell goes on."""
    import traceback

    dealer = CellDealer(exchange, cell.key.cell_id, cell.name)
    exchange.step(f"beginning {cell.name}")
    try:
        options = asked(cell, store, job.settings.verbose)
        job.evaluate(session, cell.method, cell.bench, **options, dealer=dealer)
    except ShareDone:
        return
    except (StoreError, SaidElsewhere, KeyboardInterrupt):
        raise
    except HarnessError as error:
        dealer.fail(error)
    except BaseException as error:  # SystemExit too: a cell may not end the run
        dealer.fail(error, traceback.format_exc())
