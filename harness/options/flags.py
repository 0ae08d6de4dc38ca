"""The flags of the command line, from the table of options. Values stay text. Torch-free."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from functools import partial
from typing import Any, NoReturn

from harness.common.errors import UsageError
from harness.common.stops import COMMAND, PROGRAM
from harness.options import option
from harness.options.option import RUNS, JobKind, Option, Record, flag
from harness.options.settings import LIST_KINDS, SETTING
from harness.options.validators import non_empty, place

_word = partial(Option, group=option.DO, record=Record.NEVER)
OPTIONS: tuple[Option, ...] = (
    *(o for o in SETTING.values() if o.is_flag),
    _word(
        "suite",
        "take the settings from a YAML file",
        place,
        "FILE",
        jobs=RUNS | JobKind.STUDY | JobKind.PUBLISHED,
    ),
    _word(
        "plots_only",
        "tables, figures and reports again from a run's CSVs, into it or into --out",
        place,
        "RUN",
        jobs=JobKind.PLOTS_ONLY,
    ),
    _word(
        "derive",
        "costs, routing, evidence and all tables again from a run's stored records: no model",
        place,
        "RUN",
        jobs=JobKind.DERIVE,
    ),
    _word(
        "judge",
        "scores of a run's kept answers by the judge of --judge-url and --judge-model: no model "
        "is loaded, nothing is asked twice",
        place,
        "RUN",
        jobs=JobKind.JUDGE,
    ),
    _word(
        "diff",
        "compare two runs: equal cells, then rows that only A has with those that only B has, or "
        "with --against NAME; --out DIR or FILE.md keeps it",
        place,
        ("RUN_A", "RUN_B"),
        jobs=JobKind.DIFF,
    ),
    _word(
        "list",
        "what there is, a line each; or one method whole (parameters, defaults, needs); METHOD "
        "or a FILE.py that defines one",
        non_empty,
        "|".join([*LIST_KINDS, "METHOD", "FILE.py"]),
        jobs=JobKind.LIST,
    ),
    _word(
        "check",
        "the conformance suite on a tiny random model; METHOD or a FILE.py that defines one",
        non_empty,
        "METHOD|all|FILE.py",
        jobs=JobKind.CHECK,
    ),
    _word(
        "family",
        "with --check: does it run exactly on this model family? --out DIR keeps the matrix",
        non_empty,
        "NAME|all",
        jobs=JobKind.CHECK,
        needs="check",
    ),
)
"""Every flag, in the order of `--help`."""

EPILOG = """\
examples:
  python run_suite.py --methods gamma,pmod --bench gqa,textvqa
  python run_suite.py --methods fastv:k=3:r=0.75,random --bench pope --limit 100 --out runs/mine
  python run_suite.py --suite suites/first-light.yaml
  python run_suite.py --plots-only runs/mine
  python run_suite.py --derive runs/mine
  python run_suite.py --judge runs/mine --judge-url http://127.0.0.1:8000/v1 --judge-model NAME
  python run_suite.py --diff runs/mine runs/other
  python run_suite.py --costs-only --model llava-hf/llava-1.5-7b-hf --methods pmod,fastv
  python run_suite.py --suite suites/pmod-table5.yaml
  python run_suite.py --throughput --methods pmod,fastv --workload n_text=58:n_out=32:batch=1
  python run_suite.py --methods gamma,pmod --bench gqa,textvqa --with-throughput
  python run_suite.py --list methods
  python -m modsuite convert SOURCE --to FOLDER
  python -m modsuite merge RUN... --out RUN
  python -m modsuite pack RUN --to DIR
  python -m modsuite view runs/mine

exit codes: 0 every cell done; 2 bad usage, nothing written; 3 some cells failed, the others are
done and reported; 130 interrupted, the resume command is printed. The same command with the same
--out resumes a run.
"""


class _Parser(argparse.ArgumentParser):
    """argparse that reports a bad command line as one line instead of a usage dump."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


class _OneList(argparse.Action):
    """Stores a list. Of other flags the last one counts, but a second list is meant to be added."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, values)
        if before != values:
            raise UsageError(
                f"{option_string} stands twice, with '{before}' and '{values}': one comma list"
            )
        setattr(namespace, self.dest, values)


def build_parser() -> argparse.ArgumentParser:
    """The parser. Values stay text here; the options' checks make settings of them."""
    parser = _Parser(
        prog=PROGRAM,
        description="Accuracy, cost and routing of token-sparsity methods for LLaVA-family "
        "models, on one set of conditions. dense is always added as the reference.",
        epilog=EPILOG.replace("python run_suite.py", COMMAND),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    groups = {
        name: parser.add_argument_group(name)
        for name in (option.DO, option.SETTINGS, option.LAYERS, option.TIMES)
    }
    for one in OPTIONS:
        groups[one.group].add_argument(flag(one.name), **_how(one))
    return parser


def _how(one: Option) -> dict[str, Any]:
    """The option in argparse's words."""
    default = default_of(one)
    said = {"help": f"{one.help} (default {default})" if default else one.help}
    if one.check is None:
        return said | {"action": "store_true"}
    count = {"nargs": len(one.metavar)} if isinstance(one.metavar, tuple) else {}
    action = "append" if one.repeats else _OneList if one.is_list else "store"
    return said | count | {"metavar": one.metavar, "action": action}


def default_of(one: Option) -> str:
    """The default as text; empty where there is none to speak of."""
    if one.default is None or one.default is False or one.default in ((), {}):
        return ""
    return f"{one.default:g}" if isinstance(one.default, float) else str(one.default)


def refuse_idle(job: JobKind, given: Collection[str]) -> None:
    """A flag that would be ignored is a misunderstanding: better said than found out later."""
    known = SETTING | {o.name: o for o in OPTIONS}
    for name in sorted(given):
        if job not in known[name].jobs:
            asked = name == "workload" and job is JobKind.COSTS_ONLY
            instead = ": give --n-text, --n-out and --batch-size" if asked else ""
            instead = ": it belongs to --throughput" if name == "concurrency" else instead
            raise UsageError(f"{flag(name)} has no meaning with {job.shown}{instead}")
    for name in sorted(given):
        if known[name].needs and known[name].needs not in given:
            raise UsageError(f"{flag(name)} has no meaning without {flag(known[name].needs)}")
