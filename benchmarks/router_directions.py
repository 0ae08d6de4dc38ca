"""Whether two seeds of p-MoD's short training start its predictors in the same direction.

    python benchmarks/router_directions.py [--batch 64] [--steps 6] [--seeds 4]

The predictors start at zero, so the order of the tokens is the direction of their first gradients.
`recipes/study/tiny.yaml` is stopped after some steps; printed are, for each layer and over all of
them, median, least and largest cosine between the predictors of every two seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.common.torchvision_ops import declare_missing_ops  # noqa: E402

declare_missing_ops()

from torch import Tensor, nn  # noqa: E402
from transformers import PrinterCallback, TrainerCallback, TrainingArguments  # noqa: E402

from harness.minimodel.jobs import Tuning, make_trainer, prepare  # noqa: E402
from harness.minimodel.precision import in_format_of_here  # noqa: E402
from harness.minimodel.rates import arguments  # noqa: E402
from harness.minimodel.recipe import Recipe  # noqa: E402
from harness.minimodel.sizes import read_scenes  # noqa: E402

RECIPE = ROOT / "recipes" / "study" / "tiny.yaml"


class Until(TrainerCallback):
    """Stops early and leaves the rate's schedule as it is."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.steps


def started(tuning: Tuning, recipe: Recipe, out: Path, steps: int) -> None:
    """The first steps of a training, in its model; nothing is kept in `out`."""
    plain = arguments(recipe, out).to_dict()
    plain |= {"save_strategy": "no", "disable_tqdm": True, "dataloader_num_workers": 0}
    trainer = make_trainer(tuning, recipe, TrainingArguments(**plain))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Until(steps))
    trainer.train()


def predictors(recipe: Recipe, data: Path, work: Path, steps: int) -> dict[str, Tensor]:
    """The weights [d] of every layer's predictor after so many steps."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as out:
        tuning = prepare(recipe, read_scenes(recipe, data), work, None, stack)
        started(tuning, recipe, Path(out), steps)
        assert tuning.modules is not None
        linears = {n: m for n, m in tuning.modules.named_modules() if isinstance(m, nn.Linear)}
        return {name: linear.weight.detach().flatten() for name, linear in linears.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--data", type=Path, default=Path("build/scenes-rounds-4"))
    args = parser.parse_args()
    found = []
    for seed in range(args.seeds):
        recipe = Recipe.load(RECIPE, method="pmod", seed=seed, batch=args.batch)
        recipe = in_format_of_here(recipe)
        found.append(predictors(recipe, args.data, args.work, args.steps))
    every = []
    for layer in found[0]:
        pairs = [(a[layer], b[layer]) for a, b in combinations(found, 2)]
        if any(one.norm() == 0 for pair in pairs for one in pair):
            print(f"layer {layer}: no gradient reaches a predictor")
            continue
        cosines = [float(nn.functional.cosine_similarity(a, b, dim=0)) for a, b in pairs]
        every += cosines
        print(f"layer {layer}: {_said(cosines)}")
    print(f"all: {_said(every)}")


def _said(cosines: list[float]) -> str:
    return f"median {median(cosines):.2f}, {min(cosines):.2f} to {max(cosines):.2f}"


if __name__ == "__main__":
    main()
