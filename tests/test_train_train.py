"""Whole instruction tunings of a tiny model: resuming, stages, plans, results, overflow."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

import methods
from harness.engine import routed
from harness.fitting.fit import fit
from harness.fitting.guard import Overflow, last_complete
from harness.fitting.plan import staged
from harness.fitting.stages import Staged, stage_at
from harness.model.catalog import find_model, load_model
from harness.model.checkpoints import load_checkpoint, resolve_method
from harness.train import job
from harness.train.job import instruct
from harness.train.model import InstructModel
from tests import train_tools as tools

STAGES = ["llavolta:k=1:stride=4", "llavolta:k=2:stride=2", "dense"]
UP = "model.language_model.layers.2.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Fields of a recipe: a tiny model and data for it."""
    folder = tmp_path_factory.mktemp("start")
    return {"model": str(tools.model_folder(folder / "model")), **tools.data(folder)}


class At(TrainerCallback):
    """Does something at the beginning, or the end, of a step (counted from 1)."""

    def __init__(self, step, act, end=False):
        self.step, self.act, self.end = step, act, end

    def on_step_begin(self, args, state, control, **kwargs):
        if not self.end and state.global_step + 1 == self.step:
            self.act(kwargs["model"])

    def on_step_end(self, args, state, control, **kwargs):
        if self.end and state.global_step == self.step:
            self.act(kwargs["model"])


@pytest.fixture
def during(monkeypatch):
    """Call with a callback for the next training."""

    def install(*callbacks):
        def with_callbacks(trainer):
            for callback in callbacks:
                trainer.add_callback(callback)
            fit(trainer)

        monkeypatch.setattr(job, "fit", with_callbacks)

    return install


def kill(_model):
    raise KeyboardInterrupt


def losses(out):
    log = json.loads((out / "training.json").read_text())["log"]
    return {entry["step"]: entry["loss"] for entry in log if "loss" in entry}


def weights(out):
    return load_file(out / "model.safetensors")


CASES = {
    "pmod": {"method": "pmod", "module_learning_rate": 1e-2, "accumulation": 2},
    "llavolta": {"method": "llavolta", "stages": STAGES},
}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_goes_on_exactly(name, start, tmp_path, during):
    """Killed in step 8 of 9 (the last checkpoint: 6, in the second epoch), then started again."""
    recipe = tools.recipe(**start, **CASES[name], max_steps=9, save_steps=3)
    instruct(recipe, tmp_path / "whole")
    during(At(8, kill))
    with pytest.raises(KeyboardInterrupt):
        instruct(recipe, tmp_path / "cut")
    (tmp_path / "cut-run/checkpoint-8").mkdir()  # a checkpoint the kill cut short
    stages = []
    during(At(7, lambda model: stages.append(model.run.method.spec if model.run else "")))
    instruct(recipe, tmp_path / "cut")
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert len(losses(tmp_path / "cut")) == 9
    facts = json.loads((tmp_path / "cut/training.json").read_text())
    assert facts["resumed_from_step"] == 6
    if name == "llavolta":
        assert stages == ["dense"]


def test_stages_are_equal_parts_of_the_schedule():
    assert [stage_at(s, 9, 3) for s in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [stage_at(s, 7, 3) for s in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    run, saved = SimpleNamespace(method=None), methods.parse("dense")
    callback, state = Staged(run, saved, STAGES), SimpleNamespace(global_step=3, max_steps=9)
    callback.on_step_begin(None, state, None)
    assert run.method == methods.parse("llavolta:k=2:stride=2")
    callback.on_step_end(None, state, None)  # what a checkpoint measures, and what is saved
    assert run.method == saved


def test_the_folder_of_a_routed_method_loads_as_a_checkpoint(start, tmp_path):
    recipe = tools.recipe(**start, method="pmod:beta=0.4", max_steps=2, checkpointing=False)
    out = tmp_path / "pmod"
    instruct(recipe, out)
    base = load_model(start["model"], device="cpu")
    method = resolve_method(out, methods.parse("pmod"))
    assert method == methods.parse("pmod:beta=0.4")
    loaded = load_checkpoint(out, base.model, method, base=next(iter(base.weight_hashes.values())))
    kept = load_file(tmp_path / "pmod-run/checkpoint-2/model.safetensors")
    assert {f"llava.{k}" for k in loaded.full} == {k for k in kept if k.startswith("llava.")}
    assert not any("vision_tower" in k for k in kept)  # frozen: not stored again
    assert all(torch.equal(v, kept[f"llava.{k}"]) for k, v in loaded.full.items())
    ids = torch.tensor([[1, 8, *[base.model.config.image_token_id] * 16, 9, 12]])
    pixels = torch.zeros(1, 3, tools.SIDE, tools.SIDE)
    with loaded.applied(base.model), torch.no_grad(), routed(base.model, method, loaded.modules):
        assert base.model(input_ids=ids, pixel_values=pixels).logits.isfinite().all()
    front = (out / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["tags"] == ["llava", "token-sparsity", "pmod"]
    assert list((out / "runs").glob("events.*"))
    facts = json.loads((out / "training.json").read_text())
    assert facts["recipe"]["method"] == "pmod:beta=0.4" and facts["data"]["kept"] == 16


def test_dense_leaves_a_model_folder_and_trains_the_projector_alone(start, tmp_path):
    recipe = tools.recipe(**start, train=["projector"], max_steps=2, bf16=True)
    instruct(recipe, tmp_path / "dense")
    after = load_model(str(tmp_path / "dense"), device="cpu").model.state_dict()
    before = load_model(start["model"], device="cpu").model.state_dict()
    changed = {k for k, v in after.items() if not torch.equal(v, before[k].bfloat16().float())}
    assert changed and all("multi_modal_projector" in k for k in changed)
    kept = load_file(tmp_path / "dense-run/checkpoint-2/model.safetensors")
    assert all("multi_modal_projector" in k for k in kept)
    assert find_model(str(tmp_path / "dense")).family.kind == "llava"


def test_any_resolution_trains_newline_and_routers(tmp_path):
    fields = {"model": str(tools.model_folder(tmp_path / "m", True)), **tools.data(tmp_path)}
    recipe = tools.recipe(
        **fields, method="gamma:layers=all", image_aspect="anyres", max_steps=2, workers=1
    )
    instruct(recipe, tmp_path / "next")
    found = weights(tmp_path / "next")
    assert "model.image_newline" in found and "router.router.weight" in found
    before = load_model(fields["model"], device="cpu").model.model.image_newline
    assert not torch.equal(found["model.image_newline"], before)


def test_a_plan_is_measured_once_and_kept(start, tmp_path, during, monkeypatch):
    recipe = tools.recipe(
        **start, method="gamma", plan="arank", plan_samples=4, plan_dense=2, max_steps=4
    )
    routed_with = []

    def note(model):
        routed_with.append(model.run.method.params()["layers"])

    during(At(1, note), At(1, note, end=True), At(3, kill))
    with pytest.raises(KeyboardInterrupt):
        instruct(recipe, tmp_path / "g")
    plan = json.loads((tmp_path / "g-run/plan.json").read_text())
    assert plan["samples"] == 4 and len(plan["dense_layers"]) == 2
    monkeypatch.setattr("harness.train.planning._measure", None)  # calling it would fail
    during(At(4, note))
    instruct(recipe, tmp_path / "g")
    meta = json.loads((tmp_path / "g/method.json").read_text())
    assert routed_with == [plan["layers"]] * 3 == [meta["params"]["layers"]] * 3
    layers = {int(i) for i in meta["params"]["layers"].split("+")}
    assert layers == {0, 1, 2, 3} - set(plan["dense_layers"])


def test_a_stage_of_the_planned_method_routes_the_plans_layers(start, tmp_path, during):
    stages = ["gamma:ratio=0.5", "gamma:layers=all", "dense"]
    values = {**start, "method": "gamma", "stages": stages, "max_steps": 3}
    recipe = tools.recipe(**values, plan="arank", plan_samples=4, plan_dense=2)
    trained = []
    steps = [At(step, lambda model: trained.append(model.run.method)) for step in (1, 2, 3)]
    during(*steps)
    instruct(recipe, tmp_path / "s")
    layers = json.loads((tmp_path / "s-run/plan.json").read_text())["layers"]
    planned = methods.parse(f"gamma:ratio=0.5:layers={layers}")
    assert trained == [planned, *map(methods.parse, stages[1:])]
    assert staged(stages, methods.parse("gamma"), "") == tuple(stages)


def test_loss_adds_up_over_accumulation(start, tmp_path):
    """One batch of 8, or 4 x 2 accumulated: the same loss, of gamma with its auxiliary part too."""
    curves = []
    for batch, accumulation in ((8, 1), (2, 4)):
        recipe = tools.recipe(
            **{**start, "batch": batch},
            method="gamma:layers=all:aux=1",
            accumulation=accumulation,
            max_steps=3,
        )
        instruct(recipe, tmp_path / f"b{batch}")
        curves.append(list(losses(tmp_path / f"b{batch}").values()))
    assert curves[0] == pytest.approx(curves[1], rel=2e-5)
    assert curves[0][0] > 2.5  # about 4 ln 2 of it is the auxiliary loss


# --- overflow ---------------------------------------------------------------------------------
def spoil(model):
    with torch.no_grad():
        dict(model.llava.named_parameters())[UP][1, 3] = float("inf")


def test_an_infinite_weight_is_named_and_the_last_checkpoint_stays_good(start, tmp_path, during):
    recipe = tools.recipe(**start, method="pmod", max_steps=5)
    during(At(4, spoil))
    with pytest.raises(Overflow) as caught:
        instruct(recipe, tmp_path / "o")
    said = str(caught.value)
    assert said.startswith(f"step 4: weight decoder layer 2 (llava.{UP}) is not finite")
    assert "output of decoder layer 2 (llava.model.language_model.layers.2.mlp" in said
    assert said.endswith(str(tmp_path / "o-run/checkpoint-2")) and "\n" not in said
    assert caught.value.exit_code == 3
    during()
    instruct(recipe, tmp_path / "o")  # goes on from it
    instruct(recipe, tmp_path / "never")
    good, same = weights(tmp_path / "o"), weights(tmp_path / "never")
    assert all(torch.equal(good[k], same[k]) for k in good)


def test_a_bad_weight_is_never_saved(start, tmp_path, during):
    recipe = tools.recipe(**start, max_steps=4)
    during(At(4, spoil, end=True))  # right before the checkpoint of step 4
    with pytest.raises(Overflow, match=r"step 4: weight decoder layer 2 .*checkpoint-2$"):
        instruct(recipe, tmp_path / "o")
    assert last_complete(tmp_path / "o-run").name == "checkpoint-2"
    assert not (tmp_path / "o-run/checkpoint-4").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("layers.1", r"step 2: the output of decoder layer 1 .* is not finite"),
        ("gradient", r"step 2: the gradient of decoder layer 3 .* is not finite"),
        ("loss", r"step 2: the loss is not finite, all outputs are"),
    ],
)
def test_states_gradients_and_loss_are_named(start, tmp_path, during, monkeypatch, place, message):
    def poison(model):
        text = model.llava.model.language_model
        if place == "layers.1":
            text.layers[1].mlp.register_forward_hook(lambda m, i, out: out * float("nan"))
        elif place == "gradient":
            last = text.layers[3].mlp.down_proj.weight
            last.register_hook(lambda grad: grad * float("inf"))
        else:
            plain = InstructModel.forward

            def bad(self, **kwargs):
                out = plain(self, **kwargs)
                return {**out, "loss": out["loss"] + float("inf")}

            monkeypatch.setattr(InstructModel, "forward", bad)

    during(At(2, poison))
    with pytest.raises(Overflow, match=message):
        instruct(tools.recipe(**start, max_steps=3, checkpointing=False), tmp_path / "o")
