"""Scenes as pictures of other sizes and shapes, in the patches that a Qwen2.5-VL tower takes.

A picture of a batch is either the whole scene stretched to its size, which leaves every question
true (a processor stretches, too), or the scene scaled and set anywhere on it, its edge repeated,
which is for labels of patches only: "top left" would not be true any more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from harness.minimodel.labels import MEAN, STD, Placing, Vocabulary, dense_labels
from harness.minimodel.scenes import Scenes, Size

MERGE = 2
SMALLEST = 0.75  # scale of a scene that is set on a larger picture
PLACED = 0.5  # share of the pictures that a scene does not fill, where that is allowed
_MEAN, _STD = (torch.from_numpy(255 * x).view(3, 1, 1) for x in (MEAN, STD))


class RawScenes(Dataset):
    """Row i: `image` uint8 [H, W, 3] and `boxes` of scene i; the collator makes the picture."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": self.scenes.images[i], "boxes": self.scenes.records[i]["boxes"]}


class Canvas:
    """Makes the tower's part of a batch of one size from items of `RawScenes`.

    Gives `pixel_values` float32 [sum of patches, 6 * patch**2] (CLIP normalisation, as the
    processor), `image_grid_thw` int64 [B, 3], the dense labels [B, P] of the merged tokens, and at
    the scenes' own size `native`, their pixels float32 [B, 3, H, W] as a CLIP tower takes them.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        patch: int,
        vocabulary: Vocabulary | None,
        seed: int,
        placed: bool = False,
        pages: Collection[Size] = (),
    ) -> None:
        """`sizes` are those that scenes are drawn at; `pages` are never changed. `placed`: also
        scenes that do not fill the picture."""
        self.sizes, self.patch, self.vocabulary = list(sizes), patch, vocabulary
        self.placed, self.rng = placed, np.random.default_rng(seed)
        self.pages = frozenset(pages)

    def draw(self, items: list[dict[str, Any]]) -> Size:
        """The size of a batch of these scenes, which have one."""
        own: Size = items[0]["image"].shape[:2]
        return own if own in self.pages else self.sizes[int(self.rng.integers(len(self.sizes)))]

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return self.batch(items, self.draw(items))

    def batch(self, items: list[dict[str, Any]], size: Size) -> dict[str, torch.Tensor]:
        token = MERGE * self.patch
        grid = (size[0] // token, size[1] // token)
        images, labels = [], []
        for item in items:
            image, placing = self._picture(item["image"], size)
            images.append(image)
            if self.vocabulary is not None:
                labels.append(dense_labels(item["boxes"], self.vocabulary, token, grid, placing))
        planes = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
        planes = (planes - _MEAN) / _STD
        patches = [1, size[0] // self.patch, size[1] // self.patch]
        made = {
            "pixel_values": pack(planes, self.patch),
            "image_grid_thw": torch.tensor([patches] * len(items)),
        }
        made |= {k: torch.stack([one[k] for one in labels]) for k in (labels or [{}])[0]}
        if size == items[0]["image"].shape[:2]:
            made["native"] = planes
        return made

    def _picture(self, image: np.ndarray, size: Size) -> tuple[np.ndarray, Placing]:
        """uint8 [*size, 3] and where the scene lies in it. The own size is never changed."""
        high, wide = image.shape[:2]
        if size == (high, wide):
            return np.asarray(image), Placing(1.0, 1.0, 0, 0)
        if not self.placed or self.rng.random() >= PLACED:
            return _resized(image, size), Placing(size[1] / wide, size[0] / high, 0, 0)
        most = min(size[0] / high, size[1] / wide)
        scale = self.rng.uniform(min(SMALLEST, most), most)
        inner = (round(high * scale), round(wide * scale))
        room = (size[0] - inner[0], size[1] - inner[1])
        top, left = (int(self.rng.integers(0, one + 1)) for one in room)
        edges = ((top, room[0] - top), (left, room[1] - left), (0, 0))
        placing = Placing(inner[1] / wide, inner[0] / high, left, top)
        return np.pad(_resized(image, inner), edges, mode="edge"), placing


def _resized(image: np.ndarray, size: Size) -> np.ndarray:
    picture = Image.fromarray(np.asarray(image))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def pack(planes: torch.Tensor, patch: int) -> torch.Tensor:
    """[B, 3, H, W] as the tower's rows [patches of all, 3 * 2 * patch**2].

    Patches of a merged token follow each other; numbers of a row are channel, frame (the still
    twice), row, column.
    """
    batch, channels, high, wide = planes.shape
    token = MERGE * patch
    blocks = planes.reshape(
        batch, channels, high // token, MERGE, patch, wide // token, MERGE, patch
    ).permute(0, 2, 5, 3, 6, 1, 4, 7)
    frames = blocks.unsqueeze(6).expand(*(-1,) * 6, 2, -1, -1)
    return frames.reshape(batch * high * wide // patch**2, channels * 2 * patch**2)
