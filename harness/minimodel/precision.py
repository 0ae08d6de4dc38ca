"""The number format a mini model is trained in here: bfloat16 only where the machine has it.

Torch-free on import: studies name their trainings by it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

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


def in_float32(routers: Any) -> None:
    """Compute the linear routers of an `nn.Module` in float32 under autocast too.

    In bfloat16 the weights 1 + 0.2 tanh(r) of 144 image tokens had 5 to 47 values, and ties go to
    the first token, the top of the picture; answering in float32 then selects other tokens.
    """
    import torch

    def wide(module: Any, x: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return torch.nn.functional.linear(x.float(), module.weight, module.bias)

    for module in routers.modules():
        if isinstance(module, torch.nn.Linear):
            module.forward = wide.__get__(module)
