"""Realisation at the true size of two 7B models on one data-centre GPU, in under eight minutes.

    python benchmarks/gpu.py                 # results/<device>/gpu/: rounds, summary, run.json
    python benchmarks/gpu.py --plan          # what would run, and for how long
    python benchmarks/gpu.py --dry-run       # the same path at toy size on a CPU, about a minute

Random weights made on the device: speed needs no trained ones, and nothing is downloaded. 58 text
tokens around the model's ordinary image (LLaVA-NeXT: 2,928 image tokens; Qwen2.5-VL: 576), 16 new
tokens. Realisation is speed-up over FLOPs reduction of a phase: 1 where all that was saved became
time. All methods of a batch size take turns in every round, forwards and backwards.

Every round is written as it ends and the same command goes on from there. A method that runs out
of memory is marked and left out, as is what the time limit does not reach. FLOPs are counted from
the routing record of the same prompts. gamma is timed with its training rule (top-k): under a
random router its threshold skips nothing.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from gpu_place import SEED, Place, bus_id, describe  # noqa: E402
from gpu_tables import Rounds, summary, write_summary  # noqa: E402

import methods  # noqa: E402
from harness.common.errors import EXIT_OK, EXIT_USAGE, UsageError  # noqa: E402
from harness.families.catalog import KNOWN, family_of, shape_from_config  # noqa: E402
from harness.options.workload import Workload, fewest, pictures  # noqa: E402
from harness.store.record import dense_record  # noqa: E402
from harness.timing.agreement import answer  # noqa: E402
from harness.timing.clock import clock_for  # noqa: E402
from harness.timing.device import Watch  # noqa: E402
from harness.timing.fit import ROOM, need  # noqa: E402
from harness.timing.phases import timed  # noqa: E402
from harness.timing.prompts import synthetic  # noqa: E402
from harness.timing.rows import phase_tflops  # noqa: E402
from harness.timing.shape import random_config, random_name  # noqa: E402
from harness.timing.subject import Bench, active, build_random, fresh  # noqa: E402

MODELS = ("llava-hf/llava-v1.6-vicuna-7b-hf", "Qwen/Qwen2.5-VL-7B-Instruct")
METHODS = (
    "dense", "fastv:r=0.25", "fastv:r=0.5", "fastv:r=0.75", "pyramiddrop", "visionzip", "pmod",
    "gamma",
)  # fmt: skip
ROUNDS = {1: 20, 8: 8, 32: 4}
LEAST = 3  # rounds below which a batch size is left out
TEXT, OUT = 58, 16
LAYERS, WIDTH = 7, 64  # of the dry run: enough layers for every method's stages
REACHED = 0.6  # of a large matrix product's speed, in a prefill: for the plan alone
LAUNCHES = 0.4e-3  # seconds a layer and token at least: for the plan alone


@dataclass
class Block:
    """One model at one batch size."""

    model: str
    batch: int
    rounds: int
    seconds: float  # expected of a round of all methods
    gib: float  # expected of dense

    @property
    def total(self) -> float:
        """Expected seconds, with a warm-up."""
        return (self.rounds + 1) * self.seconds


# --- the plan ---------------------------------------------------------------------------------
def config_of(model: str, dry: bool) -> tuple[dict[str, Any], Any, Any]:
    """Config, shape and images of a prompt."""
    name = random_name(model, LAYERS if dry else None, WIDTH if dry else None)
    config = random_config(KNOWN[model], name, LAYERS if dry else None, WIDTH if dry else None)
    shape = shape_from_config(config, name)
    return config, shape, fewest(shape) if dry else pictures(shape, None)


def share(method: Any, info: Any) -> float:
    """What of the image tokens a layer processes on average; 1 where the images decide."""
    wanted = method.request(info, 576)
    return sum(wanted) / 576 / len(wanted) if wanted else 1.0


def plan(options: argparse.Namespace, place: Place) -> list[Block]:
    """All blocks, with as many rounds as the time allows; the smallest batches first."""
    blocks, itemsize = [], place.dtype.itemsize
    for model in options.models:
        config, shape, pics = config_of(model, options.dry_run)
        info = family_of(config, model, sizes_only=True).info(shape)
        tflops = phase_tflops([dense_record(TEXT, pics.tokens, shape.layers, OUT)], shape, itemsize,
                              True)  # fmt: skip
        parts = sum(share(methods.parse(spec), info) for spec in options.methods)
        for batch in options.batches:
            wanted = need(shape, Workload(n_text=TEXT, n_out=OUT, batch=batch), pics, itemsize,
                          "sdpa")  # fmt: skip
            step = max(wanted.weights / place.bytes, shape.layers * LAUNCHES)
            prompt = (tflops["vision"] * len(options.methods) + tflops["prefill"] * parts) * 1e12
            seconds = batch * prompt / (REACHED * place.flops) + len(options.methods) * OUT * step
            rounds = options.rounds or ROUNDS.get(batch, LEAST)
            blocks.append(Block(model, batch, rounds, seconds, wanted.total / 2**30))
    blocks.sort(key=lambda block: block.batch)
    budget = 0.85 * options.seconds  # the rest: building, the first calls
    while sum(b.total for b in blocks) > budget and any(b.rounds > LEAST for b in blocks):
        longest = max((b for b in blocks if b.rounds > LEAST), key=lambda b: b.total)
        longest.rounds -= 1
    return blocks


def show(blocks: Sequence[Block], place: Place, options: argparse.Namespace) -> None:
    """The plan, before anything runs."""
    print(f"{place.name}, {str(place.dtype).removeprefix('torch.')}, sdpa: matrix product "
          f"{place.flops / 1e12:.2f} TFLOP/s, copy {place.bytes / 1e9:.0f} GB/s")  # fmt: skip
    print(f"methods: {', '.join(options.methods)}")
    for block in blocks:
        fits = place.free is None or block.gib * 2**30 <= ROOM * place.free
        print(
            f"  {block.model}  batch {block.batch}: {block.rounds} rounds, about "
            f"{block.total:.0f} s, {block.gib:.1f} GiB{'' if fits else ', may not fit'}"
        )
    together = sum(block.total for block in blocks)
    print(f"together about {together:.0f} s; stops after {options.seconds} s", flush=True)


# --- running it -------------------------------------------------------------------------------
def run_block(block: Block, bench: Bench, subjects: dict[str, Any], pics: Any, rounds: Rounds,
              watch: Watch, until: float) -> None:  # fmt: skip
    """The missing rounds of a block, each written as it ends."""
    clock, key = clock_for(bench.device), (block.model, block.batch)
    work = Workload(n_text=TEXT, n_out=OUT, batch=block.batch)
    done = rounds.count(*key)
    if done >= block.rounds:
        return
    prompt = synthetic(bench, work, pics, SEED)

    def once(spec: str) -> dict[str, float] | None:
        status, found = "", None
        try:
            with torch.no_grad(), active(bench, subjects[spec]) as run:
                run.set_samples(list(prompt.names))
                found = timed(bench.model, prompt, OUT, clock)
        except (torch.OutOfMemoryError, MemoryError):
            status = "out of memory"
        if status:  # outside the handler: the error holds the tensors of its frames
            rounds.mark(*key, spec, status)
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
        return found

    for spec in subjects:  # warm-up; the first call is slower
        if not rounds.marked(*key, spec):
            once(spec)
    order = list(subjects)
    for number in range(done, block.rounds):
        if time.perf_counter() > until:
            print(f"  stopped by the time limit after {number} of {block.rounds} rounds")
            return
        taken = {}
        for spec in order if number % 2 == 0 else order[::-1]:
            found = None if rounds.marked(*key, spec) else once(spec)
            if found is not None:
                taken[spec] = found
        rounds.add(*key, number, taken, watch.read())


def run_model(model: str, blocks: Sequence[Block], options: argparse.Namespace, place: Place,
              rounds: Rounds, watch: Watch, until: float) -> None:  # fmt: skip
    """Build a model, count its FLOPs from one recorded call a method, time its blocks."""
    config, shape, pics = config_of(model, options.dry_run)
    print(f"building {shape.name}", flush=True)
    bench = Bench(build_random(config, place.device, place.dtype, "sdpa", SEED), shape)
    chosen = {spec: methods.parse(spec).for_random_weights()[0] for spec in options.methods}
    subjects = {spec: fresh(method, bench.model, SEED) for spec, method in chosen.items()}
    prompt = synthetic(bench, Workload(n_text=TEXT, n_out=OUT), pics, SEED)
    for spec, subject in subjects.items():
        if not rounds.counted(model, spec):
            found = answer(bench, subject, prompt, OUT)
            tflops = phase_tflops(found.records, shape, place.dtype.itemsize, True)
            rounds.note_flops(model, spec, tflops)
    for block in blocks:
        print(f"{model}  batch {block.batch}", flush=True)
        run_block(block, bench, subjects, pics, rounds, watch, until)


def main() -> int:
    """Plan, run, summarise; 0 also where the limit was reached, 2 without a device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    parser.add_argument("--dry-run", action="store_true", help="toy size on a CPU")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--batches", type=int, nargs="+", help="default 1 8 32; 1 2 in a dry run")
    parser.add_argument("--rounds", type=int, help="at each batch size (default: 20, 8, 4)")
    parser.add_argument("--seconds", type=int, default=440, help="stop then (default 440)")
    parser.add_argument("--out", type=Path, help="default: results/<device>/gpu")
    options = parser.parse_args()
    options.methods = ["dense", *(m for m in options.methods if m != "dense")]
    options.batches = options.batches or ([1, 2] if options.dry_run else list(ROUNDS))
    options.rounds = options.rounds or (LEAST if options.dry_run else None)
    try:
        return run(options)
    except UsageError as error:
        print(f"benchmarks/gpu.py: {error}", file=sys.stderr)
        return EXIT_USAGE


def run(options: argparse.Namespace) -> int:
    """As :func:`main`, with the options read."""
    began = time.perf_counter()
    place = Place.found(options.dry_run)
    blocks = plan(options, place)
    show(blocks, place, options)
    if options.plan:
        return EXIT_OK
    folder = re.sub(r"[^a-z0-9]+", "-", place.name.lower()).strip("-")
    where = Path("runs/gpu-dry-run") if options.dry_run else ROOT / "results" / folder / "gpu"
    out = options.out or where
    watch = Watch(bus_id(place))
    rounds = Rounds(out, describe(place, watch, options, TEXT, OUT))
    passed, whole = 0.0, sum(block.total for block in blocks)
    try:
        for model in options.models:
            mine = [block for block in blocks if block.model == model]
            passed += sum(block.total for block in mine)  # each model has its share of the time
            until = began + options.seconds * passed / whole
            run_model(model, mine, options, place, rounds, watch, until)
            gc.collect()  # the model's modules refer to each other
            if place.device.type == "cuda":
                torch.cuda.empty_cache()
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
    write_summary(summary(rounds, options.methods), out, options.dry_run)
    print(f"{time.perf_counter() - began:.0f} s")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
