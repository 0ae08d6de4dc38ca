"""What every training shares: the `Trainer`'s arguments, stopping, measuring, resuming."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from harness.fitting.guard import last_complete

MEASURED = "held_out"  # the key of a checkpoint's figures among the log's rows
SECONDS = "seconds"  # and of how long the training had taken by then


class Schedule(Protocol):
    """The fields of a recipe that mean the same in every training."""

    @property
    def epochs(self) -> float: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def bf16(self) -> bool: ...
    @property
    def save_steps(self) -> int: ...
    @property
    def seed(self) -> int: ...


def arguments(recipe: Schedule, folder: Path, **own: Any) -> TrainingArguments:
    """`TrainingArguments` of a recipe, with what one kind of training has of its `own`."""
    cuda = torch.cuda.is_available()
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
        use_cpu=not cuda,
        save_steps=recipe.save_steps,
        seed=recipe.seed,
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=cuda,
        **own,
    )


class Stop(TrainerCallback):
    """Ends the training before its learning-rate schedule does, with a checkpoint, where any are
    kept: the training is found finished then."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= self.step:
            control.should_training_stop = True
            control.should_save |= args.save_strategy != "no"


class Measure(TrainerCallback):
    """Prints held-out accuracy at every checkpoint and leaves it in the log of the state.

    A checkpoint's own figures are not in it yet, so a training resumed there lacks that one point.
    """

    def __init__(self, measure: Callable[[], dict[str, float]]) -> None:
        self.measure = measure

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        scores = {k: round(v, 3) for k, v in self.measure().items()}
        state.log_history.append({"step": state.global_step, MEASURED: scores})
        print(f"step {state.global_step}: held-out {scores}", flush=True)


class Clock(TrainerCallback):
    """Leaves in every row of the log how long the training has taken, earlier sittings included."""

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began = time.time() - spent(state)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.log_history:  # only the first process keeps one
            state.log_history[-1][SECONDS] = round(time.time() - self.began, 1)


def spent(state: TrainerState) -> float:
    """Seconds a training had taken at the last row of its log that says so; 0 where none does."""
    return next((row[SECONDS] for row in reversed(state.log_history) if SECONDS in row), 0.0)


def fit(trainer: Trainer, measure: Callable[[], dict[str, float]] | None = None) -> float:
    """Train, from the newest whole checkpoint if there is one; one at the last step, which an
    earlier `Stop` may set, is only read.

    `Trainer` would make one step more. Returns the seconds that earlier sittings took up to that
    checkpoint; what a killed one did behind it is done again and counted once.
    """
    trainer.add_callback(Clock())
    if measure is not None:
        trainer.add_callback(Measure(measure))
    last = last_complete(Path(trainer.args.output_dir))
    before = 0.0
    if last is not None:
        state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        before = spent(state)
        if state.global_step >= _last_step(trainer) > 0:
            trainer.state = state
            trainer._load_from_checkpoint(str(last))
            return before
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return before


def _last_step(trainer: Trainer) -> int:
    """The step that a training ends at; 0 where its epochs say it."""
    stops = [c.step for c in trainer.callback_handler.callbacks if isinstance(c, Stop)]
    return min((step for step in (trainer.args.max_steps, *stops) if step > 0), default=0)
