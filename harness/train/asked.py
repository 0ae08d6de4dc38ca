"""What a command asks for that cannot be: flags that would be ignored, folders that are not there.

Torch-free, so that a refusal comes at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import UsageError
from harness.common.roots import DATA

if TYPE_CHECKING:
    from harness.minimodel.recipe import Recipe


def refuse(args: argparse.Namespace, where: str, names: Sequence[str]) -> None:
    """Flags that would be ignored, or do harm. Raises UsageError for one that is given."""
    for name in names:
        if getattr(args, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')}: not with {where}")


def whole_model(args: argparse.Namespace) -> dict[str, str]:
    """`--model` takes the place of a recipe's parts, but for those that are flags themselves."""
    parts = ("decoder", "vision", "projector") if args.model else ()
    return {name: getattr(args, name) or "" for name in parts}


def check_epochs(args: argparse.Namespace, max_steps: Sequence[int]) -> None:
    """Raises UsageError for `--epochs` where every recipe's `max_steps` leave it without effect."""
    if args.epochs is not None and all(steps > 0 for steps in max_steps):
        raise UsageError(
            f"--epochs: not with max_steps ({max_steps[0]} here), which alone says how long a "
            "training is: give --max-steps"
        )


def check_acting(args: argparse.Namespace, recipes: Sequence[Recipe]) -> None:
    """Raises UsageError for a flag that acts on none of these recipes of a mini model."""
    check_epochs(args, [recipe.max_steps for recipe in recipes])
    stages = {recipe.stage for recipe in recipes}
    if args.method and not stages & {"tune", "resample"}:
        raise UsageError(f"--method: not with stage {' or '.join(sorted(stages))}, which has none")
    if args.decoder and not any(recipe.is_new for recipe in recipes):
        raise UsageError(
            "--decoder: only with a recipe that puts a new model together, which has no start and "
            "another stage than tower"
        )


def check_named(recipe: Recipe, work: Path) -> None:
    """Raises UsageError where a folder that a recipe builds on is not there."""
    for key, name in recipe.builds_on.items():
        if not any((root / name).exists() for root in (Path(), DATA, work)):
            raise UsageError(
                f"recipe: {key} {name!r}: no folder {work / name}: expected the result of an "
                "earlier recipe"
            )
