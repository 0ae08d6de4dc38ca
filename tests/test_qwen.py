"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: every method against the independent reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import methods
from harness.engine import routed
from tests.qwen_tools import (
    FAMILIES,
    ROWS,
    batched,
    forced,
    reference,
    rows_of,
    sample_of,
    tiny_qwen,
)
from tests.routing_tools import random_modules

SPECS = [
    "dense",
    "blind",
    "random:keep=0.4",
    "random:k=2:seed=3:positions=compact",
    "uniform:k=3:positions=compact",
    "pool",
    "pool:side=2:positions=original",
    "fastv",
    "fastv:k=1:r=0.75:score=all:positions=compact",
    "llavolta",
    "llavolta:k=0:stride=5:remainder=average",
    "pmod:beta=0.3",
    "pmod:schedule=constant:span=all:ratio=0.4:string=false:weight_on=layer_output",
    "mod:layers=all:weight=softmax:scope=mlp_branch:capacity=0.5",
    "mod:layers=even:shared=true:positions=compact",
    "gamma:layers=all:threshold=0.5",
    "gamma:layers=even:threshold=0.45:positions=original:shared=false",
    "pyramiddrop",
    "pyramiddrop:positions=original",
    "divprune:keep=0.3",
    "divprune:keep=0.3:positions=original",
    "cdpruner:relevance=words:ratio=0.4",
    "cdpruner:relevance=words:ratio=0.4:positions=original",
    "sparsevlm:layers=1+3:keep=300+100:cluster=2",
    "sparsevlm:version=2:layers=1+3:keep=300+100",
    "plan",
]


@pytest.fixture(scope="module")
def models() -> dict[tuple[str, str], Any]:
    return {(f, attn): tiny_qwen(f, attn) for f in FAMILIES for attn in ("sdpa", "eager")}


@pytest.fixture(autouse=True)
def exact_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let eager attention stay in float64: the library's softmax is in single precision, where a
    double's mask of the lowest number is no number at all."""
    plain = torch.nn.functional.softmax

    def softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return plain(x, dim=dim, dtype=x.dtype if x.dtype == torch.float64 else dtype)

    monkeypatch.setattr(torch.nn.functional, "softmax", softmax)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", SPECS)
def test_prefill_and_decode_equal_the_reference(
    family: str, spec: str, models: dict[tuple[str, str], Any]
) -> None:
    """Alone and in a ragged batch of four, with images of several sizes, on two backends."""
    for attn in ("sdpa", "eager"):
        model, method = models[family, attn], methods.parse(spec)
        modules = random_modules(method, model)
        rows = rows_of(model, ROWS)
        answer = torch.randint(3, 50, (4, 3), generator=torch.Generator().manual_seed(5))
        names = [f"doc{i}" for i in range(4)]
        with torch.no_grad(), routed(model, method, modules) as run:
            run.set_samples(names)
            together = forced(model, batched(rows), answer)
            for i, single in enumerate(rows):
                sample = sample_of(model, single, answer[i], names[i])
                expected = reference(model, method, modules, sample).logits()
                run.set_samples([names[i]])
                alone = forced(model, single, answer[i : i + 1])[0]
                torch.testing.assert_close(alone, expected, rtol=0, atol=1e-6)
                torch.testing.assert_close(together[i], expected, rtol=0, atol=1e-6)
