"""The images of a batch as groups of tokens that are ranked together: crops, or whole images."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from methods.base import Tokens

PATCHES = 576  # of the crop that published amounts are meant for


@dataclass
class Group:
    """Tokens ranked together: their columns, and for each the number of the patch (or of the token
    that joins patches) that stands behind it, over all crops in prompt order (-1: a newline)."""

    row: int
    tile: bool  # of the part of an any-resolution image, not of the whole
    columns: list[int] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)


@dataclass
class Picture:
    """One image of a batch: its columns in the prompt, its newline tokens and its groups."""

    row: int
    start: int
    tokens: int
    crop: int  # patches of a whole crop
    across: int = 0  # of them, those of a row
    newlines: list[int] = field(default_factory=list)  # those that are in no group
    groups: list[Group] = field(default_factory=list)
    patches: int = 0
    crops: range = range(0)  # numbers of its crops in the batch

    @property
    def sizes(self) -> list[int]:
        return [len(group.columns) for group in self.groups]

    def each(self, amount: float) -> list[int]:
        """``amount`` of 576 patches in every crop."""
        return [min(size, round(amount * self.crop / PATCHES)) for size in self.sizes]

    def overall(self, amount: float) -> int:
        """``amount`` of 576 patches in the image as a whole."""
        return round(amount * self.patches / PATCHES)


def square(n: int) -> Picture:
    """One crop of ``n`` patches alone, as LLaVA-1.5 has it."""
    return Picture(0, 0, n, n, 0, [], [Group(0, False, list(range(n)), list(range(n)))], n)


def pictures(seq: Tokens, by_crop: bool, newlines: bool) -> list[Picture]:
    """The images of a batch. ``newlines``: a newline is in the group that its row ends in."""
    found: list[Picture] = []
    first = patches = 0  # crops and their patches before this grid
    for b, grids in enumerate(seq.grids):
        for grid in grids:
            start, length = grid["image_start"], grid["image_length"]
            if not found or (found[-1].row, found[-1].start) != (b, start):  # its first grid
                down, across = grid["rows"], grid["cols"]
                found.append(Picture(b, start, length, down * across, across))
                groups: dict[tuple[int, int], Group] = {}
                found[-1].crops = range(first, first)
            found[-1].crops = range(found[-1].crops.start, first + grid["crops"])
            _fill(found[-1], groups, grid, (down, across), patches, by_crop, newlines)
            found[-1].groups = list(groups.values())
            first += grid["crops"]
            patches += grid["crops"] * down * across
    return found


def _fill(
    picture: Picture,
    groups: dict[tuple[int, int], Group],
    grid: dict[str, Any],
    crop: tuple[int, int],
    before: int,
    by_crop: bool,
    newlines: bool,
) -> None:
    """Put a grid's tokens into ``groups``, by the crop of ``crop`` patches that each lies in,
    ``before`` patches behind the first.

    Tokens of a picture that was shrunk count as the patch nearest to their middle.
    """
    rows, cols, (high, across) = grid["rows"], grid["cols"], grid["tiles"]
    tile = grid["kind"] == "tile"
    down, wide = grid.get("whole", (rows, cols))
    top, left = (high * crop[0] - down) // 2, (across * crop[1] - wide) // 2  # un-padding
    picture.patches += rows * cols
    ys = [top + (2 * r + 1) * down // (2 * rows) for r in range(rows)]
    xs = [left + (2 * c + 1) * wide // (2 * cols) for c in range(cols)]
    # The columns of a row that lie in one crop.
    parts = [(n, list(part)) for n, part in groupby(range(cols), lambda c: xs[c] // crop[1])]
    for r, y in enumerate(ys):
        start = grid["start"] + r * (cols + grid["newline"])
        for right, part in parts:
            number = y // crop[0] * across + right
            key = (before, number) if by_crop else (0, 0)
            group = groups.setdefault(key, Group(picture.row, tile))
            group.columns += range(start + part[0], start + part[-1] + 1)
            origin = before + (number * crop[0] + y % crop[0]) * crop[1]
            group.origins += [origin + xs[c] % crop[1] for c in part]
        last = r == rows - 1 and grid.get("padded")  # one of several images ends in a newline
        if not grid["newline"] and not last:
            continue
        if newlines:
            group.columns.append(start + cols)
            group.origins.append(-1)
        else:
            picture.newlines.append(start + cols)
