"""The command line. Imports nothing heavy: `--help`, `--list` and `--plots-only` stay fast."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import (
    EXIT_CELLS_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    HarnessError,
    UsageError,
    one_line,
)
from harness.nearest import unknown
from harness.settings import (
    ATTENTION,
    DATA,
    DTYPES,
    LIST_KINDS,
    SWITCHES,
    VALIDATORS,
    Settings,
    add_checkpoint,
    convert,
    flag,
    make_settings,
)

PROGRAM = "run_suite.py"
FREE = ("out", "quiet", "verbose")  # settings that every run may have
STUDIED = ("study", "bench", "limit", "batch_size")  # settings that a study has a use for
EPILOG = """\
examples:
  python run_suite.py --methods gamma,pmod --bench gqa,textvqa
  python run_suite.py --methods fastv:k=3:r=0.75,random --bench pope --limit 100 --out runs/mine
  python run_suite.py --suite suites/first-light.yaml
  python run_suite.py --plots-only runs/mine
  python run_suite.py --costs-only --model llava-hf/llava-1.5-7b-hf --methods pmod,fastv
  python run_suite.py --suite suites/pmod-table5.yaml
  python run_suite.py --throughput --methods pmod,fastv --workload n_text=58:n_out=32:batch=1
  python run_suite.py --methods gamma,pmod --bench gqa,textvqa --with-throughput
  python run_suite.py --list methods

exit codes: 0 every cell done; 2 bad usage, nothing written; 3 some cells failed, the others are
done and reported; 130 interrupted, the resume command is printed. The same command with the same
--out resumes a run.
"""


class _Parser(argparse.ArgumentParser):
    """argparse that reports a bad command line as one line instead of a usage dump."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def build_parser() -> argparse.ArgumentParser:
    """The parser. Values stay text here; `harness.settings` checks them, as it does a suite's."""
    parser = _Parser(
        prog=PROGRAM,
        description="Accuracy, cost and routing of token-sparsity methods for LLaVA-family "
        "models, on one set of conditions. dense is always added as the reference.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    _add_jobs(parser.add_argument_group("what to do"))
    _add_settings(parser.add_argument_group("settings (all recorded)"))
    _add_timing(parser.add_argument_group("settings of --throughput and --with-throughput"))
    return parser


def _add_jobs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--methods", metavar="LIST", help="comma list of name[:key=value]..., see --list methods"
    )
    group.add_argument(
        "--bench",
        metavar="LIST",
        help="comma list from --list benches, or any lmms-eval task name as it stands",
    )
    group.add_argument("--suite", metavar="FILE", help="take the settings from a YAML file")
    group.add_argument(
        "--plots-only", metavar="RUN", help="tables, figures and reports again from a run's CSVs"
    )
    group.add_argument(
        "--costs-only",
        action="store_true",
        help="FLOPs and KV ledger at the model's true sizes: no weights, no benchmarks",
    )
    group.add_argument(
        "--published",
        metavar="TABLE",
        help="--costs-only: a paper's cost table beside ours, e.g. pmod-table5",
    )
    group.add_argument(
        "--throughput",
        action="store_true",
        help="measured time by phase, interleaved with dense: of --workload, or of --bench",
    )
    group.add_argument(
        "--with-throughput",
        action="store_true",
        help="a run on benchmarks: time its methods as well, when the answers are done",
    )
    group.add_argument("--list", metavar="|".join(LIST_KINDS), help="what there is, a line each")
    group.add_argument(
        "--check", metavar="METHOD|all", help="the conformance suite on a tiny random model"
    )


def _add_settings(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model", help="from --list models, a hub id or a local folder (default tiny-llava)"
    )
    group.add_argument(
        "--checkpoint",
        metavar="METHOD=PATH_OR_ID",
        action="append",
        help="trained weights of a trained method on this model; repeatable",
    )
    group.add_argument(
        "--data", metavar="|".join(DATA), help="auto: mini for the shipped model, else hub"
    )
    group.add_argument("--limit", metavar="N", help="only the first N documents of each bench")
    group.add_argument("--batch-size", metavar="N|auto", help="samples per batch (default 1)")
    group.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps")
    group.add_argument("--dtype", metavar="|".join(DTYPES), help="default auto")
    group.add_argument("--attn", metavar="|".join(ATTENTION), help="default auto")
    group.add_argument("--seed", metavar="N", help="default 0")
    group.add_argument("--n-text", metavar="N", help="text tokens of a cost or time (default 58)")
    group.add_argument("--n-out", metavar="N", help="new tokens of a cost or time (default 32)")
    group.add_argument(
        "--out", metavar="DIR", help="run directory, resumed if it exists (default runs/<time>)"
    )
    group.add_argument("--quiet", action="store_true", help="no progress, errors only")
    group.add_argument("--verbose", action="store_true", help="more detail, library messages")


def _add_timing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workload",
        metavar="SPEC",
        action="append",
        help="n_text=58:n_image=576:n_out=32:batch=8 (n_image as the model makes it when left "
        "out, 0 for none) or bench=gqa:n_out=32:batch=8; repeatable",
    )
    group.add_argument(
        "--random-weights",
        action="store_true",
        help="the model's shapes with random weights, built on the device: needs no files",
    )
    group.add_argument("--layers", metavar="N", help="--random-weights: fewer decoder layers")
    group.add_argument("--width", metavar="N", help="--random-weights: another hidden size")
    group.add_argument("--repeats", metavar="N", help="rounds at least (default 30)")
    group.add_argument("--warmup", metavar="N", help="runs before, a method and shape (default 10)")
    group.add_argument("--min-seconds", metavar="S", help="of dense's time, at least (default 10)")
    group.add_argument("--max-seconds", metavar="S", help="stop the rounds of a workload then")


def parse(argv: Sequence[str]) -> tuple[dict[str, Any], Settings]:
    """Raw flags and the `Settings` they mean; suite values first, flags override them.

    Raises UsageError with one line for anything wrong.
    """
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
        from harness.suites import load_suite

        values = load_suite(raw["suite"])
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
        code = _dispatch(argv)
        sys.stdout.flush()
        return code
    except HarnessError as error:
        print(f"{PROGRAM}: {one_line(error, 1000)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `--list methods | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def _dispatch(argv: list[str]) -> int:
    raw, settings = parse(argv)
    jobs: list[str] = [name for name in ("list", "check", "plots_only") if name in raw]
    jobs += [name for name in ("costs_only", "throughput") if getattr(settings, name)]
    if len(jobs) > 1:
        raise UsageError(f"{flag(jobs[0])} and {flag(jobs[1])} exclude each other")
    _refuse_idle_flags(raw, settings, jobs)
    if jobs == ["list"]:
        return _list(raw["list"])
    if jobs == ["check"]:
        return _check(raw["check"])
    if jobs == ["plots_only"]:
        return _plots(raw["plots_only"])
    if settings.published and settings.costs_only:
        from harness.cost.published_run import run_published

        return run_published(settings, argv)
    if settings.study:
        from harness.study.run import run_study

        return run_study(settings, argv)
    if not settings.methods:
        raise UsageError("nothing to do: give --methods and --bench, or see --help")
    if settings.costs_only:
        from harness.cost.run import run_costs

        return run_costs(settings, argv)
    if settings.throughput:
        from harness.timing.run import run_throughput

        return run_throughput(settings, argv)
    if not settings.bench:
        raise UsageError("--bench is missing: which benchmarks? (see --list benches)")
    from harness.suite import run_suite

    return run_suite(settings, argv)


def _refuse_idle_flags(raw: dict[str, Any], settings: Settings, jobs: list[str]) -> None:
    """A flag that would be ignored is a misunderstanding: better said than found out later."""
    if jobs and not (settings.costs_only or settings.throughput):
        idle = set(raw) - {*jobs, "quiet", "verbose"}
    elif settings.study or (settings.costs_only and settings.published):
        used = STUDIED if settings.study else ("published", "costs_only")
        idle = {name for name in vars(settings) if name not in (*FREE, *used)}
        idle = {name for name in idle if getattr(settings, name) != getattr(Settings(), name)}
        jobs = ["study" if settings.study else "published"]
    else:
        idle = settings.idle | ({"bench"} if settings.costs_only else {"published"})
        idle = {name for name in idle if getattr(settings, name) != getattr(Settings(), name)}
    for name in sorted(idle):
        with_what = flag(jobs[0]) if jobs else "a run on benchmarks"
        with_what = "a study" if jobs == ["study"] else with_what
        raise UsageError(f"{flag(name)} has no meaning with {with_what}")


def _list(kind: str) -> int:
    if kind not in LIST_KINDS:
        raise UsageError("--list: " + unknown("list", kind, LIST_KINDS))
    from harness.listing import lines

    print("\n".join(lines(kind)))
    return EXIT_OK


def _check(name: str) -> int:
    from harness.listing import check_known_methods

    if name != "all":
        check_known_methods([name], "--check")
    from harness.check import run_check

    return EXIT_OK if run_check(name) else EXIT_CELLS_FAILED


def _plots(target: str) -> int:
    from harness.store.rundir import open_for_reading

    run_dir: Path = open_for_reading(target)
    from reports.build import build_report

    print(build_report(run_dir))
    return EXIT_OK
