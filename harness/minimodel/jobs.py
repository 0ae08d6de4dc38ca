"""The tuning job: instruction-tune the LLaVA, dense or through the engine. It resumes."""

from __future__ import annotations

import copy
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerFast, TrainingArguments, set_seed

import methods
from harness.common.errors import UsageError, one_line
from harness.engine import model_info, routed
from harness.fitting.fit import Stop, fit
from harness.fitting.plan import staged, wants_plan
from harness.fitting.stages import follow
from harness.minimodel.attention import WINDOW
from harness.minimodel.card import chain, history, write_card, write_history
from harness.minimodel.compiling import compile_parts
from harness.minimodel.folders import (
    LOG,
    save_model,
    save_shared,
    start_folder,
    start_model,
    undo_updates,
)
from harness.minimodel.log import about_data, facts, progress, write_log
from harness.minimodel.lowrank import (
    add_low_rank,
    cut_low_rank,
    low_rank_state,
    merge_low_rank,
    take_low_rank,
)
from harness.minimodel.packing import PackedScenes, Packer
from harness.minimodel.parts import Job, Parts, name_of, parts_of
from harness.minimodel.planning import plan_by_arank
from harness.minimodel.precision import in_float32
from harness.minimodel.rates import RateTrainer, arguments
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes
from harness.minimodel.sizes import SizedBatches, read_scenes
from harness.minimodel.tower import DenseHeads
from harness.minimodel.tune import TuneModel, held_out_accuracy
from harness.model.checkpoints import CheckpointError, Loaded, load_checkpoint, save_checkpoint
from harness.model.weights import SINGLE, file_hash
from methods.base import Method

SMALL = 100_000  # parameters of modules that are saved in full precision
PROBE = 80  # held-out scenes measured at every checkpoint; all of them at the end


@dataclass
class Tuning:
    """A model about to be tuned: its data, the method's modules, the open routing context."""

    llava: Any
    tokenizer: PreTrainedTokenizerFast
    method: Method
    planned: dict[str, Any]
    modules: nn.Module | None
    run: Any  # None for dense without stages
    model: TuneModel
    packer: Packer
    train: PackedScenes
    held: PackedScenes
    dense: DenseHeads | None
    batches: SizedBatches | None  # of scenes of several sizes


def job_of(recipe: Recipe) -> Job:
    """What carries out a recipe. Raises UsageError for a stage that its architecture has not."""
    jobs = {**parts_of(recipe.architecture).jobs(), "tune": tune}
    if recipe.stage not in jobs:
        raise UsageError(
            f"recipe: no stage {recipe.stage} of {recipe.architecture}: expected "
            + " or ".join(jobs)
        )
    return jobs[recipe.stage]


def prepare(
    recipe: Recipe, scenes: Scenes, work: Path, decoder: Path | None, stack: ExitStack
) -> Tuning:
    """Everything a tuning needs; `stack` holds the routing context open."""
    set_seed(recipe.seed)
    llava, tokenizer = start_model(recipe, scenes, work, decoder)
    if recipe.first:
        recipe.check_amounts(len(scenes))
        kept = range(len(scenes) - recipe.held_out, len(scenes))
        scenes = scenes.only([*range(recipe.first), *kept])
    parts = parts_of(llava.config.model_type)
    heads = start_folder(recipe, work) if recipe.start else work / "tower"
    images, dense = parts.images(recipe, scenes, llava, work, heads)
    longest = WINDOW if recipe.packed else None
    extras: Any = {"captions": recipe.captions, "drills": recipe.drills, "longest": longest}
    extras["mark"] = parts.mark
    rows, last = scenes.split(recipe.held_out, recipe.families, recipe.seed)
    train = PackedScenes(
        scenes, images, tokenizer, rows, short=recipe.short, seed=recipe.seed, **extras
    )
    held = PackedScenes(scenes, images, tokenizer, last, **extras)
    packer = parts.packer(recipe, llava, dense, train)
    method, planned = _method(recipe, llava, held, packer.head, parts.ranked)
    earlier = _earlier(recipe, work, llava, method)
    modules, run = _routing(recipe, method, llava, stack, earlier)
    if recipe.rank:
        llava.requires_grad_(False)
        if dense is not None:
            check_along(recipe, parts, modules)
        before = earlier.deltas if earlier else {}
        if recipe.train_tower and recipe.start:  # a whole model comes of it
            before = undo_updates(parts, start_folder(recipe, work), llava)
        add_low_rank(llava.model.language_model, recipe.rank)
        take_low_rank(llava, before)
        if dense is not None:
            dense.requires_grad_(True)
    if recipe.packed:
        llava.set_attn_implementation({"text_config": "packed"})
        llava.model.language_model.compile(dynamic=False)
    elif not torch.cuda.is_available():
        # On two CPU cores a step of the bare decoder takes 0.75 s with sdpa and 0.63 s with plain
        # matrix products.
        llava.set_attn_implementation({"text_config": "eager"})
    if recipe.compile and not recipe.packed:
        compile_parts(llava.model.language_model)
    model = TuneModel(llava, modules, run, dense, recipe.dense_weight)
    model.compiled = packer.widest if recipe.packed else 0
    batches = None
    if len(scenes.parts) > 1:
        batches = SizedBatches(scenes, rows, recipe.batch, recipe.pages, recipe.seed)
    return Tuning(
        *(llava, tokenizer, method, planned, modules, run, model),
        *(packer, train, held, dense, batches),
    )


def make_trainer(tuning: Tuning, recipe: Recipe, args: TrainingArguments) -> RateTrainer:
    """The `Trainer` of a tuning, with the recipe's rates, stages and early stop."""
    trainer = RateTrainer(
        tuning.model, args, train_dataset=tuning.train, data_collator=tuning.packer
    )
    trainer.muon, trainer.batches = recipe.muon, tuning.batches
    trainer.module_learning_rate = recipe.module_learning_rate
    trainer.tower_learning_rate = recipe.tower_learning_rate
    info = model_info(tuning.llava)
    stages = staged(recipe.stages, tuning.method, recipe.plan)
    follow(trainer, tuning.run, stages, tuning.method, info, recipe.seed)
    if recipe.until:
        trainer.add_callback(Stop(recipe.until))
    return trainer


def save_low_rank(
    out: Path, tuning: Tuning, base: str | None, training: dict[str, Any] | None = None
) -> None:
    """What a rank > 0 tuning learned, as a folder that `--checkpoint` loads."""
    save_checkpoint(
        out,
        tuning.method,
        stored(tuning.modules),
        model_info(tuning.llava),
        deltas=low_rank_state(tuning.llava),
        base=base,
        training=training,
    )


def stored(modules: nn.Module | None) -> nn.Module | None:
    """Modules as they are saved: small ones (routers) as they are, a resampler in float16."""
    return modules if modules is None or are_routers(modules) else copy.deepcopy(modules).half()


def are_routers(modules: nn.Module | None) -> bool:
    """Whether these are routers rather than a resampler."""
    return modules is not None and sum(p.numel() for p in modules.parameters()) < SMALL


def tune(recipe: Recipe, *, data: Path, work: Path, out: Path, decoder: Path | None) -> None:
    """Instruction-tune; writes a full model folder (rank 0) or a method checkpoint (rank > 0)."""
    scenes = read_scenes(recipe, data)
    with ExitStack() as stack:
        tuning = prepare(recipe, scenes, work, decoder, stack)
        batches, benches = _probe(tuning, min(PROBE, len(tuning.held)))
        trainer = make_trainer(tuning, recipe, arguments(recipe, work / f"{out.name}-run"))
        started = time.time()
        started -= fit(
            trainer, lambda: held_out_accuracy(tuning.model, batches, benches, recipe.bf16)
        )
        if tuning.run is not None:
            tuning.run.method = tuning.method  # what is saved, whatever the last stage was
        if recipe.stored_rank:
            cut_low_rank(tuning.llava, recipe.stored_rank)
        batches, benches = _probe(tuning, len(tuning.held))
        scores = held_out_accuracy(tuning.model, batches, benches, recipe.bf16)
    log = {"held_out": scores, "seconds": time.time() - started, "plan": tuning.planned}
    about = about_data(data, scenes) | {"measured": len(tuning.held)}
    log |= {"data": about, **progress(trainer.state)}
    before = chain(work, recipe.modules) + history(work, recipe.start)
    if recipe.rank and not recipe.train_tower:
        base = file_hash(start_folder(recipe, work) / SINGLE)
        (out / LOG).unlink(missing_ok=True)
        save_low_rank(out, tuning, base, facts(recipe, log))
    else:
        updates = merge_low_rank(tuning.llava)
        save_model(tuning.llava, tuning.tokenizer, out)
        write_history(out, before)
        save_shared(parts_of(tuning.llava.config.model_type), updates, out)
        if tuning.dense is not None:
            save_file(tuning.dense.heads.state_dict(), out / "heads.safetensors")
    write_log(out, recipe, log)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    parts, model = tuning.model.parts, name_of(tuning.llava.config.model_type)
    write_card(out, tuning.method.name, facts(recipe, log), device, before, parts, model)


def _method(
    recipe: Recipe, llava: Any, held: PackedScenes, head: list[int], ranked: bool
) -> tuple[Method, dict[str, Any]]:
    """The recipe's method, its layers planned by ARank where the recipe says so."""
    method = methods.parse(recipe.method)
    if wants_plan(method, recipe.plan):
        if not ranked or recipe.train_tower:
            raise UsageError(
                f"recipe: plan arank on a {llava.config.model_type} model, or with train_tower: "
                "name the layers in the method instead"
            )
        return plan_by_arank(method, llava, held, head)
    return method, {}


def _earlier(recipe: Recipe, work: Path, llava: Any, method: Method) -> Loaded | None:
    """What the method's modules, and the updates of this dense model, go on from."""
    if not recipe.modules:
        return None
    base = file_hash(start_folder(recipe, work) / SINGLE)
    try:
        found = load_checkpoint(work / recipe.modules, llava, method, base)
    except CheckpointError as error:
        raise UsageError(f"recipe: modules: {one_line(error)}") from None
    if found.deltas and not recipe.rank:
        raise UsageError(
            f"recipe: rank 0, but {recipe.modules} has low-rank updates: give the rank of those"
        )
    return found


def _routing(
    recipe: Recipe, method: Method, llava: Any, stack: ExitStack, earlier: Loaded | None
) -> tuple[nn.Module | None, Any]:
    """The method's modules and an open routing context; (None, None) for dense throughout."""
    if method.role == "reference" and not recipe.stages:
        sharpen(None, recipe.sharpen)
        return None, None
    if earlier is not None:
        modules = earlier.modules
    else:
        modules = method.build_modules(model_info(llava))
    sharpen(modules, recipe.sharpen)
    if are_routers(modules):
        in_float32(modules)
    return modules, stack.enter_context(routed(llava, method, modules, record=False))


def check_along(recipe: Recipe, parts: Parts, modules: nn.Module | None) -> None:
    """Raises UsageError where a tower is tuned beside low-rank updates and something would be lost:
    the method's modules are not kept then, nor a projector trained, and the updates gone on with
    are the start model's."""
    if parts.shared is None or modules is not None or recipe.modules:
        raise UsageError(
            f"recipe: rank {recipe.rank} with train_tower: expected a method without modules, no "
            "`modules` of an earlier recipe, and an architecture that shares another one's decoder"
        )


@torch.no_grad()
def sharpen(modules: nn.Module | None, times: float) -> None:
    """Multiply the logits of linear routers. Raises UsageError for modules of another form."""
    if times == 1:
        return
    layers = [m for m in modules.modules() if not list(m.children())] if modules else []
    if not layers or not all(isinstance(m, nn.Linear) and m.bias is None for m in layers):
        raise UsageError(
            "recipe: sharpen: expected a method whose routers are linear, without bias"
        )
    for layer in layers:
        layer.weight.mul_(times)  # type: ignore[operator, union-attr]


def _probe(tuning: Tuning, count: int) -> tuple[list[dict[str, torch.Tensor]], list[list[str]]]:
    """Batches of the first `count` held-out scenes and the bench of every question in them."""
    batches, benches = [], []
    for probe in tuning.model.parts.probes(tuning.packer, tuning.held, count):
        probe.packer.rng = _InOrder()  # type: ignore[assignment]
        items: list[dict[str, Any]] = [tuning.held[i] for i in probe.rows]
        batches.append(probe.packer(items))
        benches.append([b.bench + probe.where for item in items for b in item["blocks"]])
    return batches, benches


class _InOrder:
    """Stands for a random generator where the order must stay as it is."""

    def permutation(self, n: int) -> range:
        return range(n)
