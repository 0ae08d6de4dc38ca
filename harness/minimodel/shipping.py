"""From recipes to `assets/`: what of a mini model is trained, where, and what of it ships."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.common.roots import DATA
from harness.families.catalog import MINIS
from harness.minimodel.parts import Parts, parts_of
from harness.model.updates import RECORD
from harness.model.weights import SINGLE

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


def ship(models: Mapping[str, Parts], work: Path) -> Iterator[str]:
    """Copy what ships from `work` to `assets/`; a line each.

    Raises UsageError before anything is copied where a training is missing.
    """
    for name, parts in models.items():
        there = place(work, name)
        lacking = [one for one in parts.ships if not (there / one / "training.json").is_file()]
        if lacking:
            raise UsageError(
                f"{name}: nothing to ship: {there} has no finished {', '.join(lacking)} "
                f"(python -m harness.train --all {name})"
            )
    for name, parts in models.items():
        for one, suffix in parts.ships.items():
            source, folder = place(work, name) / one, DATA / "assets" / f"{name}{suffix}"
            whole = [SINGLE] if (source / RECORD).is_file() else []  # its updates ship in its place
            left = shutil.ignore_patterns(HEADS, *whole)
            shutil.copytree(source, folder, ignore=left, dirs_exist_ok=True)
            yield f"{one} -> assets/{name}{suffix}"
