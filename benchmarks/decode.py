"""What a routed model pays a generated token, against plain ``generate``, on this CPU.

    python benchmarks/decode.py                          # both sizes, batch 1 and 8, all methods
    python benchmarks/decode.py --sizes tiny --methods dense fastv

Every method that leaves generated tokens alone takes turns with the plain model (ABBA) on the same
weights and prompt. A call's figure is the median of its gaps between tokens, the first one left
out; a pair's ratio is routed over plain, so below 1 is faster (a shorter cache is read). Printed
and kept: the median ratio of the pairs with its 95 % bootstrap interval. Target: at most 1.03.
``--cpu-time`` counts the process's own seconds: the better clock on a busy machine, one thread.
``records``: with a routing record noted, as in evaluations; times of others are without.
Rows ``ragged`` are padded on the left to unequal lengths, so both sides need a mask.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_cpu import IMAGE, PATCH, build  # beside this script
from transformers import LogitsProcessor

import methods
from harness.common.errors import UsageError
from harness.engine import model_info, routed
from methods.base import Method, MethodError

TARGET = 1.03
SIZES = {"tiny": (6, 64), "real": (24, 896)}  # layers, width: the tests' and Qwen2-0.5B's
SIDE, TEXT, TOWER = 12, 48, 3
COLUMNS = (
    "size", "layers", "width", "batch", "rows", "records", "method", "n_image", "n_text", "n_out",
    "pairs", "clock", "plain_ms", "routed_ms", "ratio", "ratio_ci_low", "ratio_ci_high",
    "threads", "device",
)  # fmt: skip


class Stamp(LogitsProcessor):
    """Notes when each token's logits are there."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.at, self.now = [], now

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.at.append(self.now())
        return scores

    @property
    def gap(self) -> float:
        """Median seconds between two tokens, prefill and the first step left out."""
        return float(np.median(np.diff(self.at)[1:]))


def leaving_decode_alone() -> list[str]:
    """Names of the methods that do nothing to generated tokens."""
    names = [n for n in methods.REGISTRY if methods.load(n).decode is Method.decode]
    return [n for n in names if methods.load(n).least_images == 1]


def prompt(batch: int) -> dict[str, Any]:
    """Half of the text before the image, half behind it; pixels, so that methods read the tower."""
    half = TEXT // 2
    ids = torch.tensor([[7] * half + [IMAGE] * SIDE**2 + [9] * half] * batch)
    pixels = torch.randn(batch, 3, SIDE * PATCH, SIDE * PATCH)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def ragged(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same prompts, every other row shorter by eight text tokens."""
    ids, mask = inputs["input_ids"].clone(), inputs["attention_mask"].clone()
    ids[::2, :8], mask[::2, :8] = 0, 0
    return inputs | {"input_ids": ids, "attention_mask": mask}


def once(
    model: Any, inputs: dict[str, Any], n_out: int, stack: ExitStack, now: Callable[[], float]
) -> float:
    """Seconds a token of one call, under whatever ``stack`` holds open."""
    stamp = Stamp(now)
    with torch.no_grad(), stack:
        model.generate(
            **inputs, do_sample=False, min_new_tokens=n_out, max_new_tokens=n_out,
            logits_processor=[stamp], pad_token_id=0,
        )  # fmt: skip
    return stamp.gap


def pairs(
    model: Any, name: str, inputs: dict[str, Any], options: argparse.Namespace, record: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds a token, plain and routed, in the order a b b a after one call of each."""
    method = methods.parse(name)
    modules = method.build_modules(model_info(model))
    if modules is not None:
        modules = modules.eval()
    found: dict[bool, list[float]] = {False: [], True: []}
    now = time.process_time if options.cpu_time else time.perf_counter
    for turn in range(-1, options.pairs):
        for mine in (False, True) if turn % 2 == 0 else (True, False):
            stack = ExitStack()
            if mine:
                run = stack.enter_context(routed(model, method, modules, record=record))
                run.set_samples([str(i) for i in range(len(inputs["input_ids"]))])
            seconds = once(model, inputs, options.out, stack, now)
            if turn >= 0:
                found[mine].append(seconds)
    return np.array(found[False]), np.array(found[True])


def interval(plain: np.ndarray, mine: np.ndarray) -> tuple[float, float, float]:
    """Median ratio of the pairs and its 95 % bootstrap interval."""
    ratios, rng = mine / plain, np.random.default_rng(0)
    draws = np.median(ratios[rng.integers(0, len(ratios), (2000, len(ratios)))], axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a size, batch, kind of rows, and method."""
    for size in options.sizes:
        layers, width = SIZES[size]
        model = build(SIDE, layers, width, TOWER)
        for batch in options.batches:
            whole = prompt(batch)
            for kind in ("equal", "ragged") if batch > 1 else ("equal",):
                inputs = ragged(whole) if kind == "ragged" else whole
                for record in (False, True) if options.records else (False,):
                    for name in options.methods:
                        try:
                            found = pairs(model, name, inputs, options, record)
                        except (MethodError, UsageError) as error:
                            print(f"{size}  {name}: left out, {error}", flush=True)
                            continue
                        ratio, low, high = interval(*found)
                        yield {
                            "size": size, "layers": layers, "width": width, "batch": batch,
                            "rows": kind, "records": record, "method": name, "n_image": SIDE**2,
                            "n_text": TEXT, "n_out": options.out, "pairs": options.pairs,
                            "clock": "cpu" if options.cpu_time else "wall",
                            "plain_ms": round(1e3 * float(np.median(found[0])), 3),
                            "routed_ms": round(1e3 * float(np.median(found[1])), 3),
                            "ratio": round(ratio, 4), "ratio_ci_low": round(low, 4),
                            "ratio_ci_high": round(high, 4),
                            "threads": torch.get_num_threads(), "device": "cpu",
                        }  # fmt: skip


def main() -> None:
    """Measure, print, write the CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out-csv", type=Path, default=Path("benchmarks/decode.csv"))
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--methods", nargs="*", default=leaving_decode_alone())
    parser.add_argument("--out", type=int, default=16, help="new tokens of a call (default 16)")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--records", action="store_true", help="also with records noted")
    parser.add_argument(
        "--cpu-time", action="store_true", help="the process's own seconds, for busy machines"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    missed = 0
    with options.out_csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in measure(options):
            writer.writerow(row)
            file.flush()
            missed += row["ratio"] > TARGET
            print(
                f"{row['size']}  batch {row['batch']} {row['rows']}"
                f"{' with records' if row['records'] else ''}  {row['method']}: {row['ratio']:.3f} "
                f"[{row['ratio_ci_low']:.3f}, {row['ratio_ci_high']:.3f}] of plain a token, "
                f"{row['routed_ms']:.2f} against {row['plain_ms']:.2f} ms",
                flush=True,
            )
    print(f"above {TARGET}: {missed} rows")


if __name__ == "__main__":
    main()
