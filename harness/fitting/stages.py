"""The method changes with the optimiser's step: in stages (LLaVolta), or drawn anew (MQT)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

import methods
from methods.base import Method, ModelInfo


def stage_at(step: int, total: int, count: int) -> int:
    """Number of the stage that step `step` (from 0) of `total` belongs to, of `count` equal parts.

    The released LLaVolta counts forward passes and forgets its count on resuming; here the stage
    follows from the optimiser's step, which every checkpoint holds.
    """
    return min(step * count // max(total, 1), count - 1)


class Staged(TrainerCallback):
    """Runs every step with its stage's method, and everything in between with the method itself:
    what is measured at a checkpoint is what will be saved."""

    def __init__(self, run: Any, method: Method, specs: Sequence[str]) -> None:
        self.run, self.method = run, method
        self.stages: list[Method] = [methods.parse(spec) for spec in specs]

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        number = stage_at(state.global_step, state.max_steps, len(self.stages))
        self.run.method = self.stages[number]

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.run.method = self.method


class Drawn(TrainerCallback):
    """Runs every step with `Method.drawn`, and everything in between with the method itself.

    The draw follows from seed and step alone, so a resumed training goes on with the same ones.
    """

    def __init__(self, run: Any, method: Method, info: ModelInfo, seed: int) -> None:
        self.run, self.method, self.info, self.seed = run, method, info, seed

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        draw = random.Random(f"{self.seed} {state.global_step}")
        self.run.method = self.method.drawn(self.info, draw)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.run.method = self.method


def follow(
    trainer: Trainer, run: Any, stages: Sequence[str], method: Method, info: ModelInfo, seed: int
) -> None:
    """Let the method of ``run`` change as the schedule says; ``run`` None: nothing to change."""
    if stages:
        trainer.add_callback(Staged(run, method, stages))
    elif run is not None:
        trainer.add_callback(Drawn(run, method, info, seed))
