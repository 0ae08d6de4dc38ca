"""The one runner: resolve, open the run directory, work, report, say how it went.

What a kind of run does by itself is a `Job`, one file each in this folder.
"""

from __future__ import annotations

import gc
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.common.errors import (
    EXIT_CELLS_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    StoreError,
    one_line,
)
from harness.common.progress import Progressing
from harness.common.ranks import this
from harness.common.stops import COMMAND, PROGRAM, stoppable
from harness.options.settings import Settings
from harness.readouts.ending import Ending, conclude
from harness.store.folder import check_out, default_out
from harness.store.rundir import Store
from harness.store.runinfo import environment


class Job(ABC):
    """One kind of run. The steps are called in the order they stand here, each once."""

    asks_for_table = False
    """Whether the table at its end is what the job is for: it then goes to standard output."""

    def __init__(self, settings: Settings, argv: Sequence[str]) -> None:
        self.settings, self.argv = settings, list(argv)

    @abstractmethod
    def resolve(self, out: Path) -> dict[str, Any]:
        """Find everything by its name; returns the settings that a resumed run must share.

        Nothing is loaded or written. Raises UsageError, one line.
        """

    def resume(self, out: Path) -> None:  # noqa: B027  most have nothing more to compare
        """Refuse to go on with a directory whose settings are the same. Raises UsageError."""

    @abstractmethod
    def open(self, out: Path, show: Progressing) -> dict[str, Any] | None:
        """Load what the work needs; returns what run.json says beside the environment.

        None leaves run.json as it is: nothing is left to compute. Nothing is written yet, so that
        what goes wrong here leaves no trace.
        """

    @abstractmethod
    def work(self, store: Store, show: Progressing) -> bool:
        """Compute and write what is missing; True when a part of it failed."""

    def report(self, out: Path) -> Path:
        """Draw what the last line of the run names."""
        from reports.build import build_report

        return Path(build_report(out))

    def ending(self, out: Path) -> Ending | None:
        """The table that the run ends with; None for a job that has none."""
        return None


def run(job: Job) -> int:
    """Run or resume a job; returns the exit code.

    Raises UsageError before anything was written. When it is stopped or the disk fails, a line
    says how to go on.
    """
    with Progressing(job.settings.quiet) as show:
        show.phase("looking up names, model and data", soon=True)
        out = Path(job.settings.out) if job.settings.out else default_out()
        with _uncollected():
            if check_out(out, job.resolve(out)):
                job.resume(out)
        return _guarded(job, out, show)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection meanwhile.

    Imports and a model leave a million objects that live on; looking through them again and again
    takes a fifth of a start's processor time and frees nothing.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _guarded(job: Job, out: Path, show: Progressing) -> int:
    again = resume_command(job.argv, job.settings, out)
    try:
        with stoppable():
            return _work(job, out, show)
    except KeyboardInterrupt:
        show.warn(f"{PROGRAM}: interrupted; resume with: {again}")
        return EXIT_INTERRUPTED
    except StoreError as error:
        show.warn(f"{PROGRAM}: {one_line(error)}; finished cells are kept, resume with: {again}")
        return EXIT_CELLS_FAILED


def _work(job: Job, out: Path, show: Progressing) -> int:
    with _uncollected():
        about = job.open(out, show)
    with Store(out) as store:
        for line in store.warnings:
            show.warn(f"{PROGRAM}: {line}")
        if about is not None:
            store.write_run_json({**environment(job.argv), **about})
        failed = job.work(store, show)
        report = _report(job, out, show)
        form, asked = job.settings.table, job.asks_for_table
        shown = conclude(report, lambda: job.ending(out), show, form, asked)
    return EXIT_CELLS_FAILED if failed or report is None or not shown else EXIT_OK


def _report(job: Job, out: Path, show: Progressing) -> Path | None:
    """The report, None where it could not be drawn; what is computed is safe then too."""
    show.phase("drawing the report")
    try:
        return job.report(out)
    except Exception as error:
        again = f"{COMMAND} --plots-only {shlex.quote(str(out))}"
        show.warn(f"{PROGRAM}: no report: {one_line(error)}; the tables are there, again: {again}")
        return None


def resume_command(argv: Sequence[str], settings: Settings, out: Path) -> str:
    """The command that goes on with this run."""
    words = [*argv, *([] if settings.out else ["--out", str(out)])]
    return f"{this().command} {shlex.join(words)}"
