"""Command line: `python -m minidata {train,bench,sheet}`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minidata import FAMILIES

DEFAULT_CACHE = Path.home() / ".cache" / "minidata"
SHIPPED = 7
"""Seed of the benchmarks in `assets/mini`, which `make data` writes again."""


def _share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share from 0 to 1")
    return share


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command; 0 on success, 1 when a source package cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m minidata", description=__doc__)
    from minidata.hd import SHARES

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
    train.add_argument(
        "--hd",
        type=_share,
        nargs="?",
        const=0.25,
        default=0.0,
        metavar="SHARE",
        help="share of scenes on large pages (0.25 where no number follows)",
    )
    sheet.add_argument("--family", choices=FAMILIES, default="objects")
    sheet.add_argument("--hd", action="store_true", help="large pages (text, chart, doc)")
    args = parser.parse_args(argv)
    if args.command == "sheet" and args.hd and args.family not in SHARES:
        parser.error(f"--hd: no large pages of {args.family}: choose from {', '.join(SHARES)}")

    from minidata.sources import SourceError

    try:
        if args.command == "train":
            from minidata.train import write

            write(args.out, args.n, args.seed, args.workers, args.cache, args.rounds, args.hd)
        elif args.command == "bench":
            from minidata.bench import write as write_bench

            write_bench(args.out, args.seed, args.cache)
        else:
            from minidata.sheet import write as write_sheet

            write_sheet(args.out, args.family, args.seed, args.cache, args.hd)
    except SourceError as error:
        print(f"minidata: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
