"""`python -m harness.train --recipe recipes/tiny/dense.yaml --data DIR --out DIR`.

Runs on the Hugging Face `Trainer`, shows progress, saves checkpoints and resumes from the newest
one when the same command is given again. Recipes of `stage: instruct` train any LLaVA-family model
on LLaVA conversation data, on one device or, started by torchrun or accelerate launch, on several.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.common import heap
from harness.common.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    HarnessError,
    UsageError,
    one_line,
)
from harness.common.processor import lacks
from harness.common.roots import BUILD
from harness.common.stops import put, stoppable, tell
from harness.common.threads import prepare
from harness.train import estimate
from harness.train.asked import check_acting, check_epochs, check_named, refuse, whole_model
from methods.params import MethodError

# Flags that override the field of the same name in a recipe of `stage: instruct`.
INSTRUCT = (
    *("images", "model", "decoder", "vision", "projector", "batch", "accumulation"),
    *("learning_rate", "workers", "deepspeed", "fsdp"),
)
RUN = tuple(name for name in INSTRUCT if name != "decoder")  # those of that stage alone
PLACED = ("out", "method", "start")
SCENES, SCENE_SEED = 60_000, 1


def main(argv: list[str] | None = None) -> int:
    prepare()
    heap.keep()
    parser = argparse.ArgumentParser(prog="python -m harness.train", description=__doc__)
    parser.add_argument("--recipe", type=Path, help="YAML recipe (see recipes/)")
    parser.add_argument(
        "--all", nargs="?", const="", metavar="MODEL", help="every recipe of a mini model (of all)"
    )
    parser.add_argument(
        "--ship", nargs="?", const="", metavar="MODEL", help="copy what --all trained to assets/"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="with --all: N recipes at a time (default 1)"
    )
    parser.add_argument(
        "--only",
        metavar="RECIPES",
        help="with --all MODEL: these (commas) and what they build on, the model from assets/",
    )
    parser.add_argument("--method", help="overrides the recipe's method (name[:key=value]...)")
    parser.add_argument("--work", type=Path, default=BUILD / "train", help="checkpoints and caches")
    parser.add_argument("--out", type=Path, help="finished model (default: WORK/<recipe name>)")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--data",
        type=Path,
        help="stage instruct: LLaVA conversation JSON or JSON lines; else rendered scenes (python "
        "-m minidata train; without it those of build/ are drawn)",
    )
    parser.add_argument("--decoder", help="language model, or llama2.c bundle, to start from")
    full = parser.add_argument_group("stage instruct (override the recipe)")
    full.add_argument("--images", help="folder of the images")
    full.add_argument("--model", help="model to start from: a name, a hub id or a folder")
    full.add_argument("--vision", help="CLIP tower, with --decoder instead of --model")
    full.add_argument("--projector", help="projector weights, with --decoder")
    full.add_argument("--batch", type=int, help="samples per device and step")
    full.add_argument("--accumulation", type=int, help="steps whose gradients add up")
    full.add_argument("--learning-rate", type=float)
    full.add_argument("--workers", type=int, help="processes that prepare data")
    full.add_argument("--deepspeed", help="DeepSpeed configuration file")
    full.add_argument("--fsdp", help='e.g. "full_shard auto_wrap"')
    tiny = parser.add_argument_group("other stages")
    tiny.add_argument("--start", help="overrides the recipe's start model")
    parser.add_argument("--of-all", action="store_true", help=argparse.SUPPRESS)  # by `Queue`
    estimate.add_flags(parser)
    args = parser.parse_args(argv)
    try:
        with stoppable():
            return _dispatch(args)
    except HarnessError as error:
        _complain(error)
        return error.exit_code
    except MethodError as error:
        _complain(UsageError(one_line(error)))
        return EXIT_USAGE
    except KeyboardInterrupt:
        tell("interrupted; give the same command again to resume")
        return EXIT_INTERRUPTED


def _dispatch(args: argparse.Namespace) -> int:
    if args.estimate:
        return estimate.main(args)
    if sum(given is not None for given in (args.recipe, args.all, args.ship)) != 1:
        raise UsageError("give one of --recipe FILE, --all and --ship")
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()  # before anything asks the library for a model
    if args.jobs is not None and (args.all is None or args.jobs < 1):
        raise UsageError("--jobs: expected a number of at least 1, with --all")
    if args.only is not None and not args.all:
        raise UsageError("--only: expected with --all MODEL, whose recipes it names")
    if args.recipe:
        _run(args.recipe, args, args.work)
        return EXIT_OK
    from harness.minimodel import shipping
    from harness.minimodel.recipe import Recipe

    if args.ship is not None:
        refuse(args, "--ship", (*RUN, *PLACED, "data", "decoder", "max_steps", "epochs", "seed"))
        for line in shipping.ship(shipping.named(args.ship), args.work):
            put(line)
        return EXIT_OK
    refuse(args, "--all", (*RUN, *PLACED))  # one name, start or method for all recipes
    models = shipping.named(args.all)
    only = None if args.only is None else [one.strip() for one in args.only.split(",")]
    asked = {name: shipping.chosen(parts, only or parts.recipes) for name, parts in models.items()}
    every = [path for paths in asked.values() for path in paths]
    check_acting(args, [Recipe.load(path, max_steps=args.max_steps) for path in every])
    for name, parts in models.items():
        work, paths = shipping.place(args.work, name), asked[name]
        for line in shipping.take(name, parts, work, paths):
            put(line)
        if args.jobs and args.jobs > 1:
            _side_by_side(paths, args, work, parts.drawn)
        else:
            for path in paths:
                _run(path, args, work)
        then = "" if only else "; `make ship` copies them to assets/"
        put(f"trained {', '.join(path.stem for path in paths)} in {work}{then}")
    return EXIT_OK


def _side_by_side(
    paths: Sequence[Path], args: argparse.Namespace, work: Path, drawn: Mapping[str, Any]
) -> None:
    """All recipes, `args.jobs` at a time, on scenes that are drawn first."""
    from harness.minimodel.queue import Queue

    data = _scenes(args.data, drawn, pages=bool(drawn.get("share")))
    given = {name: getattr(args, name) for name in ("decoder", "max_steps", "epochs", "seed")}
    words = ["--of-all", "--data", str(data)]
    for name, value in given.items():
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    for line in Queue(paths, work, words, args.jobs).run():
        put(line)


def _drawn(path: Path) -> Mapping[str, Any]:
    """How the scenes of a recipe that ships are drawn; nothing said for one of your own."""
    from harness.minimodel import shipping

    for parts in shipping.named("").values():
        if path.resolve() in shipping.recipes(parts):
            return parts.drawn
    return {}


def scenes_place(drawn: Mapping[str, Any]) -> Path:
    """Where scenes that are drawn so are kept."""
    return BUILD / "-".join(["scenes", *(f"{k}-{v}" for k, v in drawn.items())])


def _scenes(
    data: Path | None,
    drawn: Mapping[str, Any],
    pages: bool,
    needed: Callable[[], None] = lambda: None,
) -> Path:
    """The folder of the rendered scenes: `data`, or the default one, which is drawn as `drawn` says
    where it is not whole. `pages`: whether large ones are read. `needed` raises what must not be
    found out after that."""
    from harness.train.scenes import check_drawn, lacking

    share = drawn.get("share", 0.0)
    asked = {"n": SCENES, "seed": SCENE_SEED, "rounds": drawn.get("rounds", 1), "hd": share}
    if data is not None:
        if said := lacking(data, pages):
            words = " ".join(f"--{key} {value}" for key, value in asked.items())
            raise UsageError(
                f"--data: {said} (python -m minidata train --out FOLDER {words} draws scenes)"
            )
        return data
    data = scenes_place(drawn)
    if lacking(data, bool(share), share):
        needed()
        render(data, **drawn)
    elif drawn:  # a recipe of your own asks for none in particular
        check_drawn(data, asked)
    return data


def _complain(error: HarnessError) -> None:
    """One line; of several processes the first speaks for all about bad usage."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        tell(f"error: {one_line(error, 500)}")
    elif not isinstance(error, UsageError):
        tell(f"error in process {rank}: {one_line(error, 500)}")


def _run(path: Path, args: argparse.Namespace, work: Path) -> None:
    """Carry out one recipe."""
    from harness.common.place import check_place
    from harness.common.yamlfile import read_mapping
    from harness.minimodel.recipe import Recipe

    values = read_mapping(path, f"recipe {path}")
    out = args.out or work / path.stem
    check_place(out)
    common: dict[str, Any] = {"max_steps": args.max_steps, "epochs": args.epochs}
    if args.method:  # trained throughout, whatever stages the recipe has
        common |= {"method": args.method, "stages": ()}
    if values.get("stage") == "instruct":
        from harness.train.job import instruct
        from harness.train.recipe import InstructRecipe

        refuse(args, "a recipe of stage instruct", ("start",))
        own = {name: getattr(args, name) for name in INSTRUCT}
        own |= whole_model(args) | common
        own |= {"seed": args.seed, "data": args.data and str(args.data)}
        asked = InstructRecipe.load(path, values, **own)
        check_epochs(args, [asked.max_steps])
        _say_slow(asked.bf16)
        instruct(asked, out)
        return
    from harness.minimodel.jobs import job_of
    from harness.minimodel.log import alone, claim, inputs
    from harness.minimodel.precision import as_computed

    recipe = Recipe.load(path, start=args.start, seed=args.seed, **common)
    refuse(args, f"a recipe of stage {recipe.stage}, only with stage instruct", RUN)
    job = job_of(recipe)
    if args.all is None and not args.of_all:  # of all recipes a flag may be for some
        check_acting(args, [recipe])
    pages = bool(recipe.pages)
    data = _scenes(args.data, _drawn(path), pages, lambda: check_named(recipe, work))
    decoder = args.decoder and Path(args.decoder)
    written, recipe = recipe.bf16, as_computed(recipe)
    run = work / f"{out.name}-run"
    with alone(run):
        claim(recipe, out, run, written, inputs(recipe, data, work, decoder))
        job(recipe, data=data, work=work, out=out, decoder=decoder)


def _say_slow(bf16: bool) -> None:
    """A line where a recipe asks for a number format the processor has no instructions for."""
    import torch

    slow = lacks("bfloat16")
    if bf16 and slow and not torch.cuda.is_available():
        tell(f"note: {slow}; a recipe with bf16: false trains in float32")


def render(folder: Path, **drawn: Any) -> None:
    """Draw the training scenes of the shipped models, with the seed they were drawn with.

    `drawn`: further arguments of `minidata.train.write`.
    """
    from filelock import Timeout

    from harness.store.folder import RunLock
    from harness.train.scenes import lacking
    from minidata.__main__ import DEFAULT_CACHE
    from minidata.sources import SourceError
    from minidata.train import write

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with RunLock(folder / "drawing.lock", timeout=0):
            if (folder / "images.npy").exists():
                tell(f"note: {folder}: its scenes are not whole and are drawn again")
            write(folder, SCENES, SCENE_SEED, os.cpu_count() or 1, DEFAULT_CACHE, **drawn)
    except Timeout:
        raise UsageError(f"{folder}: another process is drawing scenes there") from None
    except SourceError as error:
        raise UsageError(f"no scenes in {folder} and none could be rendered: {error}") from error
    share = drawn.get("share", 0.0)
    if said := lacking(folder, bool(share), share):  # else each command would draw them again
        raise UsageError(f"{said}: remove it")


if __name__ == "__main__":
    heap.restart()
    sys.exit(main())
