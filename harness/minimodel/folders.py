"""The models training starts from and leaves behind: assemble, load, save."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from transformers import (
    AutoProcessor,
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from harness.common.errors import UsageError
from harness.common.roots import DATA
from harness.families.trust import refuse_foreign
from harness.minimodel.build import build_llava, build_processor
from harness.minimodel.llama2c import deepen, fetch_bundle, read_bundle
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes
from harness.minimodel.tokenizer import train_tokenizer


def start_model(
    recipe: Recipe, scenes: Scenes, work: Path, decoder: Path | None
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast]:
    """The model tuning starts from, in float32, and its tokenizer."""
    if not recipe.start:
        return assemble(recipe, scenes, work, decoder)
    folder = start_folder(recipe, work)
    if not (folder / "config.json").exists():
        raise UsageError(f"start model {recipe.start!r}: no folder {folder} with a config.json")
    refuse_foreign(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(folder, trust_remote_code=False).tokenizer


def assemble(
    recipe: Recipe, scenes: Scenes, work: Path, decoder: Path | None
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast]:
    """A new model: the pretrained tower, a fresh projector and the deepened decoder."""
    bundle = read_bundle(decoder or fetch_bundle(work / "sources"))
    chats = (f"USER: <image>\n{p} ASSISTANT: {a}" for p, a in scenes.prompts())
    tokenizer = train_tokenizer(chats, recipe.vocabulary)
    vision = CLIPVisionModel.from_pretrained(work / "tower", dtype=torch.float32)
    return build_llava(vision, deepen(bundle, recipe.depth, tokenizer), tokenizer), tokenizer


def save_model(
    llava: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: Path
) -> None:
    """Model (float16) and processor as `from_pretrained` wants them."""
    llava.config.vision_config._name_or_path = ""  # a folder of this machine says nothing to others
    llava.to(torch.float16).save_pretrained(out)
    vision = llava.config.vision_config
    build_processor(tokenizer, vision.image_size, vision.patch_size).save_pretrained(out)


def start_folder(recipe: Recipe, work: Path) -> Path:
    """Where the start model is: a folder as given, here or beside the recipes, or the result of
    an earlier recipe."""
    for folder in (Path(recipe.start), DATA / recipe.start):
        if folder.exists():
            return folder
    return work / recipe.start


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
