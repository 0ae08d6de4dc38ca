"""Greedy choice of the columns that cover a table's rows best (facility location)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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
