"""Rows as training samples: ids, labels, pixels; and as one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from harness.common.errors import HarnessError
from harness.fitting.guard import last_complete
from harness.train.images import ImageReader
from harness.train.index import RowIndex, open_index
from harness.train.recipe import InstructRecipe
from harness.train.rows import BadRow, Conversation
from harness.train.templates import IGNORE, Encoded, encode, pieces

SUBSTITUTES = 50  # rows tried in place of one whose image cannot be decoded


class BrokenImage(Exception):
    """An image whose header was fine cannot be decoded; the message is the row's id."""


class Encoder:
    """Token ids and labels of a row under a recipe's template and length."""

    def __init__(self, recipe: InstructRecipe, processor: Any, reader: ImageReader) -> None:
        self.template, self.limit = recipe.template, recipe.max_length
        self.processor, self.reader = processor, reader

    def __call__(self, row: Conversation, image_tokens: Sequence[int]) -> Encoded:
        parts = pieces(row, self.template, self.processor)
        image_id = self.processor.image_token_id
        return encode(parts, self.processor.tokenizer, image_id, image_tokens, self.limit)

    def measure(self, row: Conversation, sizes: list[tuple[int, int]]) -> int:
        """Length in tokens. Raises BadRow where no answer is left within the limit."""
        coded = self(row, [self.reader.tokens(size) for size in sizes])
        if not coded.answered:
            raise BadRow(f"no answer left within {self.limit} tokens")
        return len(coded.ids)


class Samples(Dataset):
    """Item i: `input_ids`, `labels` int64 [n], with images `pixel_values` (a list of float32
    tensors) and for LLaVA-NeXT `image_sizes`, and `broken`: ids of rows it stands in for.

    A row whose image turns out to be undecodable gives its place to another of its kind, chosen by
    its number alone, so every process and every resumed run chooses the same.
    """

    def __init__(self, index: RowIndex, images: Path | None, encoder: Encoder) -> None:
        self.index, self.images, self.encoder = index, images, encoder

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> dict[str, Any]:
        broken: list[str] = []
        for candidate in self._candidates(number):
            row = self.index.row(candidate)
            try:
                return {**self.sample(row), "broken": broken}
            except BrokenImage:
                broken.append(row.id)
        raise HarnessError(f"{len(broken)} images in a row cannot be decoded, first: {broken[0]}")

    def sample(self, row: Conversation) -> dict[str, Any]:
        """One row's tensors. Raises BrokenImage."""
        sizes, read = [], []
        for name in row.images:
            assert self.images is not None
            try:
                read.append(self.encoder.reader.read(self.images / name))
            except MemoryError:
                raise
            except Exception as error:  # the library raises whatever its format plug-ins raise
                raise BrokenImage(row.id) from error
            sizes.append(self._size(read[-1]))
        coded = self.encoder(row, [self.encoder.reader.tokens(size) for size in sizes])
        item: dict[str, Any] = {
            "input_ids": torch.tensor(coded.ids),
            "labels": torch.tensor(coded.labels),
        }
        if coded.images:
            kept = read[: coded.images]
            item["pixel_values"] = [image["pixel_values"] for image in kept]
            if "image_sizes" in kept[0]:
                item["image_sizes"] = [image["image_sizes"] for image in kept]
        return item

    @staticmethod
    def _size(read: dict[str, torch.Tensor]) -> tuple[int, int]:
        if "image_sizes" not in read:
            return 0, 0  # every image becomes the same number of tokens
        height, width = read["image_sizes"].tolist()
        return height, width

    def _candidates(self, number: int) -> list[int]:
        """The row itself, then others with images in a fixed pseudo-random order."""
        others = np.flatnonzero(self.index.has_image == self.index.has_image[number])
        order = np.random.default_rng(number).choice(others, min(SUBSTITUTES, len(others)))
        return [number, *order.tolist()]


class Collator:
    """Samples to one batch, padded on the right.

    `input_ids`, `labels`, `attention_mask` int64 [B, n]; with images `pixel_values` float32
    [images, 3, H, W] or [images, crops, 3, H, W] (crops padded with zeros) and `image_sizes`
    int64 [images, 2]; `broken`, a list of row ids.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [item["input_ids"] for item in items]
        labels = [item["labels"] for item in items]
        stack = torch.nn.utils.rnn.pad_sequence
        batch: dict[str, Any] = {
            "input_ids": stack(ids, batch_first=True, padding_value=self.pad),
            "labels": stack(labels, batch_first=True, padding_value=IGNORE),
            "attention_mask": stack([torch.ones_like(x) for x in ids], batch_first=True),
            "broken": [name for item in items for name in item["broken"]],
        }
        pixels = [image for item in items for image in item.get("pixel_values", ())]
        if pixels:
            batch["pixel_values"] = stack(pixels, batch_first=True)
        sizes = [size for item in items for size in item.get("image_sizes", ())]
        if sizes:
            batch["image_sizes"] = torch.stack(sizes)
        return batch


def open_samples(
    recipe: InstructRecipe, processor: Any, family: str, cache: Path, renew: bool = True
) -> tuple[Samples, RowIndex]:
    """The recipe's data, indexed in `cache` where it was not yet. Raises UsageError.

    `renew`: rows whose images came since are taken in, unless `cache` has checkpoints of a run on
    the others. Of several processes one may ask for it, before the others read the index.
    """
    from harness.train.keys import processor_key

    reader = ImageReader(processor, recipe.image_aspect, family)
    encoder = Encoder(recipe, processor, reader)
    images = Path(recipe.images).expanduser() if recipe.images else None
    key = f"{processor_key(processor)} {recipe.image_aspect} {recipe.max_length}"
    data = Path(recipe.data).expanduser()
    index = open_index(
        *(data, images, cache, recipe.template, key, encoder.measure),
        threads=recipe.workers or 1,
        renew=renew and last_complete(cache) is None,
    )
    return Samples(index, images, encoder), index
