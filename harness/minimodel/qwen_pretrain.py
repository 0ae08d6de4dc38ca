"""The first job of the mini Qwen2.5-VL: assemble it and pretrain its tower. It resumes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerFast, set_seed

from harness.common.errors import UsageError
from harness.fitting.fit import Stop, fit
from harness.minimodel.canvas import MERGE, Canvas, RawScenes, read_sizes
from harness.minimodel.folders import model_at, save_model, start_folder, start_model
from harness.minimodel.log import write_log
from harness.minimodel.qwen import build_qwen
from harness.minimodel.qwen_tower import MergedTokens
from harness.minimodel.rates import RateTrainer, arguments
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes, Vocabulary
from harness.minimodel.tower import accuracy

PROBE = 100  # held-out scenes measured, at every size


def train_qwen_tower(recipe: Recipe, *, data: Path, work: Path, out: Path) -> None:
    """Pretrain tower and merger; writes a full model folder, the dense heads and a log.

    Started from a mini LLaVA, the model is assembled around that one's decoder; from an earlier
    result of this job, it goes on.
    """
    set_seed(recipe.seed)
    scenes = Scenes(data)
    vocabulary = Vocabulary.of(scenes)
    whole, tokenizer, teacher = _start(recipe, scenes, work)
    patch = whole.config.vision_config.patch_size
    own = (scenes.images.shape[1], scenes.images.shape[2])
    sizes = read_sizes(recipe.sizes, own, MERGE * patch)
    model = MergedTokens(whole.model.visual, vocabulary, teacher, recipe.teacher_weight)
    heads = start_folder(recipe, work) / "heads.safetensors"
    if heads.exists():  # those of a mini LLaVA read a CLIP tower: other widths
        state = load_file(heads)
        if state["kind.weight"].shape == model.heads["kind"].weight.shape:
            model.heads.load_state_dict(state)
    cut = len(scenes) - recipe.held_out
    raw = RawScenes(scenes)
    rows = Subset(raw, scenes.pick(cut, recipe.families, recipe.seed))
    still = Canvas(sizes, patch, vocabulary, recipe.seed)
    held = [raw[i] for i in range(cut, min(cut + PROBE, len(raw)))]
    probes = {
        f"{high}x{wide}": still.batch(held, (high, wide)) for high, wide in dict.fromkeys(sizes)
    }

    def measure() -> dict[str, float]:
        device = next(model.parameters()).device
        found: dict[str, float] = {}
        for size, batch in probes.items():
            right = accuracy(model, {k: v.to(device) for k, v in batch.items()})
            found |= {f"{size} {name}": value for name, value in right.items()}
        return found

    started = time.time()
    collate = Canvas(sizes, patch, vocabulary, recipe.seed, placed=True)
    args = arguments(recipe, work / f"{out.name}-run")
    trainer = RateTrainer(model, args, train_dataset=rows, data_collator=collate)
    trainer.muon = recipe.muon
    trainer.module_learning_rate = recipe.module_learning_rate
    if recipe.until:
        trainer.add_callback(Stop(recipe.until))
    fit(trainer, measure)
    log = {"held_out": measure(), "seconds": time.time() - started}
    save_model(whole, tokenizer, out)
    save_file(model.heads.state_dict(), out / "heads.safetensors")
    write_log(out, recipe, log)


def _start(recipe: Recipe, scenes: Scenes, work: Path) -> tuple[Any, PreTrainedTokenizerFast, Any]:
    """The model, its tokenizer and the teacher, if there is one. Raises UsageError."""
    if not recipe.start:
        raise UsageError("recipe: start is missing: expected the folder of a mini LLaVA")
    model, tokenizer = start_model(recipe, scenes, work, None)
    teacher = model_at(recipe.teacher, work)[0].requires_grad_(False) if recipe.teacher else None
    if model.config.model_type == "llava":
        model, tokenizer = build_qwen(model, tokenizer, recipe)
    if teacher is not None:
        _check(teacher, model, scenes)
    return model, tokenizer, teacher


def _check(teacher: Any, model: Any, scenes: Scenes) -> None:
    """A teacher must give one target for every token of a scene."""
    token = MERGE * model.config.vision_config.patch_size
    vision, side = teacher.config.vision_config, scenes.images.shape[1]
    if teacher.config.model_type != "llava" or vision.patch_size != token:
        raise UsageError(f"recipe: teacher: expected a mini LLaVA with patches of {token} pixels")
    widths = (teacher.config.text_config.hidden_size, model.config.text_config.hidden_size)
    if vision.image_size != side or widths[0] != widths[1]:
        raise UsageError(
            f"recipe: teacher: it takes images of {vision.image_size} pixels and gives features of "
            f"width {widths[0]}: expected {side} and {widths[1]}"
        )
