"""Trainable low-rank updates W + B A of a decoder's matrices (the LoRA form, scale 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.common.errors import UsageError
from harness.model.updates import updated


class LowRankLinear(nn.Linear):
    """x (W + B A)^T + bias; A [r, in] is random and B [out, r] zero at first.

    One class for all, not a parametrization: that makes a class of each matrix, and each of them is
    compiled anew. Of 24 s that ten compiled steps took a core 18 went so, and 10 do now.
    """

    A: nn.Parameter
    B: nn.Parameter

    @property
    def updated_weight(self) -> Tensor:
        """W + B A [out, in]."""
        return self.weight + (self.B @ self.A).to(self.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.updated_weight, self.bias)


def add_low_rank(decoder: nn.Module, rank: int) -> None:
    """Make every Linear below `decoder` a `LowRankLinear`; the dense weights stop training."""
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    for module in list(decoder.modules()):
        if isinstance(module, nn.Linear):
            out_width, in_width = module.weight.shape
            module.__class__ = LowRankLinear
            module.A = nn.Parameter(torch.randn(rank, in_width) / in_width**0.5)
            module.B = nn.Parameter(torch.zeros(out_width, rank))


def low_rank_state(model: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(A, B) in float16 for every weight with an update, keyed by the plain parameter name."""
    state = {}
    for name, module in model.named_modules():
        if isinstance(module, LowRankLinear):
            state[f"{name}.weight"] = (module.A.detach().half(), module.B.detach().half())
    return state


@torch.no_grad()
def take_low_rank(model: nn.Module, state: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Go on from the updates of an earlier `low_rank_state`. Raises UsageError for another rank."""
    for name, (a, b) in state.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        if module.A.shape != a.shape:
            raise UsageError(
                f"recipe: rank {len(module.A)}, but what it goes on from has rank {len(a)}"
            )
        module.A.copy_(a)
        module.B.copy_(b)


@torch.no_grad()
def cut_low_rank(model: nn.Module, rank: int) -> None:
    """Replace every update by the nearest one of at most `rank` (its largest singular values)."""
    for module in model.modules():
        if isinstance(module, LowRankLinear):
            u, s, v = torch.linalg.svd(module.B @ module.A, full_matrices=False)
            root = s[:rank].sqrt()
            module.A = nn.Parameter(root[:, None] * v[:rank])
            module.B = nn.Parameter(u[:, :rank] * root)


@torch.no_grad()
def merge_low_rank(model: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Put every update into its weight, in float16 as `harness.model.updates` makes it again.

    Returns what `low_rank_state` gave before.
    """
    state = low_rank_state(model)
    for name, (a, b) in state.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        del module.A, module.B
        module.__class__ = nn.Linear
        module.weight.copy_(updated(module.weight.half(), a, b))  # type: ignore[operator, union-attr, arg-type]
    return state
