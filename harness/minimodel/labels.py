"""The dense labels of rendered scenes: what a vision tower is pretrained to say of each patch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from harness.minimodel.scenes import IGNORE, Scenes

ALPHABET = " abcdefghijklmnopqrstuvwxyz0123456789.$/-:ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = range(ALPHABET.index("0") + 1, ALPHABET.index("9") + 2)  # their numbers as labels
SLOTS = 8
GLYPHS = 2
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
_SCALE = torch.from_numpy(1 / (255 * STD)).view(3, 1, 1)
_OFFSET = torch.from_numpy(-MEAN / STD).view(3, 1, 1)


@dataclass
class Vocabulary:
    """Class lists of the dense heads, read off the scenes.

    `kinds` are the kinds of object, `<word>`, `<mark>` and the common words themselves: a class a
    word is learned much sooner than its spelling, and the decoder's answer is a word.
    """

    kinds: list[str]
    colors: list[str]
    index: dict[str, dict[str, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.index = {
            "kinds": {k: i + 1 for i, k in enumerate(self.kinds)},
            "colors": {c: i for i, c in enumerate(self.colors)},
        }

    @classmethod
    def of(cls, scenes: Scenes, least: int = 100) -> Vocabulary:
        """Of several sizes the first part's, so that heads fit with large pages and without."""
        kinds: Counter[str] = Counter()
        colors: Counter[str] = Counter()
        for record in scenes.parts[scenes.own].records:
            for box in record["boxes"]:
                if box["kind"] != "mark":
                    kinds[_class(box)] += 1
                if "color" in box["attrs"]:
                    colors[box["attrs"]["color"]] += 1
        return cls(
            ["<word>", "<mark>", *sorted(k for k, n in kinds.items() if n >= least)],
            sorted(c for c, n in colors.items() if n >= least),
        )


class DenseScenes(Dataset):
    """Pixels and per-patch labels of each scene.

    Item: `pixel_values` float32 [3, H, W] (CLIP normalisation); `kind` int64 [P] (0 nothing);
    `color` int64 [P]; `spell` int64 [P, SLOTS] (the character at each place of the word whose box
    covers the patch, 0 = past its end); `glyph` int64 [P, GLYPHS] (the character drawn at each of
    the places across the patch itself, 0 = a gap); `present` float32 [K + 1] (which kinds are in
    the image). Positions without a label hold -100.

    `shift` moves every image by up to so many pixels each way, its edge repeated, its boxes along:
    patches then cut words at ever new places. Evaluation leaves it at 0.
    """

    def __init__(
        self, scenes: Scenes, vocabulary: Vocabulary, patch: int, shift: int = 0, seed: int = 0
    ) -> None:
        self.scenes, self.vocabulary, self.patch = scenes, vocabulary, patch
        self.side = scenes.images.shape[1] // patch
        self.shift, self.rng = shift, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        present = np.zeros(len(self.vocabulary.kinds) + 1, dtype=np.float32)
        dx, dy = self.rng.integers(-self.shift, self.shift + 1, 2) if self.shift else (0, 0)
        labels = dense_labels(
            self.scenes.records[i]["boxes"],
            self.vocabulary,
            self.patch,
            (self.side, self.side),
            Placing(1.0, 1.0, dx, dy),
            present,
        )
        image = self.scenes.images[i]
        if self.shift:
            image = np.pad(image, (*[(self.shift, self.shift)] * 2, (0, 0)), mode="edge")
            top, left = self.shift - dy, self.shift - dx
            size = self.scenes.images.shape[1]
            image = image[top : top + size, left : left + size]
        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
        return {
            "pixel_values": planes.mul_(_SCALE).add_(_OFFSET),
            **labels,
            "present": torch.from_numpy(present),
        }

    def cells(self, box: list[float]) -> tuple[slice, slice]:
        """Patches the box covers by a third or more in each direction; never none."""
        return cells(box, self.patch, (self.side, self.side))


@dataclass(frozen=True)
class Placing:
    """Where a scene lies in the picture a tower sees: scale and shift in pixels, each axis."""

    wide: float
    high: float
    dx: float
    dy: float

    def box(self, box: Sequence[float]) -> list[float]:
        """[x0, y0, x1, y1] of the scene, in the picture."""
        x0, y0, x1, y1 = box
        across = (x * self.wide + self.dx for x in (x0, x1))
        down = (y * self.high + self.dy for y in (y0, y1))
        (x0, x1), (y0, y1) = across, down
        return [x0, y0, x1, y1]


def dense_labels(
    boxes: Sequence[dict[str, Any]],
    vocabulary: Vocabulary,
    patch: int,
    grid: tuple[int, int],
    placing: Placing,
    present: np.ndarray | None = None,
) -> dict[str, torch.Tensor]:
    """`kind`, `color`, `spell` and `glyph` of `grid` (rows, columns) patches, as in `DenseScenes`.

    `present` float32 [K + 1] gets a 1 for every kind there is.
    """
    index = vocabulary.index
    kind = np.zeros(grid, dtype=np.int64)
    color = np.full(grid, IGNORE, dtype=np.int64)
    spell = np.full((*grid, SLOTS), IGNORE, dtype=np.int64)
    glyph = np.full((*grid, GLYPHS), IGNORE, dtype=np.int64)
    for box in boxes:
        rows, cols = cells(placing.box(box["box"]), patch, grid)
        word = box["kind"] == "word"
        number = index["kinds"].get(_class(box), index["kinds"]["<word>"] if word else IGNORE)
        kind[rows, cols] = number
        if present is not None and number != IGNORE:
            present[number] = 1.0
        color[rows, cols] = index["colors"].get(box["attrs"].get("color", ""), IGNORE)
        spell[rows, cols] = _letters(box["label"]) if word else IGNORE
        glyph[rows, cols] = _glyphs(box, cols, patch, placing) if word else IGNORE
    return {
        "kind": torch.from_numpy(kind.reshape(-1)),
        "color": torch.from_numpy(color.reshape(-1)),
        "spell": torch.from_numpy(spell.reshape(-1, SLOTS)),
        "glyph": torch.from_numpy(glyph.reshape(-1, GLYPHS)),
    }


def cells(box: Sequence[float], patch: int, grid: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the patches a box covers by a third or more each way; never none."""
    out = []
    for low, high, side in ((box[1], box[3], grid[0]), (box[0], box[2], grid[1])):
        first = int(np.floor(low / patch + 0.66))
        last = int(np.ceil(high / patch - 0.66))
        if last <= first:
            first = int((low + high) / 2 / patch)
            last = first + 1
        out.append(slice(max(first, 0), min(last, side)))
    return out[0], out[1]


def _glyphs(box: dict[str, Any], cols: slice, patch: int, placing: Placing) -> np.ndarray:
    """int64 [columns, GLYPHS]: the character at each place across the patches of a word."""
    codes = np.full((cols.stop - cols.start, GLYPHS), IGNORE, dtype=np.int64)
    extents = box.get("chars", [])
    if len(extents) != len(box["label"]):
        return codes
    step = patch / GLYPHS
    for column in range(cols.start, cols.stop):
        for place in range(GLYPHS):
            x = (column * patch + (place + 0.5) * step - placing.dx) / placing.wide
            inside = [k for k, (a, b) in enumerate(extents) if a <= x < b]
            code = ALPHABET.find(box["label"][inside[0]]) + 1 if inside else 0
            codes[column - cols.start, place] = code if code or not inside else IGNORE
    return codes


def _class(box: dict[str, Any]) -> str:
    """The class of a box: the object's kind, "<mark>", or the word in lower case, quoted."""
    if box["kind"] == "mark":
        return "<mark>"
    return f"'{box['label'].lower()}'" if box["kind"] == "word" else box["label"]


def _letters(word: str) -> list[int]:
    """Characters of the first SLOTS places: 0 past the end, IGNORE for one outside ALPHABET."""
    found = [ALPHABET.find(c) + 1 or IGNORE for c in word[:SLOTS]]
    return found + [0] * (SLOTS - len(found))
