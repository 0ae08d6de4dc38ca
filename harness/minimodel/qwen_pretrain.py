"""The first job of the mini Qwen2.5-VL: assemble it and pretrain its tower. It resumes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import Subset
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast, set_seed

from harness.common.errors import UsageError
from harness.fitting.fit import Stop, fit
from harness.minimodel.canvas import MERGE, Canvas, RawScenes
from harness.minimodel.folders import model_at, save_model, start_folder, start_model
from harness.minimodel.labels import Vocabulary
from harness.minimodel.log import progress, write_log
from harness.minimodel.qwen import build_qwen
from harness.minimodel.qwen_tower import MergedTokens
from harness.minimodel.rates import RateTrainer, arguments
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes
from harness.minimodel.sizes import read_sizes
from harness.minimodel.tower import accuracy

PROBE = 50  # held-out scenes measured, at every size


def train_tower(recipe: Recipe, *, data: Path, work: Path, out: Path, decoder: Path | None) -> None:
    """Pretrain tower and merger; writes a full model folder, the dense heads and a log.

    Started from a mini LLaVA, the model is assembled around that one's decoder; from an earlier
    result of this job, it goes on.
    """
    set_seed(recipe.seed)
    scenes = Scenes(data)
    vocabulary = Vocabulary.of(scenes)
    whole, tokenizer, teacher, fresh = _start(recipe, scenes, work)
    patch = whole.config.vision_config.patch_size
    sizes = read_sizes(recipe.sizes, scenes.own, MERGE * patch)
    model = MergedTokens(
        whole.model.visual, vocabulary, teacher, recipe.teacher_weight, recipe.compile
    )
    if not fresh:
        model.load_heads(start_folder(recipe, work))
    raw = RawScenes(scenes)
    train, last = scenes.split(recipe.held_out, recipe.families, recipe.seed)
    rows = Subset(raw, train)
    still = Canvas(sizes, patch, vocabulary, recipe.seed)
    held = [raw[i] for i in last[:PROBE]]
    probes = {
        f"{high}x{wide}": still.batch(held, (high, wide)) for high, wide in dict.fromkeys(sizes)
    }

    def measure() -> dict[str, float]:
        device = next(model.parameters()).device
        found: dict[str, float] = {}
        for size, batch in probes.items():
            # These batches have sizes of their own, and are run as written.
            with torch.compiler.set_stance("force_eager"):
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
    started -= fit(trainer, measure)
    log = {"held_out": measure(), "seconds": time.time() - started, **progress(trainer.state)}
    save_model(whole, tokenizer, out)
    save_file(model.heads.state_dict(), out / "heads.safetensors")
    write_log(out, recipe, log)


def _start(
    recipe: Recipe, scenes: Scenes, work: Path
) -> tuple[Any, PreTrainedTokenizerFast, Any, bool]:
    """The model, its tokenizer, the teacher, if there is one, and whether the tower is new.

    Raises UsageError.
    """
    if not recipe.start:
        raise UsageError("recipe: start is missing: expected the folder of a mini LLaVA")
    model, tokenizer = start_model(recipe, scenes, work, None)
    teacher, fresh = None, isinstance(model, LlavaForConditionalGeneration)
    if recipe.teacher_weight and recipe.teacher:
        teacher = model_at(recipe.teacher, work)[0]
    elif recipe.teacher_weight and fresh:
        teacher = model  # what the decoder reads already
    if fresh:
        model, tokenizer = build_qwen(model, tokenizer, recipe)
    if teacher is not None:
        _check(teacher, model, scenes)
        teacher.requires_grad_(False)
    return model, tokenizer, teacher, fresh


def _check(teacher: Any, model: Any, scenes: Scenes) -> None:
    """A teacher must give one target for every token of a scene."""
    token = MERGE * model.config.vision_config.patch_size
    vision, side = teacher.config.vision_config, scenes.own[0]
    if not isinstance(teacher, LlavaForConditionalGeneration) or vision.patch_size != token:
        raise UsageError(f"recipe: teacher: expected a mini LLaVA with patches of {token} pixels")
    widths = (teacher.config.text_config.hidden_size, model.config.text_config.hidden_size)
    if vision.image_size != side or widths[0] != widths[1]:
        raise UsageError(
            f"recipe: teacher: it takes images of {vision.image_size} pixels and gives features of "
            f"width {widths[0]}: expected {side} and {widths[1]}"
        )
