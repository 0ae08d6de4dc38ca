"""Overflow guard: a value that is not finite stops training, is named, and is never saved.

While all is well it costs one question to the device per optimiser step: is loss + gradient norm
finite? Only when it is not, the step's batches are run again (the weights have not been changed
yet) with a look at every module's output, and the first one that is not finite is named. Weights
are looked at before a checkpoint is written, so the newest checkpoint is always a good one.
DeepSpeed steps inside its backward pass: there the weights have changed by then, and a weight is
named rather than the layer (not tried).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from harness.common.errors import HarnessError

STATE = "trainer_state.json"  # what `Trainer` writes last into a checkpoint
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)(?:\.|$)")


class Overflow(HarnessError):
    """Training met a value that is not finite. Exit code 3."""


class GuardedTrainer(Trainer):
    """`Trainer` that stops at the first value that is not finite. See the module docstring."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Its filter would hide a bad loss from the log, at the price of a question every batch.
        self.args.logging_nan_inf_filter = False
        self._window: list[tuple[dict[str, Any], Any]] = []  # batches of the step in progress
        self._losses: Tensor | None = None
        self._norm: Any = None
        self.add_callback(_Watch(self._watch))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.train`; where it stops early, bars and logs are closed before the message."""
        try:
            return super().train(*args, **kwargs)
        except (Overflow, KeyboardInterrupt):
            with suppress(AttributeError):  # stopped before there was a bar
                self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        self._window.append((inputs, num_items_in_batch))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses = loss if self._losses is None else self._losses + loss
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        self._norm = super()._get_grad_norm(model, grad_norm)
        return self._norm

    def _watch(self) -> None:
        """Raise Overflow unless loss and gradients of the step are finite, on every process."""
        losses, norm, window = self._losses, self._norm, self._window
        self._losses, self._norm, self._window = None, None, []
        if losses is None:
            return
        if norm is None:  # a release of `Trainer` that does not ask for the norm
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            norm = torch.stack(torch._foreach_norm(grads)).norm() if grads else 0.0
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        bad = ~torch.isfinite(losses.float() + torch.as_tensor(norm, device=losses.device))
        if self.accelerator.num_processes > 1:
            bad = self.accelerator.reduce(bad.float(), "sum") > 0
        if bool(bad):
            raise self._overflow(self.state.global_step + 1, self._explain(window))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = self._agreed(bad_weight(self.model) or "")  # each process may hold a part only
        if name:
            raise self._overflow(self.state.global_step, f"weight {name} is not finite")
        super()._save_checkpoint(model, trial)

    def _overflow(self, step: int, what: str) -> Overflow:
        good = last_complete(Path(self.args.output_dir))
        kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        return Overflow(f"step {step}: {what}; training stopped, {kept}")

    def _explain(self, window: list[tuple[dict[str, Any], Any]]) -> str:
        """Where the first value that is not finite comes from, agreed on by all processes."""
        model = self.accelerator.unwrap_model(self.model)
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        found = f"weight {name} is not finite" if (name := bad_weight(model, all_=True)) else ""
        where = ""
        for inputs, items in window:
            where = where or self._first_bad(model, inputs, items, backward=not sharded)
        found = self._agreed(", ".join(x for x in (found, where) if x))
        return found or "loss or gradients are not finite, all outputs are"

    def _agreed(self, found: str) -> str:
        """What the first process that found something says; all of them hear it."""
        if self.accelerator.num_processes == 1:
            return found
        from accelerate.utils import gather_object

        return next((x for x in gather_object([found]) if x), "")

    def _first_bad(
        self, model: nn.Module, inputs: dict[str, Any], items: Any, backward: bool
    ) -> str:
        """The first module output, loss or gradient of one batch that is not finite, or ''."""
        seen: list[str] = []
        model.zero_grad(set_to_none=True)
        with outputs_watched(model, seen), torch.set_grad_enabled(backward):
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs, num_items_in_batch=items)
        if seen:
            return f"{seen[0]} is not finite"
        if not bool(torch.isfinite(loss)):
            return "the loss is not finite, all outputs are"
        if backward:
            loss.backward()
            bad = [
                n for n, p in model.named_parameters() if p.grad is not None and not _fine(p.grad)
            ]
            if bad:  # the last in the model's order is the first the backward pass reached
                return f"the gradient of {place(bad[-1])} is not finite, all outputs are"
        return ""


class _Watch(TrainerCallback):
    def __init__(self, watch: Callable[[], None]) -> None:
        self.watch = watch

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.watch()


def bad_weight(model: nn.Module, all_: bool = False) -> str | None:
    """Name of the first weight that is not finite, of those that learn or of all; one question."""
    named = [(n, p) for n, p in model.named_parameters() if all_ or p.requires_grad]
    local = [p for _, p in named]
    # The part of a sharded weight that is here: FSDP's, or that of DeepSpeed's third stage.
    local = [p.to_local() if hasattr(p, "to_local") else getattr(p, "ds_tensor", p) for p in local]
    if not local:
        return None
    fine = torch.stack([torch.isfinite(p.detach()).all().to(local[0].device) for p in local])
    if bool(fine.all()):
        return None
    return place(named[int((~fine).nonzero()[0])][0])


@contextmanager
def outputs_watched(model: nn.Module, seen: list[str]) -> Iterator[None]:
    """While open, `seen` collects what is not finite, in the order it arises; one question each."""

    def look(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if seen:
                return
            state = kwargs.get("hidden_states", args[0] if args else None)
            if isinstance(state, Tensor) and not _fine(state):
                seen.append(_entering(name))
            elif any(not _fine(t) for t in _tensors(output)):
                seen.append(f"the output of {place(name)}")

        return hook

    handles = [
        module.register_forward_hook(look(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_complete(folder: Path) -> Path | None:
    """The newest whole checkpoint of `Trainer` in `folder`: one cut short has no state file."""
    found = [
        (int(path.name.rpartition("-")[2]), path)
        for path in folder.glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit() and (path / STATE).is_file()
    ]
    return max(found)[1] if found else None


def place(name: str) -> str:
    """A module's or parameter's name, with its layer in words."""
    layer = LAYER.search(name)
    if layer is None:
        return name
    kind = "vision layer" if "vision" in name or "tower" in name else "decoder layer"
    return f"{kind} {layer[1]} ({name})"


def _entering(name: str) -> str:
    """Words for a state that was bad before the module saw it: the layer before made it so."""
    layer = LAYER.search(name)
    if layer is not None and name.endswith(f"layers.{layer[1]}.input_layernorm"):
        before = int(layer[1]) - 1
        kind = "vision layer" if "vision" in name else "decoder layer"
        return f"the output of {kind} {before}" if before >= 0 else "the input of decoder layer 0"
    return f"the input of {place(name)}"


def _fine(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value.detach()).all())


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)
