"""How long the ledger takes over cached routing: 500 samples of 10 methods.

    python benchmarks/counting.py --out benchmarks/counting.csv

1. Examination: both counters, fvcore and torch, on every part of the model, once.
2. Read-out: token counts, KV cache and FLOPs under every convention, and by both counters, from
   routing records at the token counts of LLaVA-NeXT-7B (2,928 image tokens, 32 layers, 31 decode
   steps), with a router in every routed layer.
3. Rows of `cost.csv` from the samples files: means and bootstrap intervals of every scope.

Wall-clock and CPU seconds of one process, without importing; routing varies from sample to sample,
as a method's with thresholds does. Target: under 5 s together.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.cost.readouts import ROUTING, read_out
from harness.cost.referees import Referees
from harness.cost.rows import cost_rows
from harness.families.catalog import shape_of
from harness.store.record import IMAGE, SKIPPED, RoutingRecord, dense_record

MODEL = "llava-hf/llava-v1.6-vicuna-7b-hf"
N_IMAGE, N_TEXT, N_OUT = 2928, 58, 31
CROPS = [{"kind": "base", "rows": 24, "cols": 24, "crops": 1},
         {"kind": "tile", "rows": 48, "cols": 48, "crops": 4}]  # fmt: skip
COLUMNS = ("step", "samples", "methods", "wall_s", "cpu_s")


def records(samples: int, layers: int, keep: float, seed: int) -> list[RoutingRecord]:
    """Records of one method: from layer 2 on, each layer skips its own random image tokens."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(samples):
        record = dense_record(N_TEXT - number % 7, N_IMAGE, layers, n_out=N_OUT, prefix=35)
        image = np.flatnonzero(record.kinds == IMAGE)
        skipped = rng.random((layers - 2, image.size)) > keep
        part = record.route[2:, image]
        part[skipped] = SKIPPED
        record.route[2:, image] = part
        record.mod_layers[2:] = True
        record.grid = CROPS
        router = {"phase": "prompt", "kind": "linear", "tokens": record.n, "calls": layers - 2}
        record.scoring = [{**router, "out": 2}]
        made.append(record)
    return made


def measure(samples: int, methods: int) -> Iterator[dict[str, Any]]:
    """Seconds of the steps, summed over methods; making the records is not timed."""
    shape = shape_of(MODEL)
    spent = {step: [0.0, 0.0] for step in ("examine", "read_out", "cost_rows")}

    def timed(step: str, start: tuple[float, float]) -> None:
        spent[step][0] += time.perf_counter() - start[0]
        spent[step][1] += time.process_time() - start[1]

    start = time.perf_counter(), time.process_time()
    referees = Referees(shape)
    referees.described()
    timed("examine", start)
    for method in range(methods):
        cached = records(samples, shape.layers, 0.1 + 0.08 * method, seed=method)
        start = time.perf_counter(), time.process_time()
        found = [read_out(record, shape, 2, True, referees) for record in cached]
        timed("read_out", start)
        texts = [{k: str(v) for k, v in one.items() if k != ROUTING} for one in found]
        for number, one in enumerate(texts):
            one["image_id"] = f"image-{number // 2}"
        start = time.perf_counter(), time.process_time()
        cost_rows({"method": str(method)}, texts, seed=0)
        timed("cost_rows", start)
    spent["together"] = [sum(pair) for pair in zip(*spent.values(), strict=True)]
    for step, (wall, cpu) in spent.items():
        yield {
            "step": step,
            "samples": samples,
            "methods": methods,
            "wall_s": round(wall, 3),
            "cpu_s": round(cpu, 3),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--methods", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = list(measure(args.samples, args.methods))
    for row in rows:
        print(f"{row['step']:10}{row['wall_s']:8.2f} s wall{row['cpu_s']:8.2f} s CPU")
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
