"""The models training starts from and leaves behind: assemble, load, save."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from harness.common.errors import UsageError
from harness.common.jsonfile import read_json
from harness.common.roots import DATA
from harness.common.stops import tell
from harness.families.trust import refuse_foreign
from harness.minimodel.build import build_llava
from harness.minimodel.llama2c import deepen, fetch_bundle, read_bundle
from harness.minimodel.parts import Parts, parts_of
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes
from harness.minimodel.tokenizer import train_tokenizer
from harness.model.convert.use import as_model
from harness.model.updates import RECORD, TENSORS, check_whole, kept_pairs, save_updates
from harness.model.weights import SINGLE

LOG = "training.json"
HISTORY = "history.jsonl"  # of the trainings that led to a whole model


def start_model(
    recipe: Recipe, scenes: Scenes, work: Path, decoder: Path | None
) -> tuple[Any, PreTrainedTokenizerFast]:
    """The model tuning starts from, in float32, and its tokenizer."""
    if not recipe.start:
        return assemble(recipe, scenes, work, decoder)
    return model_at(recipe.start, work)


def model_at(start: str, work: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    """The model in the folder that a recipe calls `start`, in float32, and its tokenizer."""
    folder = named_folder(start, work)
    if not (folder / "config.json").exists():
        raise UsageError(f"start model {start!r}: no folder {folder} with a config.json")
    refuse_foreign(folder)
    kind = read_json(folder / "config.json").get("model_type", "")
    model = parts_of(kind).load(folder)
    return model, AutoProcessor.from_pretrained(folder, trust_remote_code=False).tokenizer


def assemble(
    recipe: Recipe, scenes: Scenes, work: Path, decoder: Path | None
) -> tuple[Any, PreTrainedTokenizerFast]:
    """A new model: the pretrained tower, a fresh projector and the deepened decoder."""
    if not (work / "tower" / "config.json").is_file():
        raise UsageError(f"{work / 'tower'}: no tower in it: expected the result of its recipe")
    bundle = read_bundle(decoder or fetch_bundle(work / "sources"))
    chats = (f"USER: <image>\n{p} ASSISTANT: {a}" for p, a in scenes.prompts())
    tokenizer = train_tokenizer(chats, recipe.vocabulary)
    vision = CLIPVisionModel.from_pretrained(work / "tower", dtype=torch.float32)
    return build_llava(vision, deepen(bundle, recipe.depth, tokenizer), tokenizer), tokenizer


def save_model(llava: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Model (float16) and processor as `from_pretrained` wants them."""
    # Of another training into this folder; without its log a half-written model is no finished one.
    for name in (RECORD, TENSORS, LOG):
        (out / name).unlink(missing_ok=True)
    llava.config.vision_config._name_or_path = ""  # a folder of this machine says nothing to others
    llava.to(torch.float16).save_pretrained(out)
    parts_of(llava.config.model_type).processor(llava, tokenizer).save_pretrained(out)


def save_shared(
    parts: Parts, low_rank: Mapping[str, tuple[torch.Tensor, torch.Tensor]], out: Path
) -> None:
    """Write beside the model in `out` what it adds to the one that it shares a decoder with."""
    shared = parts.shared
    if shared is None or not low_rank:
        return
    named = {
        shared.here + name.removeprefix(shared.memory): pair for name, pair in low_rank.items()
    }
    try:
        save_updates(out, DATA / "assets" / shared.base, (shared.there, shared.here), named)
    except ValueError as error:  # begun from other weights than ship
        tell(f"note: {error}: the model is kept whole")


@torch.no_grad()
def undo_updates(
    parts: Parts, folder: Path, model: Any
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Take out of a model, just loaded from `folder`, the low-rank updates that the folder keeps,
    so that training goes on with them: (A, B) by name of the weight, {} where it keeps none.

    Were they left in, new updates would be of a model that does not ship. Raises UsageError where
    they are another model's.
    """
    shared, found = parts.shared, {}
    if shared is not None and (folder / RECORD).is_file():
        check_whole(folder)
        pairs = kept_pairs(folder, DATA / "assets" / shared.base)
        for name, (weight, a, b) in pairs.items():
            here = shared.memory + name.removeprefix(shared.here)
            model.get_parameter(here).copy_(weight)
            found[here] = (a, b)
    return found


def start_folder(recipe: Recipe, work: Path) -> Path:
    """Where the start model is."""
    return named_folder(recipe.start, work)


def named_folder(start: str, work: Path) -> Path:
    """A folder as given, here or beside the recipes, or the result of an earlier recipe."""
    for folder in (Path(start), DATA / start):
        if folder.exists():
            return as_model(folder)
    return work / start


def weights_in(folder: Path, file: str = SINGLE) -> dict[str, torch.Tensor]:
    """The tensors an earlier recipe left in `folder`. Raises UsageError where there are none."""
    if not (folder / file).is_file():
        raise UsageError(f"{folder}: no {file} in it: expected the result of an earlier recipe")
    return load_file(folder / file)
