"""The overflow guard of every training, here on the mini model's own trainer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from harness.fitting.fit import SECONDS, fit, spent
from harness.fitting.guard import Overflow, bad_weight, last_complete, place
from harness.minimodel.rates import RateTrainer, arguments
from harness.minimodel.recipe import Recipe


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return {"loss": x.square().mean()}


class Spoil(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            with torch.no_grad():
                model.layers[1].weight[0, 0] = float("nan")


def trainer(folder, *callbacks):
    torch.manual_seed(0)
    recipe = Recipe("tune", batch=2, max_steps=5, save_steps=2, bf16=False)
    rows = [{"x": torch.randn(4)} for _ in range(8)]
    return RateTrainer(
        Toy(), arguments(recipe, folder), train_dataset=rows, callbacks=list(callbacks)
    )


def test_the_mini_trainer_stops_names_the_layer_and_goes_on(tmp_path):
    with pytest.raises(Overflow) as caught:
        fit(trainer(tmp_path / "run", Spoil()))
    assert str(caught.value) == (
        "step 4: weight decoder layer 1 (layers.1.weight) is not finite, the output of decoder "
        "layer 1 (layers.1) is not finite; training stopped, the last good checkpoint is "
        f"{tmp_path / 'run/checkpoint-2'}"
    )
    again = trainer(tmp_path / "run")
    fit(again)
    assert again.state.global_step == 5 and bad_weight(again.model) is None


class Interrupt(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        time.sleep(0.05)
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_a_trainings_time_is_that_of_all_its_sittings(tmp_path):
    """Stopped in its fourth step, gone on with at the second: two slow steps were kept."""
    first, again = (trainer(tmp_path / "run", *extra) for extra in ([Interrupt()], []))
    first.args.logging_steps = again.args.logging_steps = 1
    with pytest.raises(KeyboardInterrupt):
        fit(first)
    taken = fit(again)
    assert 0.1 <= taken < spent(again.state)
    rows = [row[SECONDS] for row in again.state.log_history]
    assert rows == sorted(rows) and len(rows) >= 5
    assert fit(trainer(tmp_path / "run")) >= taken  # at its last step it is only read


def test_a_checkpoint_cut_short_does_not_count(tmp_path):
    assert last_complete(tmp_path) is None
    for step, whole in ((9, True), (10, True), (11, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete(tmp_path) == Path(tmp_path / "checkpoint-10")


def test_places_in_words():
    assert place("llava.lm_head.weight") == "llava.lm_head.weight"
    name = "llava.model.vision_tower.encoder.layers.3.mlp.fc1"
    assert place(name) == f"vision layer 3 ({name})"
