"""Means of tokens in half precision: no worse than the pooling that the released code calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import methods

SIDE, WIDTH = 24, 64
N = SIDE**2


def sequence(dtype: torch.dtype) -> Any:
    """One image of 24 x 24 tokens alone, as a method sees it; states of a decoder's size."""
    hidden = torch.randn(1, N, WIDTH, generator=torch.Generator().manual_seed(0)) + 1
    grid = {"start": 0, "rows": SIDE, "cols": SIDE, "newline": False, "image_length": N}
    return SimpleNamespace(
        hidden=hidden.to(dtype), kinds=torch.full((1, N), 2), counts=[N], spans=[[(0, N)]],
        grids=[[grid]], info=SimpleNamespace(layers=32), position_ids=torch.arange(N)[None],
    )  # fmt: skip


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """RMS, in float64."""
    return float((found.double() - exact).square().mean().sqrt())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("stride", [2, 8])
def test_llavolta_pools_as_exactly_as_the_released_code(dtype: torch.dtype, stride: int) -> None:
    seq = sequence(dtype)
    merge = methods.parse(f"llavolta:k=0:stride={stride}").before(seq)
    found = merge.states[0, ::stride]
    assert found.dtype == dtype
    exact = F.avg_pool1d(seq.hidden.double().transpose(1, 2), stride)[0].T
    released = F.avg_pool1d(seq.hidden.transpose(1, 2), stride)[0].T
    assert error(found, exact) <= 1.01 * error(released, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", [3, 8])
def test_pool_rounds_once(dtype: torch.dtype, side: int) -> None:
    """Windows of 64 and 9 tokens: within the rounding of the float64 mean to this dtype."""
    seq = sequence(dtype)
    merge = methods.parse(f"pool:side={side}").before(seq)
    columns = torch.arange(N)
    found = merge.states[0][merge.assign[0] == columns]
    grid = seq.hidden[0].double().T.view(1, WIDTH, SIDE, SIDE)
    exact = F.adaptive_avg_pool2d(grid, side).flatten(2)[0].T
    assert error(found, exact) <= 1.01 * error(exact.to(dtype), exact)
