"""`modsuite merge RUN... --out RUN`. Torch-free."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.common.stops import stoppable
from harness.common.subcommand import SubParser
from harness.jobs.merge import WORD, run_merge
from harness.options.option import checked
from harness.options.settings import SETTING
from harness.readouts.ending import FORMS


def parser() -> argparse.ArgumentParser:
    """The words of the sub-command."""
    made = SubParser(
        prog=f"modsuite {WORD}",
        description="Shares of one run on benchmarks (--shard), or any runs of the same cells, as "
        "one run: its tables, its report, and what is still missing. Runs are only read.",
        epilog="When to cut a run, and how: docs/scale.md",
    )
    made.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    made.add_argument("--out", required=True, metavar="RUN", help="the whole run, made or added to")
    made.add_argument("--table", choices=FORMS, help="print the final table as Markdown")
    made.add_argument("--quiet", action="store_true", help="no progress, errors only")
    return made


def run(argv: Sequence[str]) -> int:
    """Merge; the exit code is that of a run. Raises UsageError, one line."""
    args = parser().parse_args(list(argv))
    out = Path(checked("--out", SETTING["out"].check or str, args.out)).expanduser()
    with stoppable():
        return run_merge(args.runs, out, args.quiet, args.table)
