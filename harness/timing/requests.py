"""Batches of a load: unequal prompts with answer lengths of their own, the same for every method.

Request i is drawn from the seed and i alone, so that a load of 8 in flight begins with the
requests of a load of 1. Round k of a closed loop answers the k-th batch of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.common.errors import CellError, UsageError
from harness.options.load import Load
from harness.options.workload import LOWEST, Pictures, image_choices, pictures
from harness.timing.phases import Prompt
from harness.timing.prompts import around, family_of_model, image_token, lowest_word
from harness.timing.subject import Bench

BATCHES = 6  # different ones, taken in turn: pixels of all of them are held at once


@dataclass(frozen=True)
class LoadBatch:
    """Requests that are answered together.

    ``lengths``: new tokens of each row; all rows run for the longest. ``images``: places of each
    row's images in the image tensors.
    """

    prompt: Prompt
    lengths: tuple[int, ...]
    images: tuple[tuple[int, ...], ...]

    @property
    def n_out(self) -> int:
        """Tokens that the engine makes for every row."""
        return max(self.lengths)

    @property
    def names(self) -> tuple[str, ...]:
        return self.prompt.names


@dataclass(frozen=True)
class Drawn:
    """The lengths of one request; ``pics`` is None where a bench decides."""

    n_text: int
    n_out: int
    pics: Pictures | None


def draw(load: Load, shape: Any, seed: int, number: int) -> Drawn:
    """Request ``number`` of a load. Raises UsageError for images that the model cannot make."""
    random = np.random.default_rng([seed, number])
    n_out, n_text = (_between(random, *one) for one in (load.out_range, load.text_range))
    return Drawn(n_text, n_out, None if load.bench else _pictures(load, shape, random))


def _between(random: np.random.Generator, low: int, high: int) -> int:
    """A whole number, uniform in its logarithm."""
    return int(min(high, math.exp(random.uniform(math.log(low), math.log(high + 1)))))


def _pictures(load: Load, shape: Any, random: np.random.Generator) -> Pictures:
    """The images of a prompt, as the workload says or drawn."""
    if load.middle.n_image is not None:
        return pictures(shape, load.middle.n_image)
    choices = image_choices(shape)
    return choices[int(random.integers(len(choices)))]


def make_batches(
    bench: Bench, load: Load, limit: int | None, data: str, seed: int
) -> list[LoadBatch]:
    """The different batches of a load, on the device. Raises UsageError and CellError, one line."""
    count = BATCHES * load.in_flight
    drawn = [draw(load, bench.shape, seed, i) for i in range(count)]
    groups = [drawn[i : i + load.in_flight] for i in range(0, count, load.in_flight)]
    if load.bench:
        return _documents(bench, load, groups, limit, data, seed)
    return [
        _synthetic(bench, group, seed, number * load.in_flight)
        for number, group in enumerate(groups)
    ]


# --- random text around noise -----------------------------------------------------------------
def _synthetic(bench: Bench, group: Sequence[Drawn], seed: int, first: int) -> LoadBatch:
    """Rows of random words and images of noise, shorter ones padded on the left."""
    family, token, low = family_of_model(bench.model), image_token(bench.model), lowest_word(bench)
    rows, pixels, places = [], [], []
    for number, one in enumerate(group):
        assert one.pics is not None
        source = torch.Generator().manual_seed(_mixed(seed, first + number))
        n_text = max(one.n_text, LOWEST["n_text"])
        words = torch.randint(low, bench.shape.vocab, (1, n_text), generator=source)
        words[words == token] = low if low != token else low + 1
        rows.append(around(words, one.pics, token, family.apart)[0])
        count = one.pics.count
        for _ in range(count):
            noise = family.noise(bench.shape, 1, one.pics.crops, one.pics.size, source)
            pixels.append(family.beside(noise, count))
        places.append(tuple(range(len(pixels) - count, len(pixels))))
    ids, mask = _padded(rows)
    inputs = {"input_ids": ids, "attention_mask": mask, **family.token_inputs(ids, token)}
    if pixels:
        joined = family.joined(_equal_crops(pixels))
        inputs |= joined | {"pixel_values": joined["pixel_values"].to(bench.model.dtype)}
    pics = group[0].pics
    tower = {} if pics is None or pics.native else {"interpolate_pos_encoding": True}
    tensors = {name: value.to(bench.device) for name, value in inputs.items()}
    names = tuple(f"request/{first + i}" for i in range(len(group)))
    return LoadBatch(
        Prompt(tensors, names, tower), tuple(one.n_out for one in group), tuple(places)
    )


def _mixed(seed: int, number: int) -> int:
    """A seed of its own for a request's words and pixels."""
    return int(np.random.default_rng([seed, number, 1]).integers(2**31))


def _padded(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [B, n] of rows of different lengths, padded on the left with id 0."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = row
        mask[i, longest - len(row) :] = 1
    return ids, mask


def _equal_crops(images: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """Images [1, crops, 3, h, w] of different numbers of crops, filled up with empty ones as
    processors do; other layouts as they are."""
    if images[0]["pixel_values"].dim() != 5:
        return images
    most = max(one["pixel_values"].shape[1] for one in images)

    def filled(pixels: torch.Tensor) -> torch.Tensor:
        empty = pixels.new_zeros((1, most - pixels.shape[1], *pixels.shape[2:]))
        return torch.cat([pixels, empty], dim=1)

    return [{**one, "pixel_values": filled(one["pixel_values"])} for one in images]


# --- documents ----------------------------------------------------------------------------------
def _documents(
    bench: Bench,
    load: Load,
    groups: Sequence[Sequence[Drawn]],
    limit: int | None,
    data: str,
    seed: int,
) -> list[LoadBatch]:
    """Documents of a bench as an evaluation prepares them, from the start again after the last."""
    if bench.loaded is None:
        raise UsageError("bench workloads need a processor: leave out --random-weights")
    from harness.bench.prompter import Prompter
    from harness.timing.documents import requests_of

    count = len(groups) * load.in_flight
    known = requests_of(bench.loaded, load.bench, data, min(limit or count, count), seed)
    if not known:
        raise CellError(f"{load.bench}: no documents to ask")
    prompter, batches = Prompter(bench.loaded), []
    for number, group in enumerate(groups):
        asked = [known[(number * load.in_flight + i) % len(known)] for i in range(len(group))]
        images = [prompter.images(one) for one in asked]
        ends = np.cumsum([len(row) for row in images])
        places = tuple(
            tuple(range(end - len(row), end)) for row, end in zip(images, ends, strict=True)
        )
        prompt = Prompt(prompter.inputs(asked, images), tuple(one.name for one in asked))
        batches.append(LoadBatch(prompt, tuple(one.n_out for one in group), places))
    return batches
