"""What the routers of p-MoD or MoD keep at the start of a training, by its seed.

    python benchmarks/router_kept.py [--recipe recipes/tiny-qwen/pmod-first.yaml]

They start at zero, so the order of the tokens is the direction of their first gradients.
The recipe is stopped after some steps; printed are, for each layer, the shares of the patches with
a box on them and of the others that are kept, on the first held-out scenes of 192 px, and the mean
difference over the layers but the last, which no gradient reaches. No scene of a test set is read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from harness.common.torchvision_ops import declare_missing_ops  # noqa: E402

declare_missing_ops()

import torch  # noqa: E402
from router_directions import started  # noqa: E402
from router_seeds import covered  # noqa: E402
from torch import Tensor  # noqa: E402

from harness.engine import model_info  # noqa: E402
from harness.minimodel.jobs import Tuning, prepare  # noqa: E402
from harness.minimodel.precision import in_format_of_here  # noqa: E402
from harness.minimodel.recipe import Recipe  # noqa: E402
from harness.minimodel.sizes import read_scenes  # noqa: E402

RECIPE = ROOT / "recipes" / "tiny-qwen" / "pmod-first.yaml"
SIDE, TOKEN = 192, 16  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--work", type=Path, default=Path("build/train/tiny-qwen"))
    parser.add_argument("--data", type=Path, default=Path("build/scenes-qwen"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seeds", default="1-7", help="first and last")
    parser.add_argument("--scenes", type=int, default=24)
    args = parser.parse_args()
    recipe = in_format_of_here(replace(Recipe.load(args.recipe), compile=False))
    if recipe.modules or recipe.pages or not recipe.module_learning_rate:
        parser.error(f"{args.recipe}: expected routers that begin to learn, and no large pages")
    scenes = read_scenes(recipe, args.data)
    seeds = [int(one) for one in args.seeds.split("-")]
    for seed in range(seeds[0], seeds[-1] + 1):
        with ExitStack() as stack, tempfile.TemporaryDirectory() as out:
            mine = replace(recipe, seed=seed)
            tuning = prepare(mine, scenes, args.work, None, stack)
            started(tuning, mine, Path(out), args.steps)
            shares = kept(tuning, mine.bf16, args.scenes)
            last = model_info(tuning.llava).layers - 1
        learning = [on - off for layer, (on, off) in shares.items() if layer < last]
        shown = "  ".join(f"{layer}: {on:.0%} {off:.0%}" for layer, (on, off) in shares.items())
        mean = sum(learning) / len(learning)
        print(f"seed {seed}  {shown}  mean difference {mean:+.1%}", flush=True)


@torch.no_grad()
def kept(tuning: Tuning, bf16: bool, count: int) -> dict[int, tuple[float, float]]:
    """Layer -> shares kept of the patches with a box on them and of the others, mean of scenes."""
    assert tuning.modules is not None
    counts = tuning.method.request(model_info(tuning.llava), (SIDE // TOKEN) ** 2)
    got: dict[int, Tensor] = {}
    for name, module in tuning.modules.named_children():
        module.register_forward_hook(
            lambda module, given, out, layer=int(name): got.__setitem__(layer, out[0, :, 0])
        )
    packer: Any = tuning.packer
    packer = packer.at((SIDE, SIDE)) if hasattr(packer, "at") else packer
    side = SIDE // TOKEN
    end = len(packer.head)  # of the image: questions follow
    found: dict[int, list[tuple[float, float]]] = {}
    tuning.model.eval()
    for item in range(count):
        boxes = tuning.held.scenes.records[tuning.held.rows[item]]["boxes"]
        on = covered(boxes, side, TOKEN)
        if not on.any() or on.all():
            continue
        device = tuning.llava.device
        batch = {name: value.to(device) for name, value in packer([tuning.held[item]]).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            tuning.model(**batch)
        for layer, raw in got.items():
            raw = raw[end - side**2 : end].float().cpu()
            first = (-raw).argsort(stable=True)[: counts[layer]]
            keep = torch.zeros(side**2, dtype=torch.bool).index_fill(0, first, True)
            pair = float(keep[on].float().mean()), float(keep[~on].float().mean())
            found.setdefault(layer, []).append(pair)
    return {
        layer: tuple(sum(column) / len(column) for column in zip(*pairs, strict=True))  # type: ignore[misc]
        for layer, pairs in sorted(found.items())
    }


if __name__ == "__main__":
    main()
