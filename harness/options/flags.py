"""The flags of the command line. Values stay text: `options.settings` checks them. Torch-free."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from harness.common.errors import UsageError
from harness.common.stops import COMMAND, PROGRAM
from harness.options.settings import LIST_KINDS
from harness.options.validators import ATTENTION, DATA, DTYPES

EPILOG = """\
examples:
  python run_suite.py --methods gamma,pmod --bench gqa,textvqa
  python run_suite.py --methods fastv:k=3:r=0.75,random --bench pope --limit 100 --out runs/mine
  python run_suite.py --suite suites/first-light.yaml
  python run_suite.py --plots-only runs/mine
  python run_suite.py --diff runs/mine runs/other
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
    """The parser. Values stay text here; `options.settings` checks them, as it does a suite's."""
    parser = _Parser(
        prog=PROGRAM,
        description="Accuracy, cost and routing of token-sparsity methods for LLaVA-family "
        "models, on one set of conditions. dense is always added as the reference.",
        epilog=EPILOG.replace("python run_suite.py", COMMAND),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    _add_jobs(parser.add_argument_group("what to do"))
    _add_settings(parser.add_argument_group("settings (all recorded)"))
    _add_analysis(parser.add_argument_group("layer redundancy, beside benchmarks"))
    _add_timing(parser.add_argument_group("settings of --throughput and --with-throughput"))
    return parser


def _add_jobs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--methods",
        action=_OneList,
        metavar="LIST",
        help="comma list of name[:key=value]..., see --list methods; a name may be the path of a "
        "FILE.py that defines a method",
    )
    group.add_argument(
        "--controls",
        action="store_true",
        help="add random, uniform and pool at the budget of every method, and blind",
    )
    group.add_argument(
        "--bench",
        action=_OneList,
        metavar="LIST",
        help="comma list from --list benches, or any lmms-eval task name as it stands",
    )
    group.add_argument("--suite", metavar="FILE", help="take the settings from a YAML file")
    group.add_argument(
        "--plots-only",
        metavar="RUN",
        help="tables, figures and reports again from a run's CSVs, into it or into --out",
    )
    group.add_argument(
        "--diff",
        metavar=("RUN_A", "RUN_B"),
        nargs=2,
        help="compare two runs cell by cell, conditions first; --out DIR or FILE.md keeps it",
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
    group.add_argument(
        "--list",
        metavar="|".join([*LIST_KINDS, "METHOD"]),
        help="what there is, a line each; or one method whole",
    )
    group.add_argument(
        "--check",
        metavar="METHOD|all|FILE.py",
        help="the conformance suite on a tiny random model",
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
    group.add_argument(
        "--allow",
        metavar="LIST",
        help="over-length: answer and count samples longer than the model's context instead of "
        "failing the cell",
    )
    group.add_argument(
        "--margin",
        metavar="POINTS",
        help="loss up to which a method is non-inferior to dense (default 1); another one on a "
        "finished run derives its tables again",
    )
    group.add_argument("--n-text", metavar="N", help="text tokens of a cost or time (default 58)")
    group.add_argument("--n-out", metavar="N", help="new tokens of a cost or time (default 32)")
    group.add_argument(
        "--out", metavar="DIR", help="run directory, resumed if it exists (default runs/<time>)"
    )
    group.add_argument("--quiet", action="store_true", help="no progress, errors only")
    group.add_argument("--verbose", action="store_true", help="more detail, library messages")


def _add_analysis(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--analyse",
        action=_OneList,
        metavar="LIST",
        help="of dense, after the cells: arank (rank of every layer's attention), damage (each "
        "layer skipped, whole and for half of the image tokens), plan (retention plans from them)",
    )
    group.add_argument(
        "--analyse-samples", metavar="N", help="the first N documents of each bench (default 50)"
    )
    group.add_argument(
        "--analyse-kv", metavar="SHARE", help="image-token cache of the plans (default 0.5375)"
    )


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
