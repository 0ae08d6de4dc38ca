"""How fast the mini models train: whole optimiser steps of a recipe, as its training makes them.

    python benchmarks/mini_training.py --recipe recipes/tiny/dense.yaml [--steps 12] [--out CSV]

Loading a batch, forward and backward pass, clipping and the optimiser's step are all in it;
compilation and the first steps are not. A sample is a scene with the questions packed behind it;
a question counts where its answer has a label. The scenes are those of `make checkpoints`, or
`--data`. Prints and appends one row: median, 10th and 90th percentile of a step.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.common import heap  # noqa: E402
from harness.common.threads import prepare as prepare_threads  # noqa: E402
from harness.common.torchvision_ops import declare_missing_ops  # noqa: E402

prepare_threads()
declare_missing_ops()

import torch  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from harness.common.roots import BUILD  # noqa: E402
from harness.minimodel.jobs import make_trainer, prepare  # noqa: E402
from harness.minimodel.precision import as_computed  # noqa: E402
from harness.minimodel.rates import arguments  # noqa: E402
from harness.minimodel.recipe import Recipe  # noqa: E402
from harness.minimodel.scenes import IGNORE  # noqa: E402
from harness.minimodel.sizes import read_scenes  # noqa: E402
from harness.timing.device import busy_host, cpu_name  # noqa: E402

WARM = 4  # steps before the first one that counts; compilation is in them


class Clock(TrainerCallback):
    """Seconds of each optimiser step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def steps(self) -> list[float]:
        return [b - a for a, b in zip(self.ends[WARM - 1 :], self.ends[WARM:], strict=False)]


def measure(recipe: Recipe, data: Path, work: Path, steps: int) -> dict[str, Any]:
    """One row: seconds a step, scenes and questions a second."""
    clock, questions = Clock(), []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        tuning = prepare(recipe, read_scenes(recipe, data), work, None, stack)
        packer = tuning.packer

        def counted(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            batch = packer(items)
            marked = (batch["labels"] != IGNORE).int()
            questions.append(int((marked.diff(dim=1) == 1).sum()))
            return batch

        args = arguments(recipe, Path(folder))
        args.max_steps, args.save_strategy = WARM + steps, "no"  # type: ignore[assignment]
        args.disable_tqdm, args.dataloader_num_workers = True, 0  # the questions are counted here
        trainer = make_trainer(tuning, recipe, args)
        trainer.data_collator = counted
        trainer.add_callback(clock)
        trainer.train()
    seconds = sorted(clock.steps)
    median, asked = statistics.median(seconds), statistics.mean(questions)
    return {
        "method": recipe.method,
        "batch": recipe.batch,
        "max_text": recipe.max_text,
        "rank": recipe.rank,
        "dtype": "bfloat16" if recipe.bf16 else "float32",
        "threads": torch.get_num_threads(),
        "device": cpu_name(),
        "n": len(seconds),
        "step_s": round(median, 3),
        "p10_s": round(seconds[len(seconds) // 10], 3),
        "p90_s": round(seconds[-1 - len(seconds) // 10], 3),
        "samples_per_s": round(recipe.batch / median, 2),
        "questions_per_s": round(asked / median, 1),
    }


def main() -> int:
    style = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=BUILD / "scenes-rounds-4")
    parser.add_argument("--work", type=Path, default=BUILD / "train")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--start", help="overrides the recipe's start model")
    parser.add_argument("--no-heap", action="store_true", help="leave malloc as it is")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--small-pages", action="store_true", help="keep memory, in pages of 4 KB")
    args = parser.parse_args()
    if not (args.no_heap or args.small_pages):
        heap.restart()
    kept = False if args.no_heap else heap.keep()
    note = busy_host()
    recipe = as_computed(Recipe.load(args.recipe, start=args.start))
    row = {"recipe": args.recipe.stem, "heap_kept": kept}
    row["large_pages"] = os.environ.get("GLIBC_TUNABLES") == heap.TUNABLES
    row |= measure(recipe, args.data, args.work, args.steps) | {"note": note or ""}
    print(", ".join(f"{name} {value}" for name, value in row.items()))
    if args.out:
        fresh = not args.out.exists()
        with open(args.out, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
