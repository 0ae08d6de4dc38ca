"""A resampler of one layer with learned queries and keys without content (MQT-LLaVA's).

Its weights are a ``ModuleDict``: ``query`` [Q, w], norms ``ln_q``, ``ln_k``, ``ln_v``, linear
``q``, ``k``, ``v``, ``out`` [w, w] and ``proj`` [d, w] without bias. Positions are no weights.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

HEAD, EPS = 64, 1e-6
NOTHING = nullcontext()


def fresh(queries: int, width: int, out: int) -> nn.Module:
    """Weights before any training, from tower states ``width`` wide to tokens ``out`` wide."""
    from torch import nn

    query = nn.Embedding(queries, width)
    parts: dict[str, nn.Module] = {"query": query}
    parts |= {name: nn.LayerNorm(width, eps=EPS) for name in ("ln_q", "ln_k", "ln_v")}
    parts |= {name: nn.Linear(width, width) for name in ("q", "k", "v", "out")}
    proj = nn.Linear(width, out, bias=False)
    nn.init.trunc_normal_(query.weight, std=0.02)
    nn.init.normal_(proj.weight, std=out**-0.5)
    return nn.ModuleDict(parts | {"proj": proj})


def parameters(queries: int, width: int, out: int) -> int:
    """How many numbers that is."""
    return (queries + 3 * 2 + 4 * (width + 1) + out) * width


def sincos(side: int, width: int) -> Tensor:
    """[side * side, width]: sines and cosines of the column, then those of the row."""
    import torch

    rate = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    turns = torch.arange(side)[:, None] * rate
    line = torch.cat([turns.sin(), turns.cos()], dim=1)  # [side, width / 2]
    column, row = line.expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return torch.cat([column, row], dim=2).flatten(0, 1).float()


def places(queries: int, side: int, width: int) -> tuple[Tensor, Tensor]:
    """Positions of the queries [Q, w], on the smallest square that holds them, and the same table
    resized to ``side`` x ``side`` patches [P, w]."""
    import torch.nn.functional as F

    own = math.isqrt(queries - 1) + 1
    table = sincos(own, width)
    grid = table.T.view(1, width, own, own)
    grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return table[:queries], grid[0].flatten(1).T


def masks(
    modules: Any,
    side: int,
    m: int,
    asking: AbstractContextManager[None] = NOTHING,
    placing: AbstractContextManager[None] = NOTHING,
) -> Tensor:
    """[heads, m, P]: how the first m queries pool a crop of ``side`` x ``side`` patches.

    The layer that sees queries runs under ``asking``, the one that sees places under ``placing``.
    """
    import torch

    query = modules["query"].weight
    at, patches = (table.to(query) for table in places(query.shape[0], side, query.shape[1]))
    heads = max(1, query.shape[1] // HEAD)
    with asking:
        q = modules["q"](modules["ln_q"](query[:m] + at[:m])).unflatten(1, (heads, -1))
    with placing:
        k = modules["k"](modules["ln_k"](patches)).unflatten(1, (heads, -1))
    scores = torch.einsum("mhc,phc->hmp", q, k) * q.shape[2] ** -0.5
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1)


def resample(
    modules: Any,
    states: Tensor,
    m: int,
    reading: AbstractContextManager[None] = NOTHING,
    making: AbstractContextManager[None] = NOTHING,
    asking: AbstractContextManager[None] = NOTHING,
    placing: AbstractContextManager[None] = NOTHING,
) -> Tensor:
    """[C, m, d]: the first m tokens of crops of patches [C, P, w].

    Layers that see patches run under ``reading``, layers that see tokens under ``making``, and
    those of the masks as ``masks`` says.
    """
    import torch

    with reading:
        values = modules["v"](modules["ln_v"](states))
    pool = masks(modules, math.isqrt(states.shape[1]), m, asking, placing).to(values.dtype)
    values = values.unflatten(2, (pool.shape[0], -1))
    mixed = torch.einsum("hmp,cphd->cmhd", pool, values).flatten(2)
    with making:
        return modules["proj"](modules["out"](mixed))
