"""Whether the layers of a pass trace as one graph: what a compiler or CUDA graphs would need."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch

import methods
from harness.engine import routed
from harness.engine import run as engine
from tests.routing_tools import ROWS, random_modules
from tests.tiny import batch, tiny_llava

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`"),
]


class Traced(Exception):
    """The pass was traced instead of run on."""


@pytest.mark.parametrize("name", ["run_prompt", "run_untouched"])
@pytest.mark.parametrize("spec", ["dense", "mod", "pmod", "fastv", "pyramiddrop"])
def test_the_layer_loop_is_one_graph(spec, name, monkeypatch):
    method, model = methods.parse(spec), tiny_llava(layers=5)
    modules, inputs = random_modules(method, model), batch(model, ROWS[:1])
    original = getattr(engine, name)
    found: list[Any] = []

    def traced(*args: Any) -> Any:
        torch._dynamo.reset()
        found.append(torch._dynamo.explain(lambda: original(*args))())
        raise Traced

    monkeypatch.setattr(engine, name, traced)
    with torch.no_grad(), routed(model, method, modules, record=False), suppress(Traced):
        cache = model(**inputs, use_cache=True).past_key_values
        model(input_ids=torch.tensor([[7]]), past_key_values=cache)
    assert (found[0].graph_count, found[0].graph_break_count) == (1, 0), found[0].break_reasons
