"""Choose a method's layers by the ARank of the model tuning starts from; kept with the run."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import methods
from harness.common.errors import UsageError
from harness.fitting.plan import by_arank, wants_plan
from harness.train.recipe import InstructRecipe
from harness.train.samples import BrokenImage, Samples
from harness.train.templates import encode, prompt_of
from methods.base import Method

PLAN = "plan.json"


def planned(
    recipe: InstructRecipe, llava: Any, samples: Samples, folder: Path, device: torch.device
) -> tuple[Method, dict[str, Any]]:
    """The recipe's method, its layers chosen by ARank where the recipe says so, and what was found.

    The choice is written to `folder` and read from there afterwards: a resumed run must not
    measure the model again, which is another one by then.
    """
    method = methods.parse(recipe.method)
    if not wants_plan(method, recipe.plan):
        return method, {}
    path = folder / PLAN
    if not path.exists():
        facts = _measure(recipe, llava, samples, device)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    facts = json.loads(path.read_text(encoding="utf-8"))
    return dataclasses.replace(method, layers=facts["layers"]), facts  # type: ignore[call-arg]


def _measure(
    recipe: InstructRecipe, llava: Any, samples: Samples, device: torch.device
) -> dict[str, Any]:
    """ARank (released code's and paper's) over prompts of evenly spaced rows with images."""
    before = llava.device
    llava.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
        facts = by_arank(llava, lambda: _prompts(recipe, samples, device), recipe.plan_dense)
    llava.to(before)
    return facts


def _prompts(
    recipe: InstructRecipe, samples: Samples, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Inputs of single prompts, up to the first answer; an undecodable image is passed over."""
    encoder = samples.encoder
    processor = encoder.processor
    numbers = np.flatnonzero(samples.index.has_image)
    if not len(numbers):
        raise UsageError("plan arank: the data have no row with an image")
    for number in numbers[:: max(len(numbers) // recipe.plan_samples, 1)][: recipe.plan_samples]:
        row = samples.index.row(int(number))
        try:
            item = samples.sample(row)
        except BrokenImage:
            continue
        counts = [int((item["input_ids"] == processor.image_token_id).sum())]
        if len(row.images) != 1 or "pixel_values" not in item:
            continue
        parts = prompt_of(row, recipe.template, processor)
        coded = encode(
            parts, processor.tokenizer, processor.image_token_id, counts, recipe.max_length
        )
        ids = torch.tensor([coded.ids], device=device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs["pixel_values"] = torch.stack(item["pixel_values"]).to(device)
        if "image_sizes" in item:
            inputs["image_sizes"] = torch.stack(item["image_sizes"]).to(device)
        yield inputs
