"""The mini LLaVA's jobs before tuning: pretrain the tower, align the projector. Both resume."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Trainer, set_seed

from harness.fitting.fit import Stop, fit
from harness.minimodel import tower as tower_module
from harness.minimodel.align import (
    AlignModel,
    Pairs,
    PatchWords,
    Refit,
    patch_features,
    projected,
    whiten,
)
from harness.minimodel.folders import LOG, save_model, start_folder, start_model, weights_in
from harness.minimodel.labels import DenseScenes, Vocabulary
from harness.minimodel.log import progress, write_log
from harness.minimodel.rates import RateTrainer, arguments
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes


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
        _load_tower(model, start_folder(recipe, work))
    train, last = scenes.split(recipe.held_out, recipe.families, recipe.seed)
    dataset = DenseScenes(scenes, vocabulary, recipe.patch, recipe.shift, recipe.seed)
    rows = torch.utils.data.Subset(dataset, train)
    still = DenseScenes(scenes, vocabulary, recipe.patch)
    held = [still[i] for i in last[:200]]
    probe = {k: torch.stack([item[k] for item in held]) for k in held[0]}

    def measure() -> dict[str, float]:
        device = next(model.parameters()).device
        return tower_module.accuracy(model, {k: v.to(device) for k, v in probe.items()})

    started = time.time()
    trainer = RateTrainer(model, arguments(recipe, work / f"{out.name}-run"), train_dataset=rows)
    trainer.muon = recipe.muon
    if recipe.until:
        trainer.add_callback(Stop(recipe.until))
    started -= fit(trainer, measure)
    (out / LOG).unlink(missing_ok=True)
    model.tower.save_pretrained(out)
    save_file(model.heads.state_dict(), out / "heads.safetensors")
    log = {"held_out": measure(), "seconds": time.time() - started, **progress(trainer.state)}
    write_log(out, recipe, log)


def _load_tower(model: tower_module.DenseTower, folder: Path) -> None:
    """The tower of an earlier recipe (or of a whole model) and its heads, new where it has none."""
    state = weights_in(folder)
    part = "vision_tower."  # as `save_pretrained` names it
    inside = {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}
    model.tower.load_state_dict(inside or state)
    if (folder / "heads.safetensors").exists():
        model.load_heads(folder, strict=False)


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
        llava.model.vision_tower.load_state_dict(weights_in(work / recipe.tower))
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
    started -= fit(trainer)
    save_model(llava, tokenizer, out)
    heads = work / (recipe.tower or "tower") / "heads.safetensors"
    shutil.copy(heads, out / "heads.safetensors")
    write_log(out, recipe, {"seconds": time.time() - started, **progress(trainer.state)})
