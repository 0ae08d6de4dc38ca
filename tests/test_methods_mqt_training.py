"""MQT: its weights in a checkpoint, the number drawn in each step, its two stages of training."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerState

import methods
from harness.engine import model_info, routed
from harness.fitting.stages import Drawn
from harness.minimodel.resample import Pooled, regions
from harness.minimodel.tune import TuneModel
from harness.model.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from methods import MethodError, resampler
from methods.base import ModelInfo
from tests.routing_tools import random_modules
from tests.tiny import IMAGE, batch, tiny_llava

WIDE = ModelInfo(2, 24, 2, 2, 12, tower_layers=3, tower_width=128, tower_side=6)  # two heads


def test_a_checkpoint_gives_the_resampler_back(tmp_path: Any) -> None:
    model, method = tiny_llava(), methods.parse("mqt:queries=9")
    modules = random_modules(method, model)
    save_checkpoint(tmp_path, method, modules, model_info(model))
    loaded = load_checkpoint(tmp_path, model, methods.parse("mqt:m=4"))
    assert loaded.method == methods.parse("mqt:queries=9:m=4")
    assert loaded.modules is not None
    for name, value in modules.state_dict().items():
        assert torch.equal(loaded.modules.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="query"):
        load_checkpoint(tmp_path, model, methods.parse("mqt:queries=8"))
    with pytest.raises(MethodError, match="9 queries"):
        load_checkpoint(tmp_path, model, methods.parse("mqt:m=10"))


def test_a_step_draws_an_even_number_that_a_resumed_training_draws_again() -> None:
    method, info = methods.parse("mqt"), replace(WIDE, tower_side=24)
    drawn = [method.drawn(info, random.Random(f"1 {i}")).m for i in range(2000)]  # type: ignore
    assert set(drawn) == set(range(2, 257, 2))
    for spec in ("mqt:m=7", "mqt:kv=0.5"):
        assert methods.parse(spec).drawn(info, random.Random(0)) == methods.parse(spec)
    found = []
    for first in (0, 3):
        run = SimpleNamespace(method=method)
        callback, steps = Drawn(run, method, info, seed=5), []
        for step in range(first, 6):
            state: Any = TrainerState(global_step=step)
            callback.on_step_begin(None, state, None)  # type: ignore[arg-type]
            steps.append(run.method)
            callback.on_step_end(None, state, None)  # type: ignore[arg-type]
            assert run.method == method
        found.append(steps)
    assert found[0][3:] == found[1] and len(set(found[0])) > 1


def test_a_training_step_reaches_the_first_queries_only() -> None:
    model, method = tiny_llava(), methods.parse("mqt:m=6")
    modules = random_modules(method, model)
    inputs = batch(model, [(3, [16], 4), (4, [16], 3)])
    model.train().requires_grad_(False)
    with routed(model, method, modules, record=False) as run:
        loss = TuneModel(model, modules, run)(
            input_ids=inputs["input_ids"],
            labels=inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100),
            position_ids=torch.arange(23).expand(2, -1),
            attention_mask=torch.ones(23, 23, dtype=torch.bool).tril()[None, None],
            features=torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)),
        )["loss"]
        loss.backward()
    grads = {name: p.grad for name, p in modules.named_parameters()}
    for name in grads.keys() - {"k.bias", "ln_k.bias"}:  # adding to all keys changes no softmax
        assert grads[name].abs().max() > 1e-7, name
    touched = grads["query.weight"].abs().sum(dim=1) > 0
    assert touched.tolist() == [True] * 6 + [False] * 10


@pytest.mark.parametrize("side", [4, 6, 12])
def test_regions_go_from_the_picture_to_single_patches(side: int) -> None:
    table = regions(side).double()
    assert table.shape == (side**2, side**2)
    torch.testing.assert_close(table.sum(dim=1), torch.ones(side**2).double())
    assert torch.linalg.matrix_rank(table) == side**2  # all patches follow from all regions
    areas = (table > 0).sum(dim=1).tolist()
    assert areas[0] == side**2 and areas[-1] == 1
    assert all(area <= 4 * side**2 / (j + 1) for j, area in enumerate(areas))  # coarse to fine
    own = [int(row.argmax()) for row, area in zip(table, areas, strict=True) if area == 1]
    assert own == sorted(set(own)) and len(own) >= 0.75 * side**2  # patches as they are read


def test_the_first_stage_learns_what_the_projector_makes() -> None:
    """A projector that the resampler can imitate: its error falls to a fraction."""
    torch.manual_seed(0)
    modules = resampler.fresh(16, 32, 8)
    matrix = torch.randn(32, 8)
    states = torch.randn(64, 16, 32)
    target = torch.nn.functional.layer_norm(states, (32,)) @ matrix
    model = Pooled(modules, target[:32].half().numpy())
    model.place()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        loss = model(states, target)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0] and losses[-1] < 0.6
