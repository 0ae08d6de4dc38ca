"""The command line. Imports nothing heavy: `--help`, `--list` and `--plots-only` stay fast."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import (
    EXIT_CELLS_FAILED,
    EXIT_OK,
    HarnessError,
    SaidElsewhere,
    UsageError,
    is_text,
    one_line,
)
from harness.common.nearest import unknown
from harness.common.ranks import claim
from harness.common.stops import PROGRAM, interrupted, put, silence, stoppable, tell
from harness.options.flags import OPTIONS, build_parser, refuse_idle
from harness.options.option import JobKind, checked, flag
from harness.options.settings import (
    LIST_KINDS,
    SETTING,
    Settings,
    add_checkpoint,
    make_settings,
)

if TYPE_CHECKING:
    from harness.common.ranks import Rank

CONVERT, MERGE, PACK, VIEW = "convert", "merge", "pack", "view"  # first words that are no flag
LIGHT = (
    JobKind.LIST
    | JobKind.CHECK
    | JobKind.PLOTS_ONLY
    | JobKind.DIFF
    | JobKind.DERIVE
    | JobKind.JUDGE
)  # jobs that have no settings


def parse(argv: Sequence[str]) -> tuple[dict[str, Any], Settings]:
    """Raw flags and the `Settings` they mean; suite values first, flags override them.

    Raises UsageError with one line for anything wrong.
    """
    for text in argv:
        if not is_text(text):
            raise UsageError(f"'{one_line(text)}' is not UTF-8 text")
    known, extra = build_parser().parse_known_args(list(argv))
    if extra:
        if extra[0].startswith("-"):
            flags = ["-h", "--help", *(flag(one.name) for one in OPTIONS)]
            raise UsageError(unknown("flag", extra[0].partition("=")[0], flags))
        raise UsageError(f"unexpected argument '{extra[0]}': every value belongs to a flag")
    raw = vars(known)
    for one in (one for one in OPTIONS if one.name in raw and one.name not in SETTING):
        for text in raw[one.name] if isinstance(raw[one.name], list) else [raw[one.name]]:
            one.convert(text)
    values: dict[str, Any] = {}
    if "suite" in raw:
        from harness.options.suites import load_suite, suite_path

        values = load_suite(checked("--suite", suite_path, raw["suite"]))
    given: dict[str, str] = {}
    for text in raw.get("checkpoint", ()):
        add_checkpoint(given, text)
    checkpoint = {**values.get("checkpoint", {}), **given}
    for name in (name for name in SETTING if name in raw):
        one, value = SETTING[name], raw[name]
        if isinstance(value, list):  # of a flag that may be repeated
            value = ",".join(value)
        values[name] = value if one.check is None else one.convert(value)
    settings = make_settings(values | {"checkpoint": checkpoint})
    job = _job(raw, settings)
    words = {name for name in raw if name not in SETTING}  # that are no settings
    refuse_idle(job, raw if job in LIGHT else {*settings.changed(), *words})
    return raw, settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every expected error is one line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with stoppable():
            code = _guarded(argv)
            put("", end="")  # what is still waiting
            return code
    except SaidElsewhere as error:
        return error.exit_code
    except HarnessError as error:
        tell(f"{PROGRAM}: {one_line(error, 1000)}")
        return error.exit_code
    except KeyboardInterrupt:
        return interrupted(argv)
    except BrokenPipeError:  # of a library's own: the reader has had enough
        silence(sys.stdout)
        return EXIT_OK


def _guarded(argv: list[str]) -> int:
    """`_dispatch`; what nobody expected is one line as well: whose fault, and where.

    Code of a method file that ends the process (`sys.exit`) is among it.
    """
    from methods.files import blamed
    from methods.params import MethodError

    settings = None
    try:
        if not (rank := claim()).alone:
            return _together(argv, rank)
        if argv[:1] == [CONVERT]:
            from harness.model.convert.command import run as convert

            return convert(argv[1:])
        if argv[:1] == [MERGE]:
            from harness.command.merge import run as merge

            return merge(argv[1:])
        if argv[:1] == [PACK]:
            from harness.command.pack import run as pack

            return pack(argv[1:])
        if argv[:1] == [VIEW]:
            from reports.samples.command import run as view

            return view(argv[1:])
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
    job = _job(raw, settings)
    if job is JobKind.LIST:
        return _list(raw["list"])
    if job is JobKind.CHECK:
        return _check(raw["check"], raw.get("family"), settings.out)
    if job is JobKind.PLOTS_ONLY:
        return _plots(raw["plots_only"], settings)
    if job is JobKind.DIFF:
        one, other = raw["diff"]
        return _diff(one, other, settings.out, settings.against)
    if job is JobKind.DERIVE:
        from harness.jobs.derive import run_derive

        return run_derive(raw["derive"], settings.quiet, settings.against, settings.table)
    if job is JobKind.JUDGE:
        from harness.jobs.judge import run_judge

        asked = settings.judge_url, settings.judge_model, settings.data
        return run_judge(raw["judge"], *asked, settings.quiet, settings.against, settings.table)
    made = _work(job, settings)(settings, argv)
    if settings.cluster:
        from harness.jobs.cluster import run_cluster

        return run_cluster(made)
    from harness.jobs.runner import run

    return run(made)


def _together(argv: list[str], rank: Rank) -> int:
    """One of several processes: together they answer benchmarks, and do nothing else."""
    from harness.jobs.together import refuse, run_together, said_by_the_first

    with said_by_the_first(rank):
        if argv[:1] and argv[0] in (CONVERT, MERGE, PACK, VIEW):
            refuse(argv[0])
        raw, settings = parse(argv)
        job = _job(raw, settings)
        for name in ("with_throughput", "analyse", "device_map", "cluster", "judge_model"):
            if getattr(settings, name):
                refuse(flag(name))
        if settings.jobs > 1:
            refuse(flag("jobs"))
        if job is not JobKind.RUN:
            refuse(job.shown)
        _work(job, settings)
        return run_together(settings, argv, rank)


def _work(job: JobKind, settings: Settings) -> Callable[[Settings, list[str]], Any]:
    """What does a job that writes a run. Raises UsageError where the settings name too little."""
    if job is JobKind.PUBLISHED:
        from harness.jobs.published import Published

        return Published
    if job is JobKind.STUDY:
        from harness.jobs.study import StudyJob

        return StudyJob
    if not settings.methods:
        raise UsageError("nothing to do: give --methods and --bench, or see --help")
    if job is JobKind.COSTS_ONLY:
        from harness.jobs.costs import Costs

        return Costs
    if job is JobKind.THROUGHPUT:
        from harness.jobs.throughput import Throughput

        return Throughput
    if not settings.bench:
        raise UsageError("--bench is missing: which benchmarks? (see --list benches)")
    if settings.printed:
        from harness.jobs.printed import repeat

        return repeat
    from harness.jobs.benchmarks import Benchmarks

    return Benchmarks


def _job(raw: dict[str, Any], settings: Settings) -> JobKind:
    """What to do; UsageError where two things are asked for."""
    jobs = [job for job in LIGHT if str(job.name).lower() in raw]
    jobs += [JobKind.COSTS_ONLY] if settings.costs_only else []
    jobs += [JobKind.THROUGHPUT] if settings.throughput else []
    if len(jobs) > 1:
        raise UsageError(f"{jobs[0].shown} and {jobs[1].shown} exclude each other")
    return jobs[0] if jobs and jobs[0] in LIGHT else settings.job


def _list(kind: str) -> int:
    from harness.command.listing import about_method, lines

    put("\n".join(lines(kind) if kind in LIST_KINDS else about_method(kind)))
    return EXIT_OK


def _check(name: str, family: str | None, out: str | None) -> int:
    from harness.options.specs import check_known_methods
    from methods.base import MethodError

    if name != "all":
        check_known_methods([name], "--check")
    if out is not None and family is None:
        raise UsageError("--out has no meaning with --check but for a matrix: add --family NAME")
    from harness.check import run_check

    try:
        if family is not None:
            from harness.check.families import run_matrix

            place = None if out is None else Path(out)
            return EXIT_OK if run_matrix(name, family, place, put) else EXIT_CELLS_FAILED
        return EXIT_OK if run_check(name, put) else EXIT_CELLS_FAILED
    except MethodError as error:
        raise UsageError(f"--check: {one_line(error)}") from None


def _plots(target: str, settings: Settings) -> int:
    from harness.common.progress import Progressing
    from harness.store.against import in_run
    from harness.store.folder import open_for_reading

    run_dir: Path = open_for_reading(target)
    with Progressing(settings.quiet) as show:
        show.phase("drawing the report", soon=True)
        from harness.readouts.ending import conclude
        from harness.readouts.summary import ending
        from reports.build import build_report
        from reports.errors import ReportError

        out = Path(settings.out) if settings.out else None
        try:
            against = in_run(settings.against, run_dir)
            report = build_report(run_dir, out, against)
        except ReportError as error:
            show.close()
            raise UsageError(f"--plots-only: {error}") from None
        whole = conclude(report, lambda: ending(run_dir, against), show, settings.table)
    return EXIT_OK if whole else EXIT_CELLS_FAILED


def _diff(one: str, other: str, out: str | None, against: Sequence[str]) -> int:
    from reports.diffview import show_diff
    from reports.errors import ReportError

    try:
        show_diff(Path(one), Path(other), Path(out) if out else None, against)
    except ReportError as error:
        raise UsageError(f"--diff: {error}") from None
    return EXIT_OK
