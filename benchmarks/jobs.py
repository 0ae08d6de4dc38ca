"""A run on benchmarks by one process and by several: seconds, their ratio, and the same tables.

    python benchmarks/jobs.py --jobs 2 --rounds 3 --out benchmarks/jobs.csv

Whole commands on the shipped mini model and data, start-up, tables and report included: what a user
waits for. The two take turns, so that a machine that others use slows both; `load` is the mean
number of busy processes when a command began. On a CPU each process has its share of the
processors. A difference between their tables is an error.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLES = ("accuracy", "averages", "comparisons", "cost", "routing")
COLUMNS = ("round", "jobs", "cells", "documents", "seconds", "load", "processors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--methods", default="fastv,pyramiddrop,random")
    parser.add_argument("--bench", default="gqa,pope")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    words = ["--methods", args.methods, "--bench", args.bench, "--limit", str(args.limit),
             "--batch-size", "8", "--quiet"]  # fmt: skip
    cells = (args.methods.count(",") + 2) * (args.bench.count(",") + 1)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        for number in range(args.rounds):
            tables = []
            for jobs in (1, args.jobs):
                run = Path(place) / f"{number}-{jobs}"
                load, begun = os.getloadavg()[0], time.perf_counter()
                command = [sys.executable, str(ROOT / "run_suite.py"), *words]
                command += ["--out", str(run), "--jobs", str(jobs)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds = time.perf_counter() - begun
                tables.append([(run / f"{name}.csv").read_bytes() for name in TABLES])
                rows.append({"round": number, "jobs": jobs, "cells": cells,
                             "documents": cells * args.limit, "seconds": round(seconds, 2),
                             "load": round(load, 2), "processors": os.cpu_count()})  # fmt: skip
                print(f"round {number}, --jobs {jobs}: {seconds:.1f} s (load {load:.1f})")
            if tables[0] != tables[1]:
                sys.exit("the tables differ")
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    ratios = [float(str(one["seconds"])) / float(str(two["seconds"]))
              for one, two in zip(rows[::2], rows[1::2], strict=True)]  # fmt: skip
    print(f"one process takes {', '.join(f'{r:.2f}' for r in ratios)} times as long; same tables")


if __name__ == "__main__":
    main()
