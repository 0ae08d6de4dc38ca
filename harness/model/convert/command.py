"""`python -m modsuite convert SOURCE --to FOLDER`. Torch-free until files are read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.common.errors import EXIT_OK
from harness.common.subcommand import SubParser

WORD = "convert"  # as the command line dispatches it


def parser() -> argparse.ArgumentParser:
    """The words of the sub-command."""
    made = SubParser(
        prog=f"modsuite {WORD}",
        description="Released research weights as a folder for --model or --checkpoint.",
        epilog="Which layouts are read, and what becomes of them: docs/converting.md",
    )
    made.add_argument("source", type=Path, metavar="SOURCE", help="folder of the released files")
    made.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="folder to write")
    made.add_argument(
        "--tower",
        type=Path,
        metavar="FOLDER",
        help="folder of the vision tower, where the released files have none",
    )
    return made


def run(argv: Sequence[str]) -> int:
    """Convert and say how the result is used. Raises UsageError, one line."""
    args = parser().parse_args(list(argv))
    from harness.model.convert.use import convert

    source, to = args.source.expanduser(), args.to.expanduser()
    tower = None if args.tower is None else args.tower.expanduser()
    record = convert(source, to, tower, lambda line: print(f"converting {line}", file=sys.stderr))
    for note in record["notes"]:
        print(f"note: {note}", file=sys.stderr)
    method = record["method"]
    if not record["model"]:
        print(f"{to}: run with --checkpoint {method}={to} on its base model")
    elif method:
        print(f"{to}: run with --model {to} --checkpoint {method}={to}")
    else:
        print(f"{to}: run with --model {to}")
    return EXIT_OK
