"""Muon for the hidden matrices of a stack of layers, AdamW for everything else, as one optimizer.

Chosen on one run of each on the mini tower (one seed, one learning rate, 100 s on two cores):
labelled patches right 0.22 with Muon and 0.20 with AdamW, characters 0.60 and 0.56.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from harness.minimodel.lowrank import LowRankLinear


class StackedMuon(torch.optim.Muon):
    """`torch.optim.Muon` that orthogonalises all matrices of one shape in one product.

    One by one, the 84 matrices of the mini decoder are 1,260 small products a step: 1.0 s of a step
    of 3.0 s on two cores, where all together take 0.35 s. The numbers are the same in `bf16`,
    which is torch's; else they are computed in float32.
    """

    bf16 = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step; a closure is refused."""
        if closure is not None:
            raise ValueError("StackedMuon takes no closure")
        for group in self.param_groups:
            found: tuple[list[Tensor], ...] = ([], [], [])
            self._init_group(group, *found)
            alike: dict[tuple[int, ...], list[tuple[Tensor, ...]]] = defaultdict(list)
            for each in zip(*found, strict=True):
                alike[tuple(sorted(each[0].shape))].append(each)
            for members in alike.values():
                self._move(group, members)

    def _move(self, group: dict[str, Any], members: list[tuple[Tensor, ...]]) -> None:
        """Momentum (Nesterov's), the orthogonal update and decay of matrices of one shape."""
        updates = []
        for parameter, gradient, buffer in members:
            buffer.lerp_(gradient, 1 - group["momentum"])
            update = gradient.lerp(buffer, group["momentum"])
            updates.append(update if _wide(parameter) else update.mT)
        stacked = torch.stack(updates)
        together = _orthogonal(stacked.bfloat16() if self.bf16 else stacked.float(), group)
        for (parameter, *_), update in zip(members, together, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            # AdamW's size of an update ("match_rms_adamw"), so learning rates are comparable
            scale = group["lr"] * 0.2 * max(parameter.shape) ** 0.5
            parameter.add_(update if _wide(parameter) else update.mT, alpha=-scale)


def _wide(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def _orthogonal(x: Tensor, group: dict[str, Any]) -> Tensor:
    """Newton-Schulz on `x` [k, m, n], m <= n, in its format, with the group's settings."""
    a, b, c = group["ns_coefficients"]
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x


class MuonAdamW(torch.optim.Optimizer):
    """Both optimizers behind one: their groups are shared, so schedulers and `Trainer` see all.

    Args:
        groups: parameter groups with an `lr`; a group with `"muon": True` holds matrices only.
        weight_decay: decoupled, for all groups.
        bf16: what Muon orthogonalises in; else float32.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], weight_decay: float, bf16: bool = True
    ) -> None:
        groups = [dict(group) for group in groups if group["params"]]
        super().__init__(groups, {"lr": 1e-3, "muon": False})
        self.param_groups: list[dict[str, Any]]
        hidden = [g for g in self.param_groups if g["muon"]]
        rest = [g for g in self.param_groups if not g["muon"]]
        self.parts: list[torch.optim.Optimizer] = []
        if hidden:
            muon = StackedMuon(hidden, weight_decay=weight_decay)
            muon.bf16 = bf16
            self.parts.append(muon)
        if rest:
            self.parts.append(
                torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)
            )
        self.param_groups = [g for part in self.parts for g in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of both; a closure is refused."""
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure")
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both parts; learning rates go on where they stood."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [g for part in self.parts for g in part.param_groups]


def hidden_matrices(model: nn.Module) -> set[str]:
    """Names of the weight matrices inside the layers of a stack (no embeddings, heads or norms).

    Low-rank updates are none: Muon would make their two factors orthogonal, not their product.
    """
    stacks = (".layers.", ".blocks.")
    updates = [f"{name}." for name, m in model.named_modules() if isinstance(m, LowRankLinear)]
    return {
        name
        for name, value in model.named_parameters()
        if value.ndim == 2 and not name.startswith(tuple(updates))
        if any(stack in f".{name}" for stack in stacks)
    }
