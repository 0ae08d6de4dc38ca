"""Command line: `python -m minidata {train,bench,sheet}`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minidata import FAMILIES

DEFAULT_CACHE = Path.home() / ".cache" / "minidata"
SHIPPED = 7
"""Seed of the benchmarks in `assets/mini`, which `make data` writes again."""


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command; 0 on success, 1 when a source package cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m minidata", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="render training scenes")
    bench = commands.add_parser("bench", help="render the test benchmarks as parquet")
    sheet = commands.add_parser("sheet", help="contact sheet of one family, to look at")
    for sub in (train, bench, sheet):
        sub.add_argument("--out", type=Path, required=True, help="output folder or picture")
        sub.add_argument("--seed", type=int, default=1)
        sub.add_argument(
            "--cache",
            type=Path,
            default=DEFAULT_CACHE,
            help="folder for the downloaded source packages",
        )
    bench.set_defaults(seed=SHIPPED)
    train.add_argument("--n", type=int, default=20000, help="number of scenes")
    train.add_argument("--workers", type=int, default=2)
    train.add_argument("--rounds", type=int, default=1, help="draws of about ten questions a scene")
    sheet.add_argument("--family", choices=FAMILIES, default="objects")
    args = parser.parse_args(argv)

    from minidata.sources import SourceError

    try:
        if args.command == "train":
            from minidata.train import write

            write(args.out, args.n, args.seed, args.workers, args.cache, args.rounds)
        elif args.command == "bench":
            from minidata.bench import write as write_bench

            write_bench(args.out, args.seed, args.cache)
        else:
            from minidata.sheet import write as write_sheet

            write_sheet(args.out, args.family, args.seed, args.cache)
    except SourceError as error:
        print(f"minidata: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
