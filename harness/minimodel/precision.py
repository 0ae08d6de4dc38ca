"""The number format a mini model is trained in here: bfloat16 only where the machine has it.

Torch-free on import: studies name their trainings by it.
"""

from __future__ import annotations

import dataclasses

from harness.common.processor import lacks
from harness.common.stops import tell
from harness.minimodel.recipe import Recipe


def half_is_slow() -> str:
    """Why bfloat16 is no gain where trainings run here, or "" (also where the system does not say
    what the processor has, as macOS).

    Two AVX2 cores multiplied 2048x2048 matrices at 0.3 GFLOP/s in bfloat16, at 120 in float32.
    """
    if not (slow := lacks("bfloat16")):
        return ""
    import torch

    return "" if torch.cuda.is_available() else slow


def in_format_of_here(recipe: Recipe) -> Recipe:
    """`recipe` as this machine carries it out: without `bf16` where that is slow.

    What comes back is what results, cards and notes of checkpoints are named by and written from,
    so a training of one format is neither gone on with nor compared in the other.
    """
    return dataclasses.replace(recipe, bf16=False) if recipe.bf16 and half_is_slow() else recipe


def as_computed(recipe: Recipe) -> Recipe:
    """`in_format_of_here`, with a line where that changes the recipe."""
    here = in_format_of_here(recipe)
    if here.bf16 != recipe.bf16:
        tell(f"note: {half_is_slow()}; the recipe is carried out in float32")
    return here
