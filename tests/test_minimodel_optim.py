"""The optimizer of the trainings: Muon and AdamW behind one face, and an exact resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments, set_seed

from harness.common import processor
from harness.fitting.fit import fit
from harness.minimodel.lowrank import add_low_rank
from harness.minimodel.optim import MuonAdamW, hidden_matrices
from harness.minimodel.precision import as_computed, half_is_slow
from harness.minimodel.rates import RateTrainer, arguments
from harness.minimodel.recipe import Recipe

SLOW, FAST = frozenset({"avx2"}), frozenset({"avx2", "avx512_bf16"})  # processors


class Stack(nn.Module):
    """Two hidden layers between an embedding-like input and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(6, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 12), nn.Linear(12, 8)])
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.projector(x)
        same, up, down = self.layers
        h = h + same(h).relu()
        h = h + down(up(h).relu())
        return {"loss": nn.functional.cross_entropy(self.head(h), y)}


ROWS = [
    {"x": torch.randn(6, generator=torch.Generator().manual_seed(i)), "y": torch.tensor(i % 3)}
    for i in range(32)
]


class Stop(TrainerCallback):
    """Ends a run early, as an interruption after a checkpoint does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def train(folder: Path, stop: int | None = None, resume: str | None = None) -> RateTrainer:
    set_seed(0)
    args = TrainingArguments(
        output_dir=str(folder), max_steps=8, per_device_train_batch_size=4, save_steps=4,
        learning_rate=1e-2, lr_scheduler_type="cosine", use_cpu=True, report_to=[],
        disable_tqdm=True, seed=0, remove_unused_columns=False,
    )  # fmt: skip
    trainer = RateTrainer(Stack(), args, train_dataset=ROWS)
    trainer.muon, trainer.module_learning_rate = 2e-2, 5e-3
    if stop:
        trainer.add_callback(Stop(stop))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw():
    model = Stack()
    assert hidden_matrices(model) == {f"layers.{i}.weight" for i in range(3)}
    trainer = RateTrainer(model, TrainingArguments("unused", use_cpu=True, report_to=[]))
    trainer.muon = 2e-2
    groups = trainer.create_optimizer().param_groups
    assert {len(g["params"]) for g in groups if g["muon"]} == {3}
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(model.projector.weight)] == 1e-3 != rates[id(model.layers[0].weight)]
    add_low_rank(model, rank=2)
    names = {name for name, _ in model.named_parameters()}
    assert "layers.0.A" in names
    assert not hidden_matrices(model)


def test_each_half_moves_as_it_would_alone():
    together, muon, adamw = Stack(), Stack(), Stack()
    muon.load_state_dict(together.state_dict())
    adamw.load_state_dict(together.state_dict())

    def parts(model):
        hidden = [p for n, p in model.named_parameters() if n in hidden_matrices(model)]
        rest = [p for n, p in model.named_parameters() if n not in hidden_matrices(model)]
        return hidden, rest

    hidden, rest = parts(together)
    groups = [{"params": hidden, "lr": 0.02, "muon": True}, {"params": rest, "lr": 0.01}]
    both = MuonAdamW(groups, weight_decay=0.1)
    settings = {"weight_decay": 0.1}
    left = torch.optim.Muon(parts(muon)[0], lr=0.02, adjust_lr_fn="match_rms_adamw", **settings)
    right = torch.optim.AdamW(parts(adamw)[1], lr=0.01, betas=(0.9, 0.98), **settings)
    x, y = torch.stack([r["x"] for r in ROWS]), torch.stack([r["y"] for r in ROWS])
    for model, optimizer in ((together, both), (muon, left), (adamw, right)):
        model(x, y)["loss"].backward()
        optimizer.step()
    for name, value in together.state_dict().items():
        alone = muon if name in hidden_matrices(together) else adamw
        torch.testing.assert_close(value, alone.state_dict()[name])
    with pytest.raises(ValueError, match="closure"):
        both.step(lambda: None)


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path):
    straight = train(tmp_path / "a").model.state_dict()
    train(tmp_path / "b", stop=4)
    resumed = train(tmp_path / "b", resume=str(tmp_path / "b/checkpoint-4"))
    assert resumed.state.global_step == 8
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, straight[name]), name


def test_a_tuning_with_a_tied_head_is_saved_once_and_loads_again(tmp_path):
    """The head is not in the file; after loading it is the embeddings' tensor, not a copy."""
    from harness.minimodel.tune import TuneModel
    from tests.tiny import tiny_llava

    def fresh(seed: int) -> RateTrainer:
        llava = tiny_llava(seed=seed)
        llava.config.tie_word_embeddings = True
        llava.lm_head.weight = llava.model.language_model.embed_tokens.weight
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
        return RateTrainer(TuneModel(llava), args)

    saved, loaded = fresh(1), fresh(2)
    saved.save_model(str(tmp_path / "checkpoint-1"))
    loaded._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    first, second = saved.model.llava, loaded.model.llava
    assert torch.equal(
        first.model.language_model.embed_tokens.weight,
        second.model.language_model.embed_tokens.weight,
    )
    assert second.lm_head.weight is second.model.language_model.embed_tokens.weight


def test_a_finished_training_is_read_and_not_run_on(tmp_path):
    done = train(tmp_path)
    again = RateTrainer(Stack(), done.args, train_dataset=ROWS)
    fit(again)
    assert again.state.global_step == 8
    found, wanted = again.model.state_dict(), done.model.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("flags", "half"), [(SLOW, False), (FAST, True)])
def test_a_recipe_is_carried_out_in_what_the_processor_computes(
    flags: frozenset[str], half: bool, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(processor, "flags", lambda: flags)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = Recipe("tune", seed=4)
    assert as_computed(recipe) == replace(recipe, bf16=half)
    said = capsys.readouterr().err
    assert ("the recipe is carried out in float32" in said) is not half
    assert as_computed(replace(recipe, bf16=False)).bf16 is False
    assert not capsys.readouterr().err  # what asks for float32 is told nothing


def test_a_gpu_trains_as_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "flags", lambda: SLOW)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert as_computed(Recipe("tune")) == Recipe("tune")
    assert not half_is_slow()


@pytest.mark.parametrize("flags", [SLOW, FAST])
def test_muon_computes_in_the_format_of_the_recipe(
    flags: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the processor has; against Newton-Schulz in float64."""
    monkeypatch.setattr(processor, "flags", lambda: flags)
    gradient = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))

    def moved(bf16: bool) -> torch.Tensor:
        weight = nn.Parameter(torch.zeros(12, 8))
        weight.grad = gradient.clone()
        group = {"params": [weight], "lr": 1.0, "muon": True}
        MuonAdamW([group], 0.0, bf16=bf16).step()
        return weight.detach().double()

    x = gradient.double() / gradient.double().norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    expected = -0.2 * 12**0.5 * x
    away = {bf16: (moved(bf16) - expected).abs().max().item() for bf16 in (False, True)}
    assert away[False] < 1e-5 < 1e-4 < away[True] < 2e-2


def test_a_trainer_gives_muon_its_own_format(tmp_path: Path) -> None:
    for bf16 in (False, True):
        trainer = RateTrainer(Stack(), arguments(Recipe("tune", bf16=bf16, muon=0.02), tmp_path))
        trainer.muon = 0.02
        optimizer = trainer.create_optimizer()
        assert isinstance(optimizer, MuonAdamW) and optimizer.parts[0].bf16 is bf16
