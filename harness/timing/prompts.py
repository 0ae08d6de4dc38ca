"""Batches to time: random text around images of noise, or documents of a bench."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.common.errors import CellError, UsageError
from harness.families.catalog import family_of
from harness.families.family import Family
from harness.options.workload import Pictures, Workload, pictures
from harness.timing.phases import Prompt
from harness.timing.subject import Bench

PREFIX = 35  # text tokens before the image in LLaVA's template; fewer for a short prompt
DOCUMENTS = 8  # of a bench, unless --limit says otherwise
LOWEST_WORD = 10  # ids below are special tokens in every tokenizer of the family
PREPROCESS_RUNS = 3


@dataclass
class Prompts:
    """The batches of a workload, and how long the processor took for each (ms, host's clock)."""

    batches: list[Prompt]
    pictures: Pictures | None  # None for a bench
    preprocess_ms: list[float] = field(default_factory=list)


def make_prompts(bench: Bench, work: Workload, limit: int | None, data: str, seed: int) -> Prompts:
    """The workload's batches, on the device. Raises UsageError and CellError, one line."""
    if work.bench:
        return _documents(bench, work, limit, data, seed)
    pics = pictures(bench.shape, work.n_image)
    return Prompts([synthetic(bench, work, pics, seed)], pics)


def synthetic(bench: Bench, work: Workload, pics: Pictures, seed: int) -> Prompt:
    """``batch`` different prompts of the same length: words, images of noise, words."""
    device, model = bench.device, bench.model
    token = image_token(model)
    draw = torch.Generator().manual_seed(seed)
    low = lowest_word(bench)
    words = torch.randint(low, bench.shape.vocab, (work.batch, work.n_text), generator=draw)
    words[words == token] = low if low != token else low + 1
    ids = around(words, pics, token, family_of_model(model).apart)
    inputs = {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
    family = family_of_model(model)
    inputs |= {name: one.to(device) for name, one in family.token_inputs(ids, token).items()}
    if pics.count:
        made = family.noise(bench.shape, work.batch * pics.count, pics.crops, pics.size, draw)
        made["pixel_values"] = made["pixel_values"].to(model.dtype)
        inputs |= {name: value.to(device) for name, value in made.items()}
    tower = {} if pics.native else {"interpolate_pos_encoding": True}
    return Prompt(inputs, tuple(f"noise/{i}" for i in range(work.batch)), tower)


def around(words: torch.Tensor, pics: Pictures, token: int, apart: bool) -> torch.Tensor:
    """[batch, n] words with image tokens among them; ``apart``: a word between two images.

    Raises UsageError where there are not enough words for that.
    """
    batch, n_text = words.shape
    before, between = min(PREFIX, n_text // 2), (pics.count - 1) * apart
    if n_text - before < between:
        raise UsageError(
            f"--workload: {pics.count} images of this model need a word between two of them: "
            f"n_text={2 * between} is enough"
        )
    parts = [words[:, :before]]
    for i in range(pics.count):
        parts.append(torch.full((batch, pics.tokens // pics.count), token))
        if apart and i < between:
            parts.append(words[:, before + i : before + i + 1])
    return torch.cat([*parts, words[:, before + max(0, between) :]], dim=1)


def alone(prompt: Prompt, row: int, images: Sequence[int], model: Any) -> Prompt:
    """One row of a batch, without its padding; ``images`` are its places in the image tensors."""
    mask = prompt.inputs["attention_mask"][row].bool()
    family, token_id = family_of_model(model), image_token(model)
    names = ("input_ids", "attention_mask", *family.per_token)
    inputs = {name: prompt.inputs[name][row][mask][None] for name in names}
    if len(images):
        inputs |= family.some_images(family.counted(prompt.inputs, token_id), images)
    return Prompt(inputs, (prompt.names[row],), prompt.tower)


def images_by_row(bench: Bench, prompt: Prompt) -> list[list[int]]:
    """Which images belong to which row: the benches and the noise have equally many a row."""
    rows = len(prompt.names)
    if "pixel_values" not in prompt.inputs:
        return [[] for _ in range(rows)]
    family, token = family_of_model(bench.model), image_token(bench.model)
    total = family.image_count(family.counted(prompt.inputs, token))
    has = (prompt.inputs["input_ids"] == token).any(dim=1).tolist()
    each, rest = divmod(total, sum(has))
    if rest:
        raise CellError("the documents have different numbers of images: time them at batch=1")
    found, place = [], 0
    for one in has:
        found.append(list(range(place, place + each if one else place)))
        place += each if one else 0
    return found


def lowest_word(bench: Bench) -> int:
    """The lowest id that a random word has."""
    return min(LOWEST_WORD, bench.shape.vocab // 2)


def image_token(model: Any) -> int:
    """The id that stands for an image token."""
    config = model.config
    token = getattr(config, "image_token_id", None)
    return int(token if token is not None else config.image_token_index)


def family_of_model(model: Any) -> Family:
    """The family of a loaded model."""
    return family_of(model.config, type(model).__name__)


# --- documents ------------------------------------------------------------------------------
def _documents(bench: Bench, work: Workload, limit: int | None, data: str, seed: int) -> Prompts:
    """The first documents of a bench, prepared exactly as an evaluation prepares them."""
    if bench.loaded is None:
        raise UsageError("bench workloads need a processor: leave out --random-weights")
    from harness.bench.prompter import Prompter
    from harness.timing.documents import requests_of

    wanted = max(limit or DOCUMENTS, work.batch)
    requests = requests_of(bench.loaded, work.bench, data, wanted - wanted % work.batch, seed)
    if len(requests) < work.batch:
        raise CellError(f"{work.bench}: only {len(requests)} documents for batch={work.batch}")
    prompter = Prompter(bench.loaded)
    batches, times = [], []
    for start in range(0, len(requests) - work.batch + 1, work.batch):
        group = requests[start : start + work.batch]
        for _ in range(PREPROCESS_RUNS):
            began = time.perf_counter()
            inputs = prompter.inputs(group, [prompter.images(r) for r in group])
            times.append((time.perf_counter() - began) * 1e3)
        batches.append(Prompt(inputs, tuple(r.name for r in group)))
    return Prompts(batches, None, times)
