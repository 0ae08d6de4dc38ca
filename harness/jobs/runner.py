"""The one runner: resolve, open the run directory, work, report, say how it went.

What a kind of run does by itself is a `Job`, one file each in this folder.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Sequence
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
from harness.common.stops import COMMAND, PROGRAM, put, stoppable
from harness.options.settings import Settings
from harness.store.rundir import Store, check_out, default_out
from harness.store.runinfo import environment


class Job(ABC):
    """One kind of run. The steps are called in the order they stand here, each once."""

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


def run(job: Job) -> int:
    """Run or resume a job; returns the exit code.

    Raises UsageError before anything was written. When it is stopped or the disk fails, a line
    says how to go on.
    """
    show = Progressing(job.settings.quiet)
    out = Path(job.settings.out) if job.settings.out else default_out()
    if check_out(out, job.resolve(out)):
        job.resume(out)
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
    about = job.open(out, show)
    with Store(out) as store:
        for line in store.warnings:
            show.warn(f"{PROGRAM}: {line}")
        if about is not None:
            store.write_run_json({**environment(job.argv), **about})
        failed = job.work(store, show)
        drawn = _report(job, out, show)
    return EXIT_CELLS_FAILED if failed or not drawn else EXIT_OK


def _report(job: Job, out: Path, show: Progressing) -> bool:
    """Whether the report was drawn; what is computed is safe whatever happens here."""
    try:
        report = job.report(out)
    except Exception as error:
        again = f"{COMMAND} --plots-only {shlex.quote(str(out))}"
        show.warn(f"{PROGRAM}: no report: {one_line(error)}; the tables are there, again: {again}")
        return False
    put(report)
    return True


def resume_command(argv: Sequence[str], settings: Settings, out: Path) -> str:
    """The command that goes on with this run."""
    words = [*argv, *([] if settings.out else ["--out", str(out)])]
    return f"{COMMAND} {shlex.join(words)}"
