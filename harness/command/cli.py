"""The command line. Imports nothing heavy: `--help`, `--list` and `--plots-only` stay fast."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import (
    EXIT_CELLS_FAILED,
    EXIT_OK,
    HarnessError,
    UsageError,
    is_text,
    one_line,
)
from harness.common.nearest import unknown
from harness.common.stops import PROGRAM, interrupted, stoppable
from harness.options.flags import build_parser
from harness.options.settings import (
    ANALYSIS,
    LIST_KINDS,
    SWITCHES,
    Settings,
    add_checkpoint,
    checked,
    convert,
    flag,
    make_settings,
)
from harness.options.validators import VALIDATORS, place

if TYPE_CHECKING:
    from harness.jobs.runner import Job

FREE = ("out", "quiet", "verbose")  # settings that every run may have
WRITERS = ("plots_only", "diff")  # jobs on finished runs that write where --out says
STUDIED = ("study", "bench", "limit", "batch_size")  # settings that a study has a use for


def parse(argv: Sequence[str]) -> tuple[dict[str, Any], Settings]:
    """Raw flags and the `Settings` they mean; suite values first, flags override them.

    Raises UsageError with one line for anything wrong.
    """
    for text in argv:
        if not is_text(text):
            raise UsageError(f"'{one_line(text)}' is not UTF-8 text")
    parser = build_parser()
    known, extra = parser.parse_known_args(list(argv))
    if extra:
        flags = [text for action in parser._actions for text in action.option_strings]
        if extra[0].startswith("-"):
            raise UsageError(unknown("flag", extra[0].partition("=")[0], flags))
        raise UsageError(f"unexpected argument '{extra[0]}': every value belongs to a flag")
    raw = vars(known)
    values: dict[str, Any] = {}
    if "suite" in raw:
        from harness.options.suites import load_suite, suite_path

        values = load_suite(checked("--suite", suite_path, raw["suite"]))
    if "workload" in raw:
        raw["workload"] = ",".join(raw["workload"])
    values |= {name: convert(name, raw[name]) for name in VALIDATORS if name in raw}
    values |= {name: raw[name] for name in SWITCHES if name in raw}
    given: dict[str, str] = {}
    for text in raw.get("checkpoint", ()):
        add_checkpoint(given, text)
    if given or "checkpoint" in values:
        values["checkpoint"] = {**values.get("checkpoint", {}), **given}
    return raw, make_settings(values)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every expected error is one line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with stoppable():
            code = _guarded(argv)
            sys.stdout.flush()
            return code
    except HarnessError as error:
        print(f"{PROGRAM}: {one_line(error, 1000)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return interrupted(argv)
    except BrokenPipeError:  # `--list methods | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def _guarded(argv: list[str]) -> int:
    """`_dispatch`; what nobody expected is one line as well: whose fault, and where.

    Code of a method file that ends the process (`sys.exit`) is among it.
    """
    from methods.files import blamed
    from methods.params import MethodError

    settings = None
    try:
        raw, settings = parse(argv)
        return _dispatch(raw, settings, argv)
    except (HarnessError, KeyboardInterrupt, BrokenPipeError):
        raise
    except BaseException as error:
        if settings is None and isinstance(error, SystemExit):
            raise  # --help
        if "--verbose" in argv:
            traceback.print_exc()
        if isinstance(error, MethodError) or blamed(error):
            raise UsageError(one_line(error)) from error
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        raise HarnessError(
            f"{one_line(error)} (a fault of this program, {where}; --verbose shows all of it)"
        ) from error


def _dispatch(raw: dict[str, Any], settings: Settings, argv: list[str]) -> int:
    jobs: list[str] = [name for name in ("list", "check", "plots_only", "diff") if name in raw]
    jobs += [name for name in ("costs_only", "throughput") if getattr(settings, name)]
    if len(jobs) > 1:
        raise UsageError(f"{flag(jobs[0])} and {flag(jobs[1])} exclude each other")
    _refuse_idle_flags(raw, settings, jobs)
    if jobs == ["list"]:
        return _list(raw["list"])
    if jobs == ["check"]:
        return _check(raw["check"])
    if jobs == ["plots_only"]:
        return _plots(raw["plots_only"], settings.out)
    if jobs == ["diff"]:
        one, other = raw["diff"]
        return _diff(one, other, settings.out)
    from harness.jobs.runner import run

    return run(_job(settings)(settings, argv))


def _job(settings: Settings) -> type[Job]:
    """What kind of run the settings ask for. Raises UsageError where they name too little."""
    if settings.published and settings.costs_only:
        from harness.jobs.published import Published

        return Published
    if settings.study:
        from harness.jobs.study import StudyJob

        return StudyJob
    if not settings.methods:
        raise UsageError("nothing to do: give --methods and --bench, or see --help")
    if settings.costs_only:
        from harness.jobs.costs import Costs

        return Costs
    if settings.throughput:
        from harness.jobs.throughput import Throughput

        return Throughput
    if not settings.bench:
        raise UsageError("--bench is missing: which benchmarks? (see --list benches)")
    from harness.jobs.benchmarks import Benchmarks

    return Benchmarks


def _refuse_idle_flags(raw: dict[str, Any], settings: Settings, jobs: list[str]) -> None:
    """A flag that would be ignored is a misunderstanding: better said than found out later."""
    if jobs and not (settings.costs_only or settings.throughput):
        idle = set(raw) - {*jobs, "quiet", "verbose", *(("out",) if jobs[0] in WRITERS else ())}
    elif settings.study or (settings.costs_only and settings.published):
        used = STUDIED if settings.study else ("published", "costs_only")
        idle = {name for name in vars(settings) if name not in (*FREE, *used)}
        idle = {name for name in idle if getattr(settings, name) != getattr(Settings(), name)}
        jobs = ["study" if settings.study else "published"]
    else:
        idle = settings.idle | ({"bench"} if settings.costs_only else {"published"})
        idle |= {"margin", *ANALYSIS} if settings.costs_only or settings.throughput else set()
        idle = {name for name in idle if getattr(settings, name) != getattr(Settings(), name)}
    for name in sorted(idle):
        with_what = flag(jobs[0]) if jobs else "a run on benchmarks"
        with_what = "a study" if jobs == ["study"] else with_what
        raise UsageError(f"{flag(name)} has no meaning with {with_what}")


def _list(kind: str) -> int:
    from harness.command.listing import about_method, lines

    print("\n".join(lines(kind) if kind in LIST_KINDS else about_method(kind)))
    return EXIT_OK


def _check(name: str) -> int:
    from harness.options.specs import check_known_methods
    from methods.base import MethodError

    if name != "all":
        check_known_methods([name], "--check")
    from harness.check import run_check

    try:
        return EXIT_OK if run_check(name) else EXIT_CELLS_FAILED
    except MethodError as error:
        raise UsageError(f"--check: {one_line(error)}") from None


def _plots(target: str, out: str | None) -> int:
    from harness.store.rundir import open_for_reading

    run_dir: Path = open_for_reading(checked("--plots-only", place, target))
    from reports.build import build_report
    from reports.errors import ReportError

    try:
        print(build_report(run_dir, Path(out) if out else None))
    except ReportError as error:
        raise UsageError(f"--plots-only: {error}") from None
    return EXIT_OK


def _diff(one: str, other: str, out: str | None) -> int:
    from reports.diffview import show_diff
    from reports.errors import ReportError

    one, other = (checked("--diff", place, text) for text in (one, other))
    try:
        show_diff(Path(one), Path(other), Path(out) if out else None)
    except ReportError as error:
        raise UsageError(f"--diff: {error}") from None
    return EXIT_OK
