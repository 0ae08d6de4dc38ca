"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: every method against the independent reference."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import methods
from harness.engine import EngineError, model_info, routed
from methods.base import MethodError
from tests.qwen_tools import (
    END,
    FAMILIES,
    IMAGE,
    ROWS,
    START,
    batched,
    forced,
    reference,
    rows_of,
    sample_of,
    tiny_qwen,
)
from tests.routing_tools import random_modules
from tests.tiers import some

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


STEPS = 3
Models = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def models() -> Models:
    return {(f, attn): tiny_qwen(f, attn, 5) for f in FAMILIES for attn in ("sdpa", "eager")}


@pytest.fixture(autouse=True)
def exact_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let eager attention stay in float64: the library's softmax is in single precision, where a
    double's mask of the lowest number is no number at all."""
    plain = torch.nn.functional.softmax

    def softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return plain(x, dim=dim, dtype=x.dtype if x.dtype == torch.float64 else dtype)

    monkeypatch.setattr(torch.nn.functional, "softmax", softmax)


BOTH = list(itertools.product(FAMILIES, SPECS))
# Every family and every method, each method on one family.
EACH = [(FAMILIES[i % len(FAMILIES)], spec) for i, spec in enumerate(SPECS)]


@pytest.mark.parametrize("case", some(BOTH, *EACH))
def test_prefill_and_decode_equal_the_reference(case: tuple[str, str], models: Models) -> None:
    """Alone and in a ragged batch of four, with images of several sizes, on both backends."""
    family, spec = case
    method, model = methods.parse(spec), models[family, "sdpa"]
    modules = random_modules(method, model)
    rows = rows_of(model, ROWS)
    answer = torch.randint(3, 50, (4, STEPS), generator=torch.Generator().manual_seed(5))
    names = [f"doc{i}" for i in range(4)]
    samples = [sample_of(model, *given) for given in zip(rows, answer, names, strict=True)]
    expected = [reference(model, method, modules, one).logits() for one in samples]
    for attn in ("sdpa", "eager"):
        model = models[family, attn]
        with torch.no_grad(), routed(model, method, modules) as run:
            run.set_samples(names)
            together = forced(model, batched(rows), answer)
            for i, single in enumerate(rows):
                torch.testing.assert_close(together[i], expected[i], rtol=0, atol=1e-6)
                if attn == "eager" and i != 2:
                    continue
                run.set_samples([names[i]])
                alone = forced(model, single, answer[i : i + 1])[0]
                torch.testing.assert_close(alone, expected[i], rtol=0, atol=1e-6)


def test_every_method_is_among_them_or_refuses() -> None:
    """Methods that read single patches or a class token say in one line that there are none."""
    for family in FAMILIES:
        model = tiny_qwen(family)
        for name in methods.names():
            method = methods.parse(name)
            if method.reads_received or method.shrinks:
                method.fits(model_info(model))  # tests/test_packed_tower.py, test_downsample.py
                continue
            if not method.reads_tower:
                assert any(spec.partition(":")[0] == name for spec in SPECS), name
                continue
            with pytest.raises(MethodError) as error:
                routed(model, method, method.build_modules(model_info(model))).__enter__()
            line = str(error.value)
            assert line.startswith(f"{name}: ")
            assert "two by two patches" in line or "this model's tower has none" in line
            assert "\n" not in line


def test_pool_does_not_take_another_rows_image_size_under_beam_search() -> None:
    """Two rows of four and six token rows: repeated, the second would be pooled as the other."""
    model = tiny_qwen(FAMILIES[0], layers=4)
    inputs = batched(rows_of(model, [(3, [(4, 6)], 4), (2, [(6, 4)], 3)]))
    with (
        torch.no_grad(),
        routed(model, methods.parse("pool")),
        pytest.raises(EngineError, match=r"2 images were read .* have 4; .* num_beams=1"),
    ):
        model.generate(**inputs, max_new_tokens=2, num_beams=2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "how", [{}, {"use_cache": False}, {"num_beams": 3}, {"num_beams": 2, "use_cache": False}]
)
def test_dense_is_bit_equal_to_plain_generate(family: str, attn: str, how: dict[str, Any]) -> None:
    model = tiny_qwen(family, attn, 4, exact=False).float()
    rows = rows_of(model, ROWS)
    options = {"max_new_tokens": 5, "do_sample": False, "output_logits": True, **how}
    options |= {"return_dict_in_generate": True, "suppress_tokens": [IMAGE, START, END]}
    for inputs in (batched(rows), rows[2]):
        with torch.no_grad():
            plain = model.generate(**inputs, **options)
            with routed(model, methods.parse("dense")):
                mine = model.generate(**inputs, **options)
        assert torch.equal(plain.sequences, mine.sequences)
        assert all(torch.equal(a, b) for a, b in zip(plain.logits, mine.logits, strict=True))
