"""`python -m modsuite pack RUN --to DIR`. Torch-free."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.common.errors import EXIT_OK
from harness.common.stops import put
from harness.common.subcommand import SubParser
from harness.store.pack import WORD, pack


def parser() -> argparse.ArgumentParser:
    """The words of the sub-command."""
    made = SubParser(
        prog=f"modsuite {WORD}",
        description="A run on benchmarks as a small folder that anyone can analyse again: tables, "
        "and every answer in samples.parquet.",
        epilog="What is in it and how it is read: docs/reference.md",
    )
    made.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    made.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write")
    made.add_argument(
        "--figures",
        default="",
        metavar="LIST",
        help="figures that go with it, by name (accuracy,pareto); none otherwise",
    )
    return made


def run(argv: Sequence[str]) -> int:
    """Pack and say how large it is. Raises UsageError, one line."""
    args = parser().parse_args(list(argv))
    names = [name for name in args.figures.split(",") if name]
    to = args.to.expanduser()
    found = pack(args.run.expanduser(), to, names)
    answers = sum(size for name, size in found.files.items() if name.endswith(".parquet"))
    each = f" ({answers / found.samples:.0f} bytes a sample)" if found.samples else ""
    put(
        f"{to}: {found.samples:,} samples of {found.cells} cells in {answers:,} bytes{each}; "
        f"with tables and pictures {found.bytes:,} bytes"
    )
    return EXIT_OK
