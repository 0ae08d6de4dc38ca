"""The instruction-tuning job: recipe -> index -> samples -> batches -> trainer -> folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

import methods
from harness.common.errors import UsageError
from harness.common.stops import put, tell
from harness.engine import model_info, routed
from harness.fitting.fit import fit
from harness.fitting.guard import last_complete
from harness.fitting.plan import staged
from harness.fitting.stages import follow
from harness.train.assemble import part_hashes
from harness.train.batches import ModalitySampler
from harness.train.folder import same_run, write_folder
from harness.train.model import (
    InstructModel,
    choose_trained,
    load_start,
    parameter_counts,
    use_checkpointing,
)
from harness.train.planning import planned
from harness.train.recipe import InstructRecipe
from harness.train.samples import Collator, Samples, open_samples
from harness.train.trainer import InstructTrainer, arguments, show_curves
from methods.base import Method, MethodError


def instruct(recipe: InstructRecipe, out: Path) -> None:
    """Train and write `out`; checkpoints, index and plan lie in `OUT-run` beside it.

    Given again after an interruption it goes on from the newest whole checkpoint.
    Raises UsageError for bad input before anything is trained, Overflow where training ends badly.
    """
    check(recipe)
    run_folder = out.with_name(f"{out.name}-run")
    args = arguments(recipe, run_folder)  # starts the group of processes, so it comes first
    set_seed(recipe.seed)
    with _whole_weights(args):
        llava, processor, source = load_start(recipe)
    with args.main_process_first(desc="reading the data"):
        kind, own = llava.config.model_type, args.process_index == 0
        samples, index = open_samples(recipe, processor, kind, run_folder, renew=own)
        start = source.file_hashes if source is not None else part_hashes(recipe)
        if other := same_run(run_folder, recipe, args.world_size, len(index), start):
            raise UsageError(
                f"{run_folder} holds a run of another recipe ({other}): "
                "remove it or choose another --out"
            )
    with _whole_weights(args), args.main_process_first(desc="planning the layers"):
        method, plan = planned(recipe, llava, samples, run_folder, args.device)
    stages = staged(recipe.stages, method, recipe.plan)
    with ExitStack() as stack:
        model, run = _model(recipe, method, stages, llava, stack)
        trainer = _trainer(recipe, model, args, samples, processor)
        follow(trainer, run, stages, method, model_info(llava), recipe.seed)
        show_curves(trainer, out / "runs")
        _tell(args, [*index.lines(), *_about(trainer, model, method, run_folder)])
        began, first = time.time(), _first_step(run_folder)
        fit(trainer)
        state = trainer.gathered_state()
        if trainer.is_world_process_zero():
            facts = _facts(recipe, trainer, source, index.report, plan)
            facts |= {"seconds": time.time() - began, "resumed_from_step": first}
            write_folder(out, recipe, method, model, processor, state, _base(source), facts)
            _finish(out, trainer, facts)
    trainer.accelerator.end_training()


@contextmanager
def _whole_weights(args: Any) -> Iterator[None]:
    """Models are put together and measured whole; under ZeRO-3 `Trainer` divides them later."""
    config = getattr(args, "hf_deepspeed_config", None)
    if config is None:
        yield
        return
    from transformers.integrations import deepspeed

    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed.set_hf_deepspeed_config(config)


def check(recipe: InstructRecipe) -> None:
    """What a recipe can get wrong without a look at model or data. Raises UsageError, one line."""
    if not recipe.data:
        raise UsageError("no data: give --data FILE (LLaVA conversation JSON or JSON lines)")
    for key in ("batch", "accumulation", "save_steps", "logging_steps", "max_length"):
        if getattr(recipe, key) < 1:
            raise UsageError(f"recipe: {key} must be at least 1, not {getattr(recipe, key)}")
    for key in ("deepspeed",):
        if getattr(recipe, key) and not Path(getattr(recipe, key)).is_file():
            raise UsageError(f"recipe: {key}: no file {getattr(recipe, key)}")
    try:
        method, *_ = [methods.parse(spec) for spec in (recipe.method, *recipe.stages)]
    except MethodError as error:
        raise UsageError(str(error)) from None
    if not recipe.train and not method.trained:
        raise UsageError(f"recipe: train is empty and {method.name} has no routers: nothing learns")


def _model(
    recipe: InstructRecipe, method: Method, specs: Sequence[str], llava: Any, stack: ExitStack
) -> tuple[InstructModel, Any]:
    """The model with what learns of it chosen, and the open routing context (None for dense)."""
    choose_trained(llava, recipe)
    if recipe.checkpointing:
        use_checkpointing(llava)
    info = model_info(llava)
    set_seed(recipe.seed)  # the same fresh routers whatever was drawn before
    stages = [methods.parse(spec) for spec in specs]
    try:
        for each in (method, *stages):
            each.fits(info)
        routers = method.build_modules(info)
        for stage in stages:
            _same_routers(method, routers, stage, stage.build_modules(info))
    except MethodError as error:
        raise UsageError(str(error)) from None
    run = None
    if stages or method.role != "reference":
        first = stages[0] if stages else method
        run = stack.enter_context(routed(llava, first, routers, record=False))
    model = InstructModel(llava, routers, run, whole_state=recipe.sharded)
    if recipe.deepspeed:
        model.config = llava.config  # where `Trainer` looks up sizes for "auto" values
    return model, run


def _same_routers(
    method: Method, routers: nn.Module | None, stage: Method, own: nn.Module | None
) -> None:
    """A stage may use the routers of the method that is saved, or none. Raises UsageError."""
    if own is None:
        return
    have = routers.state_dict() if routers is not None else {}
    for name, value in own.state_dict().items():
        if name not in have or have[name].shape != value.shape:
            raise UsageError(
                f"stage {stage.spec}: its router {name} is none of {method.spec}, which is saved"
            )


def _trainer(
    recipe: InstructRecipe,
    model: InstructModel,
    args: Any,
    samples: Samples,
    processor: Any,
) -> InstructTrainer:
    sampler = ModalitySampler(
        samples.index.lengths,
        samples.index.has_image,
        recipe.batch,
        args.world_size * recipe.accumulation,
        recipe.seed,
        recipe.group_by_modality,
    )
    return InstructTrainer(
        model,
        args,
        train_dataset=samples,
        data_collator=Collator(processor.tokenizer.pad_token_id),
        sampler=sampler,
        recipe=recipe,
    )


def _about(
    trainer: InstructTrainer, model: InstructModel, method: Method, folder: Path
) -> list[str]:
    learning, whole = parameter_counts(model)
    lines = [f"{method.spec}: {learning:,} of {whole:,} parameters learn"]
    if trainer.sampler.repeated:
        lines.append(f"{trainer.sampler.repeated} rows are repeated in an epoch to fill batches")
    if step := _first_step(folder):
        lines.append(f"resuming after step {step}, on the rows that it began with")
    return lines


def _first_step(folder: Path) -> int:
    last = last_complete(folder)
    return int(last.name.rpartition("-")[2]) if last else 0


def _tell(args: Any, lines: list[str]) -> None:
    if args.process_index == 0:
        for line in lines:
            tell(line)


def _facts(
    recipe: InstructRecipe,
    trainer: InstructTrainer,
    source: Any,
    report: dict[str, Any],
    plan: dict[str, Any],
) -> dict[str, Any]:
    """Everything `training.json` says, but the time."""
    import torch
    import transformers

    told = {key: _name(value) for key, value in dataclasses.asdict(recipe).items()}
    return {
        "recipe": told,
        "start": told["model"] or f"{told['decoder']} + {told['vision']}",
        "hub_model": source.model_id if source is not None and source.revision else None,
        "plan": plan,
        "steps": trainer.state.global_step,
        "processes": trainer.args.world_size,
        "data": {**report, "data": Path(report["data"]).name},
        "repeated_rows": trainer.sampler.repeated,
        "undecodable": trainer.broken_rows(),
        "log": trainer.state.log_history,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _name(value: Any) -> Any:
    """A path without its folders, which say nothing to others; anything else as it is."""
    local = isinstance(value, str) and value and Path(value).expanduser().exists()
    return Path(value).name if local else value


def _base(source: Any) -> str | None:
    """sha256 of the start model's weights; None for several files, which have no single one."""
    hashes = list(source.weight_hashes.values()) if source is not None else []
    return hashes[0] if len(hashes) == 1 else None


def _finish(out: Path, trainer: InstructTrainer, facts: dict[str, Any]) -> None:
    broken = facts["undecodable"]
    if broken:
        found = f"{len(broken)} rows had an undecodable image"
        tell(f"{found}, others took their place; first: {broken[0]}")
    put(f"trained {facts['steps']} steps in {facts['seconds']:.0f} s; wrote {out}")
