"""How much of what is drawn an untrained gamma-MoD router keeps, by its seed.

    python benchmarks/router_seeds.py [--work DIR] [--data DIR] [--seeds 10000] [--sharpen 8,16,32]

A short training moves a linear router little (its rate is the decoder's in the papers), so the
order it starts with is the order it ends with. Training scenes go through the dense start model
once; each seed's router then ranks their tokens at every MoD layer. Printed are the seeds whose
threshold, at a factor on the logits, skips about what training does, best first:

  top-k      share of the patches with something on them that the training rule keeps
  share      of the tokens up to the image that the threshold skips
  kept       share of the patches with something on them that the threshold keeps
  layers     least and most skipped at a layer

No scene of a test set is read.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.common.torchvision_ops import declare_missing_ops  # noqa: E402

declare_missing_ops()

from harness.engine import find_parts, model_info  # noqa: E402
from harness.minimodel import jobs  # noqa: E402
from harness.minimodel.recipe import Recipe  # noqa: E402
from harness.minimodel.sizes import read_scenes  # noqa: E402
from methods import parse  # noqa: E402
from methods.gamma import Gamma  # noqa: E402

RECIPE = ROOT / "recipes" / "tiny" / "gamma.yaml"
BATCH = 100  # seeds at a time
NEAR = (0.30, 0.40)  # of the tokens up to the image; the papers report 31 to 39 % skipped
SPREAD = (0.15, 0.55)  # of a layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--data", type=Path, default=Path("build/scenes-rounds-4"))
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--sharpen", default="8,16,32")
    parser.add_argument("--best", type=int, default=8)
    args = parser.parse_args()
    recipe = replace(Recipe.load(RECIPE), modules="", compile=False, rank=0, sharpen=1.0)
    method = parse(recipe.method)
    assert isinstance(method, Gamma)
    states, drawn = seen(recipe, method, args.data, args.work, args.scenes)
    factors = [float(one) for one in args.sharpen.split(",")]
    found = torch.cat(
        [
            rated(states, drawn, method, factors, range(at, min(at + BATCH, args.seeds)))
            for at in range(0, args.seeds, BATCH)
        ],
        dim=1,
    )
    print(f"{args.scenes} scenes, {float(drawn.float().mean()):.0%} of their patches drawn on")
    print("factor   seed  top-k  share  kept  layers")
    for k, factor in enumerate(factors):
        share, kept, least, most = found[1 + 4 * k : 5 + 4 * k]
        good = (share > NEAR[0]) & (share < NEAR[1]) & (least > SPREAD[0]) & (most < SPREAD[1])
        order = kept.where(good, torch.tensor(-1.0)).argsort(descending=True)
        for i in order[: min(args.best, int(good.sum()))].tolist():
            shown = "  ".join(f"{float(x[i]):5.1%}" for x in (found[0], share, kept, least, most))
            print(f"{factor:6g} {i:6d}  {shown}")


@torch.no_grad()
def seen(
    recipe: Recipe, method: Gamma, data: Path, work: Path, count: int
) -> tuple[Tensor, Tensor]:
    """What routers read of the tokens up to the image, float32 [scenes, MoD layers, n, d], in the
    dense start model, and which patches have a box on them, bool [scenes, patches]."""
    got: dict[int, Tensor] = {}
    with ExitStack() as stack:
        scenes = read_scenes(recipe, data)
        dense = replace(recipe, method="dense")
        tuning = jobs.prepare(dense, scenes, work, None, stack)
        parts = find_parts(tuning.llava)
        routing = [i for i, on in enumerate(method.mod_layers(model_info(tuning.llava))) if on]
        for i in routing:
            parts.layers[i].input_layernorm.register_forward_hook(
                lambda module, given, out, i=i: got.__setitem__(i, out)
            )
        states, drawn = [], []
        length = len(tuning.packer.head)
        side = tuning.llava.config.vision_config.image_size
        token = tuning.llava.config.vision_config.patch_size
        for n in range(count):
            tuning.model(**tuning.packer([tuning.train[n]]))
            states.append(torch.stack([got[i][0, :length] for i in routing]))
            boxes = scenes.records[tuning.train.rows[n]]["boxes"]
            drawn.append(covered(boxes, side // token, token))
    return torch.stack(states), torch.stack(drawn)


def covered(boxes: list[dict[str, Any]], side: int, token: int) -> Tensor:
    """Bool [side * side]: which patches of `token` pixels a side have a box on them."""
    grid = torch.zeros(side, side, dtype=torch.bool)
    for one in boxes:
        left, top, right, bottom = one["box"]
        rows = slice(int(top) // token, -(-int(bottom) // token))
        grid[rows, int(left) // token : -(-int(right) // token)] = True
    return grid.flatten()


def rated(
    states: Tensor, drawn: Tensor, method: Gamma, factors: list[float], seeds: range
) -> Tensor:
    """Float [1 + 4 factors, seeds], the columns of the table."""
    n, patches = states.shape[2], drawn.shape[1]
    routers = []
    for seed in seeds:
        torch.manual_seed(seed)
        weight = nn.Linear(states.shape[-1], 2, bias=False).weight.detach()
        routers.append(weight[1] - weight[0])
    logits = states @ torch.stack(routers).T  # [scenes, layers, n, seeds]
    on = drawn[:, None, :, None]

    def kept(keep: Tensor) -> Tensor:
        return ((keep[:, :, n - patches :] & on).sum(2) / on.sum(2).clamp(min=1)).mean((0, 1))

    least = logits.kthvalue(int(n * method.ratio), dim=2).values
    rows = [kept(logits > least[:, :, None])]
    cut = float(torch.tensor(method.threshold).logit())
    for factor in factors:
        keep = logits * factor > cut
        layers = 1 - keep.float().mean((0, 2))
        rows += [layers.mean(0), kept(keep), layers.amin(0), layers.amax(0)]
    return torch.stack(rows)


if __name__ == "__main__":
    main()
