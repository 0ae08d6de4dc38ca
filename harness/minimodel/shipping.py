"""From recipes to `assets/`: what of a mini model is trained, where, and what of it ships."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.common.errors import UsageError
from harness.common.jsonfile import read_json
from harness.common.nearest import unknown
from harness.common.place import check_place
from harness.common.roots import DATA
from harness.families.catalog import MINIS
from harness.minimodel.folders import LOG
from harness.minimodel.parts import Parts, parts_of
from harness.minimodel.queue import needs
from harness.minimodel.recipe import Recipe
from harness.model.convert.use import METHOD_FILE, as_model
from harness.model.updates import RECORD, TENSORS, check_whole
from harness.model.weights import SINGLE, file_hash

HEADS = "heads.safetensors"  # of a tower's pretraining: no model or method reads them


def named(name: str) -> dict[str, Parts]:
    """The mini model of a name, or all for "", in the order of training. Raises UsageError."""
    if name and name not in MINIS:
        raise UsageError(unknown("mini model", name, MINIS))
    return {one: parts_of(mini.kind) for one, mini in MINIS.items() if name in ("", one)}


def place(work: Path, name: str) -> Path:
    """Where `--all` trains a model: the first in `work` itself, as recipes have the same names."""
    return work if name == next(iter(MINIS)) else work / name


def recipes(parts: Parts) -> list[Path]:
    """The files of its recipes, in the order of training."""
    return [DATA / "recipes" / parts.folder / f"{name}.yaml" for name in parts.recipes]


def main_recipe(parts: Parts) -> str:
    """The recipe that the model itself comes of; the others that ship are updates of it."""
    return next(name for name, suffix in parts.ships.items() if not suffix)


def chosen(parts: Parts, only: Sequence[str]) -> list[Path]:
    """The files of the recipes `only` and of what they build on, in the order of training; the
    model itself and what led to it only where they are named. Raises UsageError for a name that
    is no recipe."""
    for name in only:
        if name not in parts.recipes:
            raise UsageError(unknown("recipe", name, parts.recipes))
    every = recipes(parts)
    asked, wanted, open_ = needs(every), set[str](), list(only)
    while open_:
        name = open_.pop()
        if name in only or (name != main_recipe(parts) and name not in wanted):
            open_ += asked[name] - wanted
            wanted.add(name)
    return [path for path in every if path.stem in wanted]


def take(name: str, parts: Parts, work: Path, paths: Sequence[Path]) -> Iterator[str]:
    """Put the model in `assets/` where those of these recipes look for it that start from it and
    do not come after training it; a line on that.

    One that was trained there stays. Raises UsageError where `assets/` has none, or something
    else lies there.
    """
    main = main_recipe(parts)
    there, source = work / main, DATA / "assets" / name
    read = {one for path in paths for one in Recipe.load(path).builds_on.values()}
    if main not in read or main in [path.stem for path in paths]:
        return
    if (there / LOG).is_file():
        yield f"{main}: as it lies in {there}"
        return
    if not (source / LOG).is_file():
        raise UsageError(f"{source}: no shipped model to start from: name {main} too")
    check_place(there)
    if there.exists():
        raise UsageError(
            f"{there}: no {LOG} in it, so no finished training: remove it, or name {main} too"
        )
    part = work / f"{main}.part"
    shutil.rmtree(part, ignore_errors=True)
    for folder in (as_model(source), source):  # updates stay beside the whole model
        shutil.copytree(folder, part, dirs_exist_ok=True)
    part.rename(there)
    yield f"{main}: not trained, taken from {source}"


def ship(models: Mapping[str, Parts], work: Path) -> Iterator[str]:
    """Copy what ships from `work` to `assets/`; a line each.

    Raises UsageError before anything is copied where a training is missing.
    """
    for name, parts in models.items():
        there = place(work, name)
        lacking = [one for one in parts.ships if not (there / one / LOG).is_file()]
        if lacking:
            raise UsageError(
                f"{name}: nothing to ship: {there} has no finished {', '.join(lacking)} "
                f"(python -m harness.train --all {name})"
            )
    for name, parts in models.items():
        _check_updates(name, parts, models, work)
        _check_methods(name, parts, place(work, name))
    for name, parts in models.items():
        for one, suffix in parts.ships.items():
            source, folder = place(work, name) / one, DATA / "assets" / f"{name}{suffix}"
            # Updates ship in a model's place; what lay there in the other form goes.
            left_out = [SINGLE] if (source / RECORD).is_file() else [RECORD, TENSORS]
            for file in left_out:
                (folder / file).unlink(missing_ok=True)
            left = shutil.ignore_patterns(HEADS, *left_out)
            shutil.copytree(source, folder, ignore=left, dirs_exist_ok=True)
            yield f"{one} -> assets/{name}{suffix}"
    for path in sorted((DATA / "assets").glob(f"*/{RECORD}")):
        record = read_json(path)
        base = path.parent.parent / record["base"] / SINGLE
        if not base.is_file() or record["sha256"] != file_hash(base):
            yield (
                f"note: {path.parent.name} adds to the {record['base']} of before and no longer "
                "loads: train it again"
            )


def _check_methods(name: str, parts: Parts, there: Path) -> None:
    """Raises UsageError for a method's weights that were trained from another dense model."""
    dense = there / main_recipe(parts) / SINGLE
    for one in parts.ships:
        about = there / one / METHOD_FILE
        if about.is_file() and read_json(about).get("base") not in (None, file_hash(dense)):
            raise UsageError(
                f"{name}: {about.parent} was trained from another dense model than lies beside it: "
                f"remove it and its -run folder, and train it again (python -m harness.train --all "
                f"{name})"
            )


def _check_updates(name: str, parts: Parts, models: Mapping[str, Parts], work: Path) -> None:
    """Raises UsageError for updates of a model that is not the one in the folder, or whose base is
    not the one that will lie beside them."""
    for one in parts.ships:
        source = place(work, name) / one
        if not (source / RECORD).is_file() or parts.shared is None:
            continue
        check_whole(source)
        record, base = read_json(source / RECORD), parts.shared.base
        there = DATA / "assets" / base
        if base in models:
            there = place(work, base) / main_recipe(models[base])
        if record["sha256"] != file_hash(there / SINGLE):
            raise UsageError(
                f"{name}: {source} adds to other weights than {there} has: ship {base} first, then "
                f"remove {source.parent} and train {name} again (python -m harness.train --all "
                f"{name})"
            )
