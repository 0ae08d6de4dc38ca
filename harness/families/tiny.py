"""Tiny random models of every family, for checking methods without any weights or network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.common.torchvision_ops import declare_missing_ops
from harness.families.catalog import FAMILIES, family_of
from harness.families.family import Family
from methods.vocabulary import ClipSizes

TILED = "llava_next"  # the family of tiles and newlines that every method is tried on
VOCAB, BOS, WORD, IMAGE = 64, 1, 3, 60
PATCH, SIDE, WIDTH, LAYERS = 4, 4, 16, 6


def build(
    family: str = "llava",
    attn: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    layers: int = LAYERS,
) -> Any:
    """A model of this family with random weights, the same ones every time."""
    declare_missing_ops()
    mine = FAMILIES[family]
    sizes = mine.tiny()
    sizes["text_config"]["num_hidden_layers"] = layers
    config = mine.config_class()(**sizes)
    # Biases and one-row embeddings keep what the library draws, from a generator of this call.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mine.model_class()._from_config(config, attn_implementation=attn)
    randomise(model)
    model.generation_config.pad_token_id = 0
    return model.to(dtype).eval()


def randomise(module: torch.nn.Module, scale: float = 0.3, seed: int = 0) -> torch.nn.Module:
    """Redraw all matrices, wide enough that every part of the model matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            if value.dim() > 1:
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return module


class Clip:
    """Stands in for a CLIP model (``methods.base.Clip``): another direction for every text.

    Its projections multiply by one, so that its work counts as that of a model without layers.
    ``sizes`` are those to be counted instead, where the model stands in for a larger one.
    """

    def patches(self, states: Tensor) -> Tensor:
        return states @ self.one

    def frame(self, states: Tensor) -> Tensor:
        return self.patches(states[:1])[0]

    def text(self, texts: list[str]) -> list[Tensor]:
        made = []
        for text in texts:
            draw = torch.Generator().manual_seed(len(text))
            found = torch.randn(1, len(self.one), generator=draw, dtype=self.one.dtype)
            made.append(found @ self.one)
        return made

    def __init__(self, model: Any, *sizes: ClipSizes | None) -> None:
        width = int(model.config.vision_config.hidden_size)
        self.one = torch.eye(width, dtype=model.dtype)
        self.sizes = sizes[0] if sizes else ClipSizes(0, width, width, width, 0)


def words(texts: list[str], add_special_tokens: bool = False) -> dict[str, list[list[int]]]:
    """Stands in for a tokenizer: one token a word."""
    ids = [[WORD + sum(map(ord, word)) % (IMAGE - WORD) for word in t.split()] for t in texts]
    return {"input_ids": ids}


def questions(ids: Tensor) -> list[str]:
    """A question for each row of prompt ids [B, n], another one for other ids."""
    asked = (
        "What colour has the cat of number {}?\nAnswer the question using a single word or phrase."
    )
    return [asked.format(int(row.sum())) for row in ids]


# Rows of the test batch: words before the images, images, words behind them.
Rows = Sequence[tuple[int, int, int]]
ROWS: Rows = [(3, 1, 4), (2, 0, 5), (2, 2, 2), (5, 1, 7)]
# The same for methods that take images as the frames of a video.
FRAMES: Rows = [(3, 5, 4), (2, 0, 5), (2, 6, 2), (5, 5, 7)]


def inputs_of(model: Any, rows: Rows, seed: int = 0) -> dict[str, Any]:
    """A left-padded batch for ``generate``, with the family's tiny images in turn."""
    generator = torch.Generator().manual_seed(seed)
    texts = [
        torch.randint(WORD, IMAGE, (before - 1 + after,), generator=generator).tolist()
        for before, _, after in rows
    ]
    family = family_of(model.config, "tiny")
    sizes = itertools.cycle(family.tiny_images)
    beside = [n for _, n, _ in rows for _ in range(n)]  # of each image, how many in its prompt
    images = [
        family.beside(noise(model, size, crops, generator), n)
        for n, (size, crops) in zip(beside, sizes, strict=False)
    ]
    lengths = iter([tokens_of(model, image) for image in images])
    sequences = []
    for (before, n, _), words in zip(rows, texts, strict=True):
        pictures = prompted(family, [next(lengths) for _ in range(n)])
        sequences.append([BOS, *words[: before - 1], *pictures, *words[before - 1 :]])
    width = max(map(len, sequences))
    inputs: dict[str, Tensor] = {
        "input_ids": torch.tensor([[0] * (width - len(s)) + s for s in sequences]),
        "attention_mask": torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences]),
    }
    inputs |= family.token_inputs(inputs["input_ids"], IMAGE)
    return inputs | (family.joined(images) if images else {})


def noise(model: Any, size: tuple[int, int], crops: int, draw: Any) -> dict[str, Tensor]:
    """What a processor would make of one image of noise."""
    family = family_of(model.config, "tiny")
    made = family.noise(family.shape(model.config.to_dict(), "tiny"), 1, crops, size, draw)
    return {**made, "pixel_values": made["pixel_values"].to(model.dtype)}


def tokens_of(model: Any, image: dict[str, Tensor]) -> int:
    """Tokens that a model makes of one image."""
    inner = family_of(model.config, "tiny").inner(model)
    with torch.no_grad():
        features = inner.get_image_features(**image, return_dict=True).pooler_output
    return sum(int(one.shape[0]) for one in features)


def prompted(family: Family, images: Sequence[int]) -> list[int]:
    """Ids of images of these token counts."""
    ids: list[int] = []
    for count in images:
        ids += [*([WORD] if ids and family.apart else []), *[IMAGE] * count]
    return ids


def any_resolution_inputs(model: Any, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """One prompt with images of these (height, width) sizes, in as many crops as the family has."""
    family = family_of(model.config, "tiny")
    generator = torch.Generator().manual_seed(0)
    known, usual = dict(family.tiny_images), family.tiny_images[0][1]
    images = [
        family.beside(noise(model, size, known.get(size, usual), generator), len(sizes))
        for size in sizes
    ]
    counts = [tokens_of(model, image) for image in images]
    ids = torch.tensor([[BOS, 7, *prompted(family, counts), 9, 11, 13]])
    mask = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**mask, **family.token_inputs(ids, IMAGE), **family.joined(images)}
