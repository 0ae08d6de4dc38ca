"""Seconds of a run's start, by step: from the command to the first question.

    python benchmarks/startup.py [--repeats 3] [--out startup.csv]

Every repeat is a process of its own; shown is the median wall time of each step, and its processor
time, which other processes on the machine change little. The run is of two methods on two
benches.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
STEPS: dict[str, tuple[float, float]] = {}  # step -> wall and processor seconds
COLUMNS = ("step", "wall_s", "cpu_s", "repeats", "threads", "device", "notes")


class Asked(Exception):
    """The first question was about to be answered."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Clock one step."""
    wall, used = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        STEPS[name] = time.perf_counter() - wall, time.process_time() - used


def start() -> None:
    """One start in this process."""
    gc.disable()  # as the runner does until the model is there
    with step("command line"):
        from harness.command.cli import parse
        from harness.common.threads import prepare

        prepare()
        out = Path(tempfile.mkdtemp()) / "run"
        argv = ["--methods", "gamma,pmod", "--bench", "gqa,textvqa", "--quiet", "--out", str(out)]
        settings = parse(argv)[1]
    with step("import torch"):
        import torch
    with step("import transformers"):
        import harness.model.loading
    with step("import the job"):
        from harness.common.progress import Progressing
        from harness.jobs.benchmarks import Benchmarks

    with step("import lmms-eval"):
        from harness.common.torchvision_ops import declare_missing_ops

        declare_missing_ops()
        import harness.bench.upstream  # noqa: F401
    job = Benchmarks(settings, argv)
    with step("names, data, hashes"):
        job.resolve(out)
    load, counters = job.load, job.counters

    def loading(show: Progressing) -> object:
        with step("load the model"):
            return load(show)

    def counting() -> object:
        with step("counters of FLOPs"):
            return counters()

    vars(job).update(load=loading, counters=counting)
    with Progressing(quiet=True) as show, step("open (all of it)"):
        job.open(out, show)
    first_question(job)
    STEPS["threads"] = torch.get_num_threads(), 0.0


def first_question(job: object) -> None:
    """The first cell up to its first batch."""
    from harness.bench.batches import Batches
    from harness.bench.loop import evaluate

    def answer(*_: object) -> object:
        raise Asked

    cell = job.grid.cells[0]  # type: ignore[attr-defined]
    Batches._try = answer  # type: ignore[method-assign,assignment]
    with step("first cell to its first batch"):
        try:
            evaluate(job.session, cell.method, cell.bench, progress=False, batch_size=8)  # type: ignore[attr-defined]
        except Asked:
            return
    raise SystemExit("nothing was asked")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.once:
        start()
        print(json.dumps(STEPS))
        return
    from harness.timing.device import busy_host, cpu_name

    note, found = busy_host(), []
    command = [sys.executable, __file__, "--once"]
    for _ in range(asked.repeats):
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        found.append(json.loads(run.stdout.splitlines()[-1]))
    threads = int(found[0].pop("threads")[0])
    rows = []
    for name in found[0]:
        wall, used = zip(*(one[name] for one in found if name in one), strict=True)
        rows.append(
            {
                "step": name, "wall_s": round(statistics.median(wall), 2),
                "cpu_s": round(statistics.median(used), 2), "repeats": len(wall),
                "threads": threads, "device": cpu_name(), "notes": note,
            }
        )  # fmt: skip
    inside = ("load the model", "counters of FLOPs")  # parts of another step
    total = {
        key: round(sum(row[key] for row in rows if row["step"] not in inside), 2)
        for key in ("wall_s", "cpu_s")
    }
    rows.append({**rows[0], "step": "total", **total})
    for row in rows:
        print(f"{row['step']:32s} {row['wall_s']:7.2f} s  processor {row['cpu_s']:6.2f} s")
    print(f"{threads} threads, {cpu_name()}; {note or 'quiet machine'}")
    if asked.out is not None:
        with asked.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
