"""Trainable low-rank updates W + B A of a decoder's matrices (the LoRA form, scale 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

from harness.common.errors import UsageError
from harness.model.updates import updated


class LowRank(nn.Module):
    """Adds `B @ A` to the weight it parametrises; A [r, in] random, B [out, r] zero at first."""

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        out_width, in_width = weight.shape
        self.A = nn.Parameter(torch.randn(rank, in_width) / in_width**0.5)
        self.B = nn.Parameter(torch.zeros(out_width, rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.B @ self.A).to(weight.dtype)


def add_low_rank(decoder: nn.Module, rank: int) -> None:
    """Parametrise every Linear below `decoder`; the dense weights stop training."""
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    for module in list(decoder.modules()):
        if isinstance(module, nn.Linear):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank))


def low_rank_state(model: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(A, B) in float16 for every parametrised weight, keyed by the plain parameter name."""
    state = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            update = module.parametrizations["weight"][0]  # type: ignore[index, union-attr]
            state[f"{name}.weight"] = (update.A.detach().half(), update.B.detach().half())
    return state


@torch.no_grad()
def take_low_rank(model: nn.Module, state: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Go on from the updates of an earlier `low_rank_state`. Raises UsageError for another rank."""
    for name, (a, b) in state.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        update = module.parametrizations["weight"][0]  # type: ignore[index, union-attr]
        if update.A.shape != a.shape:
            raise UsageError(
                f"recipe: rank {len(update.A)}, but what it goes on from has rank {len(a)}"
            )
        update.A.copy_(a)
        update.B.copy_(b)


@torch.no_grad()
def cut_low_rank(model: nn.Module, rank: int) -> None:
    """Replace every update by the nearest one of at most `rank` (its largest singular values)."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            update = module.parametrizations["weight"][0]  # type: ignore[index, union-attr]
            u, s, v = torch.linalg.svd(update.B @ update.A, full_matrices=False)
            root = s[:rank].sqrt()
            update.A = nn.Parameter(root[:, None] * v[:rank])
            update.B = nn.Parameter(u[:, :rank] * root)


@torch.no_grad()
def merge_low_rank(model: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Put every update into its weight, in float16 as `harness.model.updates` makes it again.

    Returns what `low_rank_state` gave before.
    """
    state = low_rank_state(model)
    for name, (a, b) in state.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        module.weight.copy_(updated(module.weight.half(), a, b))  # type: ignore[operator, union-attr, arg-type]
    return state
