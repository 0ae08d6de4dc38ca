"""What only a CUDA device can show: waits inside the layers, and the answers of a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import methods
from harness.engine import routed
from harness.engine import run as engine
from tests.routing_tools import ROWS, forced, random_modules
from tests.test_engine_devices import FIXED, USUAL
from tests.tiny import batch, tiny_llava

pytestmark = pytest.mark.gpu
SPECS = (*USUAL, *FIXED)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Every wait for the device is an error while this is open."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def on_gpu(spec: str, dtype: torch.dtype) -> tuple[Any, Any, Any, dict[str, Any]]:
    model, method = tiny_llava(layers=5, dtype=dtype), methods.parse(spec)
    modules = random_modules(method, model)
    inputs = {k: v.cuda() for k, v in batch(model, ROWS).items()}
    return model.cuda(), method, None if modules is None else modules.cuda(), inputs


@pytest.mark.parametrize("spec", SPECS)
def test_known_counts_never_wait_inside_the_layers(spec, monkeypatch):
    model, method, modules, inputs = on_gpu(spec, torch.bfloat16)
    prompt, step = engine.run_prompt, engine.run_untouched
    strict: list[str] = []

    def strict_prompt(method: Any, seq: Any, *args: Any) -> Any:
        _ = seq.grids, seq.identities  # host facts that some methods ask for, once a prompt
        with no_waiting():
            strict.append("prompt")
            return prompt(method, seq, *args)

    def strict_step(*args: Any) -> Any:
        with no_waiting():
            strict.append("step")
            return step(*args)

    token = torch.full((len(ROWS), 1), 7, device="cuda")

    def passes() -> None:
        with torch.no_grad(), routed(model, method, modules) as run:
            run.set_samples([str(i) for i in range(len(ROWS))], ["what is it"] * len(ROWS))
            cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
            mask = inputs["attention_mask"]
            for _ in range(3):
                mask = torch.cat([mask, torch.ones_like(token)], dim=1)
                model(input_ids=token, attention_mask=mask, past_key_values=cache)
            run.records()

    passes()  # what libraries set up at their first call may wait
    monkeypatch.setattr(engine, "run_prompt", strict_prompt)
    monkeypatch.setattr(engine, "run_untouched", strict_step)
    passes()
    # gamma routes generated tokens: of its steps only those of the top-k rule are free of waits,
    # and they take the general path.
    assert strict.count("prompt") == 1
    assert strict.count("step") == (0 if spec.startswith("gamma") else 3)


@pytest.mark.parametrize("spec", [*SPECS, "gamma:threshold=0.5", "prumerge"])
def test_logits_are_those_of_the_cpu(spec):
    answer = torch.tensor([[7, 11, 23]] * len(ROWS))
    found = []
    for place in ("cpu", "cuda"):
        model, method = tiny_llava(layers=5, dtype=torch.float64), methods.parse(spec)
        modules = random_modules(method, model)
        inputs = {k: v.to(place) for k, v in batch(model, ROWS).items()}
        model = model.to(place)
        modules = None if modules is None else modules.to(place)
        with torch.no_grad(), routed(model, method, modules) as run:
            run.set_samples([str(i) for i in range(len(ROWS))], ["what is it"] * len(ROWS))
            found.append(forced(model, inputs, answer.to(place)).cpu())
            run.records()
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
