"""`Trainer` for instruction data: its arguments, order of rows, learning rates, loss accounting."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from harness.common.errors import UsageError, one_line
from harness.fitting import fit
from harness.fitting.guard import GuardedTrainer
from harness.train.batches import ModalitySampler
from harness.train.recipe import InstructRecipe

BROKEN = "broken-{}.txt"  # ids of rows whose image could not be decoded, one file a process


def arguments(recipe: InstructRecipe, folder: Path) -> TrainingArguments:
    """`TrainingArguments` of a recipe; also starts the processes' group where there are several.

    Raises UsageError where `Trainer` refuses the combination (bf16 on an old GPU, no DeepSpeed).
    """
    cuda = torch.cuda.is_available()
    try:
        return fit.arguments(
            recipe,
            folder,
            gradient_accumulation_steps=recipe.accumulation,
            tf32=recipe.tf32 if cuda and torch.cuda.get_device_capability()[0] >= 8 else None,
            deepspeed=recipe.deepspeed or None,
            fsdp=recipe.fsdp or None,
            logging_steps=recipe.logging_steps,
            save_total_limit=recipe.keep,
            dataloader_num_workers=recipe.workers,
            # A batch of text leaves the projector without a gradient, a staged method the routers.
            ddp_find_unused_parameters=True,
            average_tokens_across_devices=True,
        )
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(f"training arguments: {one_line(error)}") from None


def show_curves(trainer: GuardedTrainer, folder: Path) -> None:
    """TensorBoard curves in `folder`, from the main process, where TensorBoard is installed."""
    if trainer.is_world_process_zero() and importlib.util.find_spec("tensorboard") is not None:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        trainer.add_callback(TensorBoardCallback(SummaryWriter(str(folder))))


class InstructTrainer(GuardedTrainer):
    """See the module docstring; `sampler` gives the rows of an epoch."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *args: Any, sampler: ModalitySampler, recipe: InstructRecipe, **kw: Any):
        super().__init__(*args, **kw)
        self.sampler, self.recipe = sampler, recipe
        self._step_tokens: Any = None
        self._broken = Path(self.args.output_dir) / BROKEN.format(self.args.process_index)
        self.add_callback(_Epoch(sampler))

    # --- data ---------------------------------------------------------------------------------
    def _get_train_sampler(self, train_dataset: Any = None) -> ModalitySampler:
        return self.sampler

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Any]:
        """The batches of one optimiser step and its number of labels; notes its tokens beside."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        broken = [name for batch in batches for name in batch.pop("broken", ())]
        if broken:
            with self._broken.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(name) + "\n" for name in broken)
        counts = [batch["attention_mask"].sum() for batch in batches]
        total = torch.stack(counts).sum().to(device) if counts else torch.ones((), device=device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        self._step_tokens = total
        return batches, items

    # --- loss ---------------------------------------------------------------------------------
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """`Trainer`'s own, with the step's tokens for the model to weight its auxiliary loss by."""
        inputs = {**inputs, "step_tokens": self._step_tokens}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    # --- learning rates -----------------------------------------------------------------------
    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """`Trainer`'s optimiser, with a learning rate of its own for the routers if one is set."""
        rate = self.recipe.module_learning_rate
        if self.optimizer is None and rate:
            module = self.model if model is None else model
            decays = set(self.get_decay_parameter_names(module))
            groups: dict[tuple[bool, bool], list[Tensor]] = {}
            for name, value in module.named_parameters():
                if value.requires_grad:
                    key = "routers." in name, name in decays
                    groups.setdefault(key, []).append(value)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, module)
            self.optimizer = kind(
                [
                    {
                        "params": values,
                        "lr": rate if router else self.args.learning_rate,
                        "weight_decay": self.args.weight_decay if decay else 0.0,
                    }
                    for (router, decay), values in groups.items()
                ],
                **options,
            )
        return super().create_optimizer(model)

    # --- results ------------------------------------------------------------------------------
    def broken_rows(self) -> list[str]:
        """Ids of rows whose image could not be decoded, over all processes and sittings."""
        files = self._broken.parent.glob(BROKEN.format("*"))
        lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        return sorted({json.loads(line) for line in lines})

    def gathered_state(self) -> dict[str, Tensor]:
        """The whole state dict on the main process, from wherever its shards are (collective)."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return self.accelerator.get_state_dict(self.model_wrapped)
        return self.accelerator.unwrap_model(self.model).state_dict()


class _Epoch(TrainerCallback):
    """Tells the sampler its epoch. accelerate does so only where nothing wraps the sampler twice,
    which it does in a run that resumes on several processes."""

    def __init__(self, sampler: ModalitySampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(state.global_step // (len(self.sampler) // self.sampler.whole))
