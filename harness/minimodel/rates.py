"""`Trainer` with a learning rate for each part of the model, and Muon where a recipe asks."""

from __future__ import annotations

import copy
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers.trainer
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import TrainingArguments

from harness.common.stops import tell
from harness.fitting import fit
from harness.fitting.guard import GuardedTrainer
from harness.minimodel.optim import MuonAdamW, hidden_matrices
from harness.minimodel.recipe import Recipe


def arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """Of a recipe of the mini model: the newest two checkpoints are kept."""
    return fit.arguments(
        recipe, folder, logging_steps=20, save_total_limit=2, dataloader_num_workers=1
    )


class RateTrainer(GuardedTrainer):
    """`Trainer` with learning rates of their own for new modules, the tower and Muon."""

    optimizer: torch.optim.Optimizer | None
    module_learning_rate: float = 1e-3  # routers, projector
    tower_learning_rate: float = 3e-4  # vision tower, when tuned along
    muon: float = 0.0  # the layers' matrices under Muon; 0: AdamW for all
    batches: Sampler[list[int]] | None = None  # of the training data, where they are not alike

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.train`; one that resumes goes on with the draws an unbroken one would make.

        What draws a batch (a `Packer`'s questions, a `Canvas`'s size, pixels to move a picture by)
        keeps its generator in the worker, and the library's way to resume never asks it for the
        batches that it leaves out.
        """
        with patch.object(transformers.trainer, "skip_first_batches", _made_again):
            return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        if self.batches is None:
            return super().get_train_dataloader()
        loader: DataLoader = self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_sampler=self.batches,
                collate_fn=self.data_collator,
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )
        return loader

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            hidden = hidden_matrices(self.model) if self.muon else set()
            groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    muon = name in hidden
                    groups[self.muon if muon else self._rate(name), muon].append(parameter)
            self.optimizer = MuonAdamW(
                [{"params": p, "lr": rate, "muon": muon} for (rate, muon), p in groups.items()],
                weight_decay=self.args.weight_decay,
                bf16=bool(self.args.bf16),
            )
        return self.optimizer

    def _rate(self, name: str) -> float:
        if any(part in name for part in ("routers.", "projector", ".merger.")):
            return self.module_learning_rate
        if "vision_tower" in name or ".visual." in name:
            return self.tower_learning_rate
        return self.args.learning_rate


def _made_again(loader: DataLoader, count: int) -> DataLoader:
    """A loader that makes the first `count` batches too, and gives those behind them."""
    tell(f"note: making the {count:,} batches again that this epoch has had")
    again: Any = copy.copy(loader)
    again.skip_batches = count
    return again  # type: ignore[no-any-return]
