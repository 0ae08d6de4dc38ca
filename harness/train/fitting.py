"""What every training job shares: the `Trainer`'s arguments, stopping, measuring, the log."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from harness.train.guard import last_complete
from harness.train.recipe import Recipe


def arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """`TrainingArguments` of a recipe; checkpoints every `save_steps`, the newest two kept."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        bf16=recipe.bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=20,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        seed=recipe.seed,
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class Stop(TrainerCallback):
    """Ends the training before its learning-rate schedule does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_training_stop |= state.global_step >= self.step


class Measure(TrainerCallback):
    """Prints held-out accuracy at every checkpoint."""

    def __init__(self, measure: Callable[[], dict[str, float]]) -> None:
        self.measure = measure

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        scores = {k: round(v, 3) for k, v in self.measure().items()}
        print(f"step {state.global_step}: held-out {scores}", flush=True)


def fit(trainer: Trainer, measure: Callable[[], dict[str, float]] | None = None) -> None:
    """Train, from the newest whole checkpoint if there is one; one at the last step is only read.

    `Trainer` would make one step more.
    """
    if measure is not None:
        trainer.add_callback(Measure(measure))
    last = last_complete(Path(trainer.args.output_dir))
    if last is not None:
        state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        if state.global_step >= trainer.args.max_steps > 0:
            trainer.state = state
            trainer._load_from_checkpoint(str(last))
            return
    trainer.train(resume_from_checkpoint=str(last) if last else None)


def facts(recipe: Recipe, log: dict) -> dict:
    return {"recipe": dataclasses.asdict(recipe), **log}


def write_log(out: Path, recipe: Recipe, log: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts(recipe, log), indent=1, sort_keys=True)
    (out / "training.json").write_text(text + "\n", encoding="utf-8")


def earlier(out: Path) -> float:
    """Seconds an earlier sitting of the same recipe took, by the log it left in `out`; else 0."""
    path = out / "training.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.exists() else 0.0
