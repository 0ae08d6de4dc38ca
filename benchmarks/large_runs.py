"""How time, memory and bytes of everything behind the answers grow with documents and cells.

    python -m benchmarks.large_runs                       # a growth table over several sizes
    python -m benchmarks.large_runs --size 20x20x10000    # methods x benches x documents
    python -m benchmarks.large_runs --steps plots-only --run RUN

A run without a model: cells go through the real commit path, answers and routing records are made
up (`benchmarks.large_cells`; --tokens image tokens in --layers layers, every record its own until
`--distinct` of a method were made). Then every command that reads such a run, in a process of its
own. CSV: step, seconds by the clock and of processor, peak resident MiB of its process, bytes a
sample of the run directory; `commit` and `tables` are sums over the run's cells and of processor
time, `last_tables` is what the last cell's took. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

GROWTH = "2x2x500 4x2x500 4x4x500 4x4x1000 4x4x2000 8x8x1000"
STEPS = ("run", "resume", "plots-only", "derive", "diff", "pack", "view")
HEAD = [
    "methods",
    "benches",
    "documents",
    "step",
    "seconds",
    "cpu_seconds",
    "peak_mib",
    "bytes_a_sample",
]


class Size(NamedTuple):
    methods: int
    benches: int
    documents: int

    @property
    def samples(self) -> int:
        return self.methods * self.benches * self.documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="*", default=GROWTH.split(), help="METHODSxBENCHESxDOCS")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--tokens", type=int, default=576, help="of the image")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--distinct", type=int, default=256, help="records a method")
    parser.add_argument("--run", type=Path, help="where the run directory is kept")
    asked = parser.parse_args()
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(HEAD)
    largest = Size(0, 0, 0)
    for text in asked.size:
        size = Size(*map(int, text.split("x")))
        with tempfile.TemporaryDirectory() as scratch:
            run = asked.run or Path(scratch, "run")
            for step in asked.steps.split(","):
                for name, clock, spent, peak in measure(step, size, run, Path(scratch), asked):
                    seconds = ["" if clock is None else f"{clock:.2f}", f"{spent:.2f}"]
                    stored = folder_bytes(run) / size.samples
                    out.writerow([*size, name, *seconds, f"{peak / 2**20:.0f}", f"{stored:.0f}"])
                    sys.stdout.flush()
        largest = max(largest, size, key=lambda one: one.samples)
    print(f"# largest run: {largest.samples} samples", file=sys.stderr)


Row = tuple[str, float | None, float, int]
"""Name of a step, seconds by the clock, of processor, peak bytes."""


def measure(
    step: str, size: Size, run: Path, scratch: Path, asked: argparse.Namespace
) -> list[Row]:
    """A step and its parts; what it writes beside the run goes to `scratch`."""
    cli = [sys.executable, "run_suite.py"]
    copy = scratch / "copy"
    records = [asked.tokens, asked.layers, asked.distinct]
    made = [sys.executable, "-m", "benchmarks.large_cells", *map(str, [run, *size, *records])]
    commands = {
        "run": made,
        "resume": made,
        "plots-only": [*cli, "--plots-only", str(run), "--out", str(scratch / "report")],
        "derive": [*cli, "--derive", str(run)],
        "diff": [*cli, "--diff", str(run), str(copy), "--out", str(scratch / "diff")],
        "pack": [
            sys.executable,
            "-m",
            "modsuite",
            "pack",
            str(copy),
            "--to",
            str(scratch / "pack"),
        ],
        "view": [sys.executable, "-m", "benchmarks.large_cells", "view", str(run)],
    }
    if step in ("diff", "pack") and not copy.exists():
        shutil.copytree(run, copy)
    clock, spent, peak, said = timed(commands[step])
    found: list[Row] = [(step, clock, spent, peak)]
    if step in ("run", "resume"):
        found += [(name, None, value, peak) for name, value in json.loads(said).items()]
    return found


def timed(command: list[str]) -> tuple[float, float, int, str]:
    """Seconds, those of processor, peak resident bytes, last line of what must not fail."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        said = child.stdout.read().decode().strip().splitlines()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {child.returncode}")
    clock, spent = time.perf_counter() - begun, used.ru_utime + used.ru_stime
    return clock, spent, used.ru_maxrss * 1024, said[-1] if said else ""


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
