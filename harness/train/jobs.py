"""The two training jobs: pretrain the tower, tune the LLaVA. Both resume from their checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

import methods
from harness.engine import model_info, routed
from harness.model.checkpoints import save_checkpoint
from harness.train import tower as tower_module
from harness.train.align import (
    AlignModel,
    Pairs,
    PatchWords,
    Refit,
    patch_features,
    projected,
    whiten,
)
from harness.train.card import history, write_card
from harness.train.folders import save_model, sha256, start_folder, start_model
from harness.train.lowrank import add_low_rank, low_rank_state
from harness.train.packing import PackedScenes, Packer, cache_features
from harness.train.planning import plan_by_arank
from harness.train.rates import RateTrainer
from harness.train.recipe import Recipe
from harness.train.scenes import DenseScenes, Scenes, Vocabulary
from harness.train.tune import TuneModel, held_out_accuracy
from methods.base import Method

PROBE = 80  # held-out scenes measured at every checkpoint; all of them at the end


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


def train_tower(recipe: Recipe, *, data: Path, work: Path, out: Path, decoder: Path | None) -> None:
    """Pretrain the CLIP-shaped tower; writes `out/` (a `CLIPVisionModel` folder) and its log."""
    set_seed(recipe.seed)
    scenes = Scenes(data)
    vocabulary = Vocabulary.of(scenes)
    config = CLIPVisionConfig(
        hidden_size=recipe.width,
        intermediate_size=4 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        image_size=scenes.images.shape[1],
        patch_size=recipe.patch,
        hidden_act="gelu",
        # Plain matrix products train 1.5x faster on a CPU than its fused attention kernel.
        attn_implementation="eager",
    )
    model = tower_module.DenseTower(CLIPVisionModel(config), vocabulary)
    if recipe.start:
        _load_tower(model, work / recipe.start)
    cut = len(scenes) - recipe.held_out
    dataset = DenseScenes(scenes, vocabulary, recipe.patch, recipe.shift, recipe.seed)
    rows = torch.utils.data.Subset(dataset, scenes.pick(cut, recipe.families, recipe.seed))
    still = DenseScenes(scenes, vocabulary, recipe.patch)
    held = [still[i] for i in range(cut, len(scenes))]
    probe = {k: torch.stack([item[k] for item in held[:200]]) for k in held[0]}

    def measure() -> dict[str, float]:
        device = next(model.parameters()).device
        return tower_module.accuracy(model, {k: v.to(device) for k, v in probe.items()})

    started = time.time()
    trainer = RateTrainer(model, arguments(recipe, work / f"{out.name}-run"), train_dataset=rows)
    trainer.muon = recipe.muon
    _fit(trainer, measure)
    model.tower.save_pretrained(out)
    save_file(model.heads.state_dict(), out / "heads.safetensors")
    _write_log(out, recipe, {"held_out": measure(), "seconds": time.time() - started})


def _load_tower(model: tower_module.DenseTower, folder: Path) -> None:
    """Tower and heads of an earlier recipe; a head it had not is left as it is."""
    model.tower.load_state_dict(load_file(folder / "model.safetensors"))
    model.heads.load_state_dict(load_file(folder / "heads.safetensors"), strict=False)


def align(recipe: Recipe, *, data: Path, work: Path, out: Path, decoder: Path | None) -> None:
    """Assemble the LLaVA and align its projector; writes a full model folder.

    With a `start` that model gets the recipe's `tower`, and its projector is fitted to it.
    """
    set_seed(recipe.seed)
    scenes = Scenes(data)
    llava, tokenizer = start_model(recipe, scenes, work, decoder)
    layer, count = llava.config.vision_feature_layer, min(recipe.scenes, len(scenes))
    projector = llava.model.multi_modal_projector
    model: nn.Module
    dataset: torch.utils.data.Dataset
    if recipe.start:
        before = patch_features(llava.model.vision_tower, scenes, count, layer)
        target = projected(projector, before)
        llava.model.vision_tower.load_state_dict(
            load_file(work / recipe.tower / "model.safetensors")
        )
        features = patch_features(llava.model.vision_tower, scenes, count, layer)
        dataset = Pairs(features, target)
        model = Refit(projector, float(target[:200].astype("float32").var()))
    else:
        tower = llava.model.vision_tower
        features = patch_features(tower, scenes, count, layer)
        dense = DenseScenes(scenes, Vocabulary.of(scenes), tower.config.patch_size)
        words = PatchWords(scenes, features, dense)
        dataset, model = words, AlignModel(llava, words.names, tokenizer)
    whiten(projector, features)
    started = time.time()
    trainer = Trainer(model, arguments(recipe, work / f"{out.name}-run"), train_dataset=dataset)
    _fit(trainer)
    save_model(llava, tokenizer, out)
    heads = work / (recipe.tower or "tower") / "heads.safetensors"
    shutil.copy(heads, out / "heads.safetensors")
    loss = trainer.state.log_history[-2].get("loss")
    _write_log(out, recipe, {"loss": loss, "seconds": time.time() - started})


def tune(recipe: Recipe, *, data: Path, work: Path, out: Path, decoder: Path | None) -> None:
    """Instruction-tune; writes a full model folder (rank 0) or a method checkpoint (rank > 0)."""
    set_seed(recipe.seed)
    scenes = Scenes(data)
    llava, tokenizer = start_model(recipe, scenes, work, decoder)
    images, dense = _images(recipe, scenes, llava, work)
    cut = len(scenes) - recipe.held_out
    extras = {"captions": recipe.captions, "drills": recipe.drills}
    train = PackedScenes(scenes, images, tokenizer, range(cut), **extras)
    held = PackedScenes(scenes, images, tokenizer, range(cut, len(scenes)), **extras)
    image = (llava.config.image_token_id, llava.config.image_seq_length)
    pad = tokenizer.pad_token_id
    packer = Packer(train.prefix, image, pad, recipe.max_text, recipe.seed, recipe.compile)
    probe = Packer(train.prefix, image, pad, 10_000, 0)
    batches, benches = _probe(held, probe, min(PROBE, len(held)))

    with ExitStack() as stack:
        method, facts = _method(recipe, llava, held, packer.head)
        modules, run = _routing(method, llava, stack)
        if recipe.rank:
            llava.requires_grad_(False)
            add_low_rank(llava.model.language_model, recipe.rank)
        # On two CPU cores a step of the bare decoder takes 0.75 s with sdpa, 0.63 s with plain
        # matrix products and 0.47 s with these compiled.
        if not torch.cuda.is_available():
            llava.set_attn_implementation({"text_config": "eager"})
        if recipe.compile:
            llava.model.language_model.compile(dynamic=False)
        model = TuneModel(llava, modules, run, dense, recipe.dense_weight)
        trainer = RateTrainer(
            model,
            arguments(recipe, work / f"{out.name}-run"),
            train_dataset=train,
            data_collator=packer,
        )
        trainer.muon = recipe.muon
        trainer.module_learning_rate = recipe.module_learning_rate
        trainer.tower_learning_rate = recipe.tower_learning_rate
        if recipe.until:
            trainer.add_callback(_Stop(recipe.until))
        started = time.time()
        _fit(trainer, lambda: held_out_accuracy(model, batches, benches))
        batches, benches = _probe(held, probe, len(held))
        scores = held_out_accuracy(model, batches, benches)
    log = {"held_out": scores, "seconds": time.time() - started, "plan": facts}
    if recipe.rank:
        assert modules is not None
        save_checkpoint(
            out,
            method,
            modules,
            model_info(llava),
            deltas=low_rank_state(llava),
            base=sha256(start_folder(recipe, work) / "model.safetensors"),
            training=_facts(recipe, log),
        )
    else:
        save_model(llava, tokenizer, out)
        if dense is not None:
            save_file(dense.heads.state_dict(), out / "heads.safetensors")
    _write_log(out, recipe, log)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    before = history(work, recipe.start)
    write_card(out, method.name, _facts(recipe, log), len(scenes), device, before)


def _method(
    recipe: Recipe, llava: LlavaForConditionalGeneration, held: PackedScenes, head: list[int]
) -> tuple[Method, dict[str, Any]]:
    """The recipe's method, its layers planned by ARank where the recipe says so."""
    method = methods.parse(recipe.method)
    if recipe.plan == "arank":
        return plan_by_arank(method, llava, held, head)
    return method, {}


def _routing(
    method: Method, llava: LlavaForConditionalGeneration, stack: ExitStack
) -> tuple[nn.Module | None, Any]:
    """The method's modules and an open routing context; (None, None) for dense."""
    if method.name == "dense":
        return None, None
    modules = method.build_modules(model_info(llava))
    return modules, stack.enter_context(routed(llava, method, modules, record=False))


def _images(
    recipe: Recipe, scenes: Scenes, llava: LlavaForConditionalGeneration, work: Path
) -> tuple[Any, tower_module.DenseTower | None]:
    """What tuning sees of the images: cached features of a frozen tower, or pixels and labels."""
    tower, layer = llava.model.vision_tower, llava.config.vision_feature_layer
    if not recipe.train_tower:
        tower.requires_grad_(False)
        key = hashlib.sha256(tower.state_dict()["embeddings.patch_embedding.weight"].numpy())
        path = work / f"features-{key.hexdigest()[:12]}.npy"
        return cache_features(tower, scenes, path, layer), None
    vocabulary = Vocabulary.of(scenes)
    dense = tower_module.DenseTower(tower, vocabulary)
    heads = start_folder(recipe, work) if recipe.start else work / "tower"
    dense.heads.load_state_dict(load_file(heads / "heads.safetensors"))
    return DenseScenes(scenes, vocabulary, tower.config.patch_size), dense


def _probe(
    held: PackedScenes, packer: Packer, count: int
) -> tuple[list[dict[str, torch.Tensor]], list[list[str]]]:
    """Batches of the first `count` held-out scenes and the bench of every question in them."""
    packer.rng = _InOrder()  # type: ignore[assignment]
    batches, benches = [], []
    for at in range(0, count, 20):
        items = [held[i] for i in range(at, min(at + 20, count))]
        batches.append(packer(items))
        benches.append([b.bench for item in items for b in item["blocks"]])  # type: ignore
    return batches, benches


class _InOrder:
    """Stands for a random generator where the order must stay as it is."""

    def permutation(self, n: int) -> range:
        return range(n)


class _Stop(TrainerCallback):
    """Ends the training before its learning-rate schedule does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_training_stop |= state.global_step >= self.step


class _Measure(TrainerCallback):
    """Prints held-out accuracy at every checkpoint."""

    def __init__(self, measure: Callable[[], dict[str, float]]) -> None:
        self.measure = measure

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        scores = {k: round(v, 3) for k, v in self.measure().items()}
        print(f"step {state.global_step}: held-out {scores}", flush=True)


def _fit(trainer: Trainer, measure: Callable[[], dict[str, float]] | None = None) -> None:
    """Train, from the newest checkpoint if there is one."""
    if measure is not None:
        trainer.add_callback(_Measure(measure))
    folder = Path(trainer.args.output_dir)
    last = get_last_checkpoint(str(folder)) if folder.exists() else None
    trainer.train(resume_from_checkpoint=last)


def _facts(recipe: Recipe, log: dict) -> dict:
    return {"recipe": dataclasses.asdict(recipe), **log}


def _write_log(out: Path, recipe: Recipe, log: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_facts(recipe, log), indent=1, sort_keys=True)
    (out / "training.json").write_text(text + "\n", encoding="utf-8")
