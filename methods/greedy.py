"""Greedy choice, one token a step: what covers best, and what is likeliest under a DPP."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SPENT = 1e-6  # of the first pick's weight: less is rounding, the kernel's rank is used up


def cover(
    worth: Tensor, there: Tensor, steps: int, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Picks [G, steps] in order and their gains, of the columns of ``worth`` that are ``there``.

    ``worth`` [G, r, n]: how well a column covers a row. A row is covered as well as by its best
    chosen column, from 0 on; the gain of a column is what it adds over all rows, times its
    ``weight`` [G, n]. The lowest index wins a tie.
    """
    import torch

    free, covered = there, worth.new_zeros(*worth.shape[:2], 1)
    order = [there.new_zeros(len(there), 0, dtype=torch.long)]
    gains = [worth.new_zeros(len(there), 0)]
    for _ in range(steps):
        gain = (worth - covered).clamp(min=0).sum(dim=1)
        gain = gain if weight is None else gain * weight
        best, chosen = gain.masked_fill(~free, float("-inf")).max(dim=1, keepdim=True)
        column = worth.gather(2, chosen.unsqueeze(1).expand(-1, worth.shape[1], 1))
        covered = torch.maximum(covered, column)
        free = free.scatter(1, chosen, False)
        order.append(chosen)
        gains.append(best)
    return torch.cat(order, dim=1), torch.cat(gains, dim=1)


def spread_out(kernel: Tensor, filler: Tensor, there: Tensor, steps: int) -> Tensor:
    """[G, steps] picks in order: greedy MAP inference of a determinantal point process.

    ``kernel`` [G, n, n], of columns that are ``there`` [G, n]; each step takes the column with the
    largest weight left (the squared part of it that the picks do not span). Once the kernel's rank
    is used up the rest is filled by the highest ``filler`` [G, n]. The lowest index wins a tie.
    """
    import torch

    out = float("-inf")
    left = kernel.diagonal(dim1=1, dim2=2).clone()
    first = left.amax(dim=1, keepdim=True)
    bases = kernel.new_zeros(len(kernel), steps, kernel.shape[2])
    free, order = there, [there.new_zeros(len(there), 0, dtype=torch.long)]
    for step in range(steps):
        best, chosen = left.masked_fill(~free, out).max(dim=1, keepdim=True)
        alive = best > SPENT * first
        instead = filler.masked_fill(~free, out).argmax(dim=1, keepdim=True)
        chosen = torch.where(alive, chosen, instead)
        row = kernel.gather(1, chosen.unsqueeze(2).expand(-1, 1, kernel.shape[2]))
        known = bases[:, :step].gather(2, chosen.unsqueeze(1).expand(-1, step, 1))
        row = row[:, 0] - (known.transpose(1, 2) @ bases[:, :step])[:, 0]
        basis = torch.where(alive, row / best.clamp(min=1e-30).sqrt(), 0)
        bases[:, step] = basis
        left = (left - basis.square()).clamp(min=0)
        free = free.scatter(1, chosen, False)
        order.append(chosen)
    return torch.cat(order, dim=1)
