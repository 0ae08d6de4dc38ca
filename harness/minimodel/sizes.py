"""Training scenes of several sizes: a folder of 192 px scenes with one folder a further size."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import ConcatDataset, Sampler

from harness.common.errors import UsageError
from harness.common.stops import tell
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes, Size

NAME = re.compile(r"(\d+)x(\d+)")
"""Height x width of the pictures in a folder."""


class SizedScenes(Scenes):
    """All scenes below a folder written by `python -m minidata train --hd`, one after another.

    `parts` maps (height, width) to the `Scenes` of that size; `start` to the number of the first
    of them here. `images[i]` is uint8 [height, width, 3] of its own size: a batch takes its rows
    from one part. `pages` are the folders that are read, beside the scenes of `folder` itself
    (None: all). Raises UsageError where there are none or a folder's name is not its size.
    """

    def __init__(self, folder: Path, pages: Collection[Size] | None = None) -> None:
        places = [folder] if (folder / "images.npy").is_file() else []
        places += [f for size, f in sized_folders(folder).items() if pages is None or size in pages]
        if not places:
            raise UsageError(
                f"{folder}: no scenes: expected images.npy or folders such as 384x576 "
                "(python -m minidata train)"
            )
        self.parts, self.start = {}, {}
        for place in places:
            part = Scenes(place)
            height, width = part.own
            if place != folder and place.name != f"{height}x{width}":
                raise UsageError(f"{place}: its pictures are {height}x{width}, not {place.name}")
            if (height, width) in self.parts:
                raise UsageError(f"{place}: {folder} itself has scenes of {height}x{width} already")
            self.start[height, width] = sum(map(len, self.parts.values()))
            self.parts[height, width] = part
        self.images = ConcatDataset([part.images for part in self.parts.values()])
        self.records = ConcatDataset([part.records for part in self.parts.values()])

    def size(self, i: int) -> Size:
        """Height and width of picture `i`."""
        return [size for size, first in self.start.items() if first <= i][-1]

    def cut(
        self, held_out: int, families: dict[str, float], seed: int
    ) -> tuple[list[int], list[int]]:
        """As `Scenes.cut`; every part gives of its last scenes, and the held-out ones are mixed
        so that the first of them are a fair share of all."""
        train, held = [], []
        for size, part in self.parts.items():
            kept = max(1, round(held_out * len(part) / len(self)))
            rows, last = part.cut(kept, families, seed)
            train += [self.start[size] + i for i in rows]
            held += [((n + 0.5) / len(last), self.start[size] + i) for n, i in enumerate(last)]
        return train, [i for _, i in sorted(held)]


def sized_folders(folder: Path) -> dict[Size, Path]:
    """(height, width) -> the folder below `folder` of that name, smallest first."""
    found = {}
    for place in folder.iterdir() if folder.is_dir() else ():
        if named := NAME.fullmatch(place.name):
            found[int(named[1]), int(named[2])] = place
    return dict(sorted(found.items()))


def read_scenes(recipe: Recipe, data: Path) -> Scenes:
    """The scenes that a recipe trains on; says in a line which large pages it names are not there,
    and which are there and not named. Raises UsageError."""
    if not recipe.pages:
        return Scenes(data)
    asked = read_sizes(list(recipe.pages), None, 1)
    if recipe.first:
        raise UsageError("recipe: first and pages: expected one of them")
    if min(recipe.pages.values()) <= 0 or sum(recipe.pages.values()) > 1:
        raise UsageError("recipe: pages: expected shares of the batches, above 0, 1 in all at most")
    there = sized_folders(data)
    for said, sizes in (
        ("no large pages of %s there: their batches are 192 px scenes", [*set(asked) - {*there}]),
        ("its large pages of %s are left out", [*{*there} - set(asked)]),
    ):
        if sizes:
            shown = ", ".join(f"{high}x{wide}" for high, wide in sorted(sizes))
            tell(f"note: {data}: {said % shown}")
    return SizedScenes(data, asked)


def read_sizes(given: Sequence[str], own: Size | None, token: int) -> list[Size]:
    """(height, width) of each of a recipe's `sizes`, or `own` where there are none.

    `token`: pixels of a token's side. Raises UsageError for what is no size of whole tokens.
    """
    found = []
    for text in given:
        named = NAME.fullmatch(text)
        size = (int(named[1]), int(named[2])) if named else (0, 0)
        if any(side < token or side % token for side in size):
            raise UsageError(
                f"recipe: sizes: {text!r}: expected HEIGHTxWIDTH in multiples of {token} pixels, "
                "such as 192x256"
            )
        found.append(size)
    return found or ([own] if own else [])


class SizedBatches(Sampler[list[int]]):
    """Batches of one size: `pages` says of which share, the rest are the first part's scenes.

    A batch of a large page has as many scenes as have the pixels of a batch of the first part, at
    least one. An epoch shows the first part once; pages come round as they are needed. The order
    depends on seed and epoch alone, so a training that resumes goes on with the same batches.

    Args:
        scenes: what is trained on.
        rows: number of the scene behind every item of the data set.
        batch: scenes of the first part in a batch.
        pages: "HEIGHTxWIDTH" -> share of the batches.
    """

    def __init__(
        self,
        scenes: Scenes,
        rows: Sequence[int],
        batch: int,
        pages: Mapping[str, float],
        seed: int,
    ) -> None:
        self.batch_size, self.seed, self.epoch = batch, seed, 0
        self.items: dict[Size, list[int]] = defaultdict(list)
        for item, row in enumerate(rows):
            self.items[scenes.size(row)].append(item)
        asked = zip(read_sizes(list(pages), None, 1), pages.values(), strict=True)
        shares = {size: share for size, share in asked if size in self.items}
        shares.setdefault(scenes.own, 1 - sum(shares.values()))
        self.sizes = [size for size in self.items if shares.get(size, 0) > 0]
        given = np.array([shares[size] for size in self.sizes])
        self.shares = given / given.sum()
        high, wide = scenes.own
        self.counts = {(h, w): max(1, round(batch * high * wide / (h * w))) for h, w in self.sizes}

    def __len__(self) -> int:
        first = self.sizes[0]
        return max(1, round(len(self.items[first]) / self.counts[first] / self.shares[0]))

    def set_epoch(self, epoch: int) -> None:
        """`Trainer` says which one comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        queues: dict[Size, list[int]] = {size: [] for size in self.sizes}
        for drawn in rng.choice(len(self.sizes), len(self), p=self.shares):
            size = self.sizes[drawn]
            count = min(self.counts[size], len(self.items[size]))
            if len(queues[size]) < count:
                queues[size] = rng.permutation(self.items[size]).tolist()
            yield [queues[size].pop() for _ in range(count)]
