"""Training scenes of several sizes: a folder of 192 px scenes with one folder a further size."""

from __future__ import annotations

import re
from pathlib import Path

from torch.utils.data import ConcatDataset

from harness.common.errors import UsageError
from harness.minimodel.scenes import Scenes

NAME = re.compile(r"(\d+)x(\d+)")
"""Height x width of the pictures in a folder."""


class SizedScenes(Scenes):
    """All scenes below a folder written by `python -m minidata train --hd`, one after another.

    `parts` maps (height, width) to the `Scenes` of that size; `start` to the number of the first
    of them here. `images[i]` is uint8 [height, width, 3] of its own size: a batch takes its rows
    from one part. Raises UsageError where there are none or a folder's name is not its size.
    """

    def __init__(self, folder: Path) -> None:
        named = [p for p in folder.iterdir() if NAME.fullmatch(p.name)] if folder.is_dir() else []
        places = [folder] if (folder / "images.npy").is_file() else []
        places += sorted(named, key=lambda place: [int(n) for n in place.name.split("x")])
        if not places:
            raise UsageError(
                f"{folder}: no scenes: expected images.npy or folders such as 384x576 "
                "(python -m minidata train)"
            )
        self.parts: dict[tuple[int, int], Scenes] = {}
        self.start: dict[tuple[int, int], int] = {}
        for place in places:
            part = Scenes(place)
            height, width = part.images.shape[1:3]
            if place != folder and place.name != f"{height}x{width}":
                raise UsageError(f"{place}: its pictures are {height}x{width}, not {place.name}")
            if (height, width) in self.parts:
                raise UsageError(f"{place}: {folder} itself has scenes of {height}x{width} already")
            self.start[height, width] = sum(map(len, self.parts.values()))
            self.parts[height, width] = part
        self.images = ConcatDataset([part.images for part in self.parts.values()])
        self.records = ConcatDataset([part.records for part in self.parts.values()])

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of picture `i`."""
        return [size for size, first in self.start.items() if first <= i][-1]
