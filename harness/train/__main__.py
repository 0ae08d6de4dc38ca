"""`python -m harness.train --recipe recipes/tiny/dense.yaml --data DIR --out DIR`.

Runs on the Hugging Face `Trainer`, on CPU or one GPU, shows progress, saves checkpoints and
resumes from the newest one when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.errors import UsageError
from harness.instruct import estimate

TINY = (
    *("tower", "align", "dense-first", "dense-second"),
    *("tower-text", "refit", "dense", "dense-longer"),
    *("mod", "gamma", "pmod", "llavolta"),
)
ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
SCENES, SCENE_SEED = 60_000, 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.train", description=__doc__)
    parser.add_argument("--recipe", type=Path, help="YAML recipe (see recipes/)")
    parser.add_argument("--all", action="store_true", help="every recipe of recipes/tiny in order")
    parser.add_argument("--method", help="overrides the recipe's method (name[:key=value]...)")
    parser.add_argument("--data", type=Path, default=BUILD / "scenes", help="rendered scenes")
    parser.add_argument("--work", type=Path, default=BUILD / "train", help="checkpoints and caches")
    parser.add_argument("--out", type=Path, help="finished model (default: WORK/<recipe name>)")
    parser.add_argument("--start", help="overrides the recipe's start model")
    parser.add_argument("--decoder", type=Path, help="llama2.c bundle the decoder starts from")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--seed", type=int)
    estimate.add_flags(parser)
    args = parser.parse_args(argv)
    try:
        if args.estimate:
            return estimate.main(args)
        if args.all == bool(args.recipe):
            raise UsageError("give either --recipe FILE or --all")
        recipes = [ROOT / f"recipes/tiny/{n}.yaml" for n in TINY] if args.all else [args.recipe]
        for path in recipes:
            _run(path, args)
        if args.all:
            print(f"trained {', '.join(TINY)} in {args.work}; `make ship` copies them to assets/")
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; give the same command again to resume", file=sys.stderr)
        return 130
    return 0


def _run(path: Path, args: argparse.Namespace) -> None:
    from harness.model.torchvision_ops import declare_missing_ops
    from harness.train.recipe import Recipe

    declare_missing_ops()
    from harness.train import jobs, pretrain

    if not (args.data / "images.npy").exists():
        _render(args.data)
    recipe = Recipe.load(
        path,
        method=args.method,
        start=args.start,
        max_steps=args.max_steps,
        epochs=args.epochs,
        seed=args.seed,
    )
    out = args.out or args.work / path.stem
    job = {"tower": pretrain.train_tower, "align": pretrain.align, "tune": jobs.tune}[recipe.stage]
    job(recipe, data=args.data, work=args.work, out=out, decoder=args.decoder)


def _render(folder: Path) -> None:
    """Draw the training scenes of the shipped model, with the seed they were drawn with."""
    import os

    from minidata.__main__ import DEFAULT_CACHE
    from minidata.sources import SourceError
    from minidata.train import write

    try:
        write(folder, SCENES, SCENE_SEED, os.cpu_count() or 1, DEFAULT_CACHE)
    except SourceError as error:
        raise UsageError(f"no scenes in {folder} and none could be rendered: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
