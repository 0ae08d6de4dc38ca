"""Training throughput of each method relative to dense, measured.

    python benchmarks/training.py --out results/cpu-.../training      # reduced LLaVA-1.5, CPU
    python benchmarks/training.py --out results/... --batch 4         # true 7B sizes, one GPU
    python benchmarks/training.py --layers 5 --width 64 --repeats 6 --warmup 1 --seconds 0 --out ...

Dense and all methods take turns in one process on the same weights and the same batch: forward
pass with the frozen tower, backward pass, AdamW step (rate 0, so that the weights stay what they
are; the arithmetic is the same). A seeded order runs forwards and backwards in turn. Random
weights; no gradient checkpointing. Writes training_throughput.csv and run.json.

On a CPU the decoder has 8 layers of width 512 and a vocabulary that keeps the LM head's share of
the work at 7B (2 %). On a GPU width and vocabulary are the model's own, and there are as many
decoder layers as fit with bf16 weights, gradients and moments; fewer layers change which of them a
method acts on, so flops_ratio is of the model that was timed, not of 32 layers.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import methods as registry  # noqa: E402
from benchmarks.training_model import Batch, build, make_batch  # noqa: E402
from harness.common.errors import UsageError  # noqa: E402
from harness.engine import EngineError  # noqa: E402
from harness.families.catalog import info_of  # noqa: E402
from harness.families.shapes import ModelShape  # noqa: E402
from harness.store.csvfile import write_csv, write_json  # noqa: E402
from harness.store.runinfo import environment  # noqa: E402
from harness.timing.clock import Clock, clock_for  # noqa: E402
from harness.timing.device import Watch, busy_host, cpu_name  # noqa: E402
from harness.timing.measure import (  # noqa: E402
    MIB,
    Budget,
    Measured,
    Times,
    rounds,
    warm_up,
)
from harness.timing.ratios import FEWEST, flops_ratio, realisation, speedup, spread  # noqa: E402
from harness.timing.subject import Bench, Subject, active, fresh  # noqa: E402
from harness.train.recipe import InstructRecipe  # noqa: E402
from harness.train.work import sample_work  # noqa: E402
from methods.base import MethodError  # noqa: E402

MODEL = "llava-hf/llava-1.5-7b-hf"
METHODS = "mod,gamma,pmod,llavolta"
RECIPE = InstructRecipe(checkpointing=False)
PHASES = ("forward", "backward", "forward_backward", "optimiser", "step")
COLUMNS = (
    "model", "method", "label", "phase", "device", "dtype", "attn", "threads", "layers",
    "acting_layers", "width", "n_image", "n_text", "batch", "n", "median_ms", "p10_ms", "p90_ms",
    "samples_per_s", "tokens_per_s", "speedup_vs_dense", "speedup_ci_low", "speedup_ci_high",
    "flops_ratio", "realisation", "realisation_ci_low", "realisation_ci_high", "tflop_sample",
    "peak_mib", "settled",
)  # fmt: skip


class Trainee:
    """Steps of a model under each method; the decoder's optimiser is shared, routers have own."""

    def __init__(self, bench: Bench, subjects: Sequence[Subject], clock: Clock) -> None:
        self.bench, self.clock = bench, clock
        model = bench.model.train()
        model.requires_grad_(True)
        model.model.vision_tower.requires_grad_(False)
        self.optimisers = {None: _adamw([p for p in model.parameters() if p.requires_grad])}
        for subject in subjects:
            if subject.modules is not None:
                modules = subject.modules.train().requires_grad_(True)
                self.optimisers[id(subject)] = _adamw(list(modules.parameters()))

    def step(self, subject: Subject, batch: Batch) -> dict[str, float]:
        """One training step; ms by phase. Raises FloatingPointError when the loss is no number."""
        clock = self.clock
        chosen = [self.optimisers[key] for key in (None, id(subject)) if key in self.optimisers]
        with active(self.bench, subject) as run:
            marks = [clock.mark()]
            loss = self.bench.model(**batch.inputs).loss
            extra = run.aux_loss()
            loss = loss if extra is None else loss + extra
            marks.append(clock.mark())
            loss.backward()
            marks.append(clock.mark())
            for optimiser in chosen:
                optimiser.step()
            marks.append(clock.mark())
        for optimiser in chosen:
            optimiser.zero_grad(set_to_none=True)
        clock.finish()
        if not bool(loss.isfinite()):
            raise FloatingPointError(f"{subject.method.label}: the loss is {float(loss)}")
        forward, backward, optimise = (clock.ms(a, b) for a, b in itertools.pairwise(marks))
        return {
            "forward": forward,
            "backward": backward,
            "forward_backward": forward + backward,
            "optimiser": optimise,
            "step": forward + backward + optimise,
            "end_to_end": forward + backward + optimise,  # what the budget counts
        }

    def peak_mib(self, subject: Subject, batch: Batch) -> float | None:
        """Peak allocated memory of one step; None off CUDA."""
        device = self.bench.device
        if device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(device)
        self.step(subject, batch)
        return torch.cuda.max_memory_allocated(device) / MIB


def _adamw(parameters: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0, fused=True)


def subjects_of(specs: str, bench: Bench, seed: int) -> list[Subject]:
    """Dense first, then every method that fits the depth; a line on each that does not."""
    found = []
    for method in [registry.parse("dense"), *registry.parse_list(specs)]:
        try:
            method.fits(info_of(bench.shape))
            if method.name != "dense" or not found:
                found.append(fresh(method, bench.model, seed))
        except (MethodError, EngineError) as error:
            print(f"left out: {error}")
    return found


def flops(subject: Subject, shape: ModelShape, n_text: int) -> dict[str, float]:
    """FLOPs of one sample by phase; the optimiser's are none of the ledger's."""
    work = sample_work(RECIPE, subject.method, shape, n_text)
    forward = sum(work.forward.values())
    return {
        "forward": forward,
        "backward": work.training - forward,
        "forward_backward": work.training,
        "optimiser": 0.0,
        "step": work.training,
    }


def result_rows(
    common: dict[str, Any],
    subjects: Sequence[Subject],
    times: Sequence[Times],
    peaks: Sequence[float | None],
    shape: ModelShape,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """A row a method and phase."""
    n_text, batch = common["n_text"], common["batch"]
    tokens = batch * (n_text + common["n_image"])
    dense = flops(subjects[0], shape, n_text)
    for subject, own, peak in zip(subjects, times, peaks, strict=True):
        work = flops(subject, shape, n_text)
        for phase in PHASES:
            ms = own.rounds[phase]
            middle = spread(ms)
            gain = speedup(times[0].rounds[phase], ms, seed)
            ratio = flops_ratio(dense[phase], work[phase])
            first = subject is subjects[0]
            realised = None if first else realisation(gain, ratio)
            yield {
                **common,
                "method": subject.method.name,
                "label": subject.method.label,
                "phase": phase,
                "acting_layers": sum(subject.method.mod_layers(info_of(shape))),
                "n": len(ms),
                "median_ms": middle.median,
                "p10_ms": middle.p10,
                "p90_ms": middle.p90,
                "samples_per_s": 1e3 * batch / middle.median,
                "tokens_per_s": 1e3 * tokens / middle.median,
                "speedup_vs_dense": None if gain is None or first else gain.value,
                "speedup_ci_low": None if gain is None or first else gain.low,
                "speedup_ci_high": None if gain is None or first else gain.high,
                "flops_ratio": ratio,
                "realisation": realised.value if realised else None,
                "realisation_ci_low": realised.low if realised else None,
                "realisation_ci_high": realised.high if realised else None,
                "tflop_sample": work[phase] / 1e12 if work[phase] else None,
                "peak_mib": peak if phase == "step" else None,
                "settled": own.settled,
            }


def run(options: argparse.Namespace) -> None:
    """Build, warm up, time, write."""
    busy = busy_host()
    bench, name, dtype = build(options)
    shape = bench.shape
    subjects = subjects_of(options.methods, bench, options.seed)
    trainee = Trainee(bench, subjects, clock_for(bench.device))
    batch = make_batch(bench, options.text, options.batch, options.seed)
    found = Measured([Times() for _ in subjects])
    for subject, times in zip(subjects, found.times, strict=True):
        warm_up(trainee.step, subject, [batch], options.warmup, times)  # type: ignore[arg-type, list-item]
        print(f"warm: {subject.method.label}, {times.first_ms:.0f} ms the first step", flush=True)
    budget = Budget(options.repeats, options.warmup, options.seconds, options.max_seconds)
    rounds(
        trainee.step, subjects, [batch], budget, Watch(None), options.seed, found,  # type: ignore[arg-type, list-item]
        lambda number, of: print(f"round {number} of {of}", end="\r", flush=True),
    )  # fmt: skip
    print()
    peaks = [trainee.peak_mib(subject, batch) for subject in subjects]
    cuda = bench.device.type == "cuda"
    common = {
        "model": name,
        "device": torch.cuda.get_device_name(bench.device) if cuda else cpu_name(),
        "dtype": str(dtype).removeprefix("torch."),
        "attn": options.attn,
        "threads": torch.get_num_threads(),
        "layers": shape.layers,
        "width": shape.hidden,
        "n_image": batch.n_image,
        "n_text": batch.n_text,
        "batch": options.batch,
    }
    rows = list(result_rows(common, subjects, found.times, peaks, shape, options.seed))
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(options.out / "training_throughput.csv", COLUMNS, rows)
    about = {**environment(sys.argv), **common, "seed": options.seed, "vocabulary": shape.vocab}
    about |= {"n": len(found.readings), "stopped": found.stopped, "notes": [busy] if busy else []}
    about |= {"weights": "random", "optimiser": "AdamW, fused, states in the dtype of the weights"}
    write_json(options.out / "run.json", {"schema_version": 1, "kind": "training", **about})
    report(rows)


def report(rows: Sequence[dict[str, Any]]) -> None:
    """A line a method: the step, and forward with backward."""
    for row in rows:
        if row["phase"] not in ("forward_backward", "step"):
            continue
        line = f"{row['label']:12} {row['phase']:17} {row['median_ms']:9.1f} ms"
        if row["speedup_vs_dense"] is not None:
            low, high = row["speedup_ci_low"], row["speedup_ci_high"]
            span = "" if low is None else f" [{low:.3f}, {high:.3f}]"
            line += f"  {row['speedup_vs_dense']:.3f}x{span}  FLOPs {row['flops_ratio']:.3f}x"
            line += f"  realised {row['realisation']:.2f}"
        print(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of training_throughput.csv and run.json")
    add("--model", default=MODEL, help="whose sizes (random weights)")
    add("--methods", default=METHODS)
    add("--layers", type=int, help="decoder layers (CPU: 8; GPU: all that fit)")
    add("--width", type=int, help="decoder width (CPU: 512; GPU: the model's own)")
    add("--text", type=int, default=64, help="text tokens a sample")
    add("--batch", type=int, default=2)
    add("--device", default="auto")
    add("--dtype", choices=("float32", "bfloat16"), help="CPU: float32; GPU: bfloat16")
    add("--attn", default="sdpa", choices=("sdpa", "eager", "flash_attention_2"))
    add("--repeats", type=int, default=30, help=f"rounds at least, {FEWEST} or more")
    add("--warmup", type=int, default=5, help="steps a method before the rounds")
    add("--seconds", type=float, default=10.0, help="seconds of dense at least")
    add("--max-seconds", type=float, help="stop the rounds after so many seconds")
    add("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        if options.repeats < FEWEST:
            raise UsageError(f"--repeats: at least {FEWEST}, an interval needs them")
        run(options)
    except (UsageError, MethodError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
