"""The images of a batch as groups of tokens that are ranked together: crops, or whole images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from methods.base import Tokens

PATCHES = 576  # of the crop that published amounts are meant for


@dataclass
class Group:
    """Tokens ranked together: their columns, and crop * P + patch of each (-1: a newline)."""

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
    return Picture(0, 0, n, n, [], [Group(0, False, list(range(n)), list(range(n)))], n)


def pictures(seq: Tokens, by_crop: bool, newlines: bool) -> list[Picture]:
    """The images of a batch. ``newlines``: a newline is in the group that its row ends in."""
    found: list[Picture] = []
    first = 0  # crops before this grid
    for b, grids in enumerate(seq.grids):
        for grid in grids:
            start, length = grid["image_start"], grid["image_length"]
            if not found or (found[-1].row, found[-1].start) != (b, start):  # its first grid
                down, across = grid["rows"], grid["cols"]
                found.append(Picture(b, start, length, down * across))
                groups: dict[int, Group] = {}
                found[-1].crops = range(first, first)
            found[-1].crops = range(found[-1].crops.start, first + grid["crops"])
            _fill(found[-1], groups, grid, (down, across), first, by_crop, newlines)
            found[-1].groups = list(groups.values())
            first += grid["crops"]
    for picture in found:
        _end(picture, newlines)
    return found


def _end(picture: Picture, newlines: bool) -> None:
    """Count in what is in no grid: the one newline that ends a square beside other images."""
    if sum(picture.sizes) + len(picture.newlines) == picture.tokens:
        return
    known = {column for group in picture.groups for column in group.columns}
    known.update(picture.newlines)
    rest = [c for c in range(picture.start, picture.start + picture.tokens) if c not in known]
    if newlines:
        picture.groups[-1].columns += rest
        picture.groups[-1].origins += [-1] * len(rest)
    else:
        picture.newlines += rest


def _fill(
    picture: Picture,
    groups: dict[int, Group],
    grid: dict[str, Any],
    crop: tuple[int, int],
    first: int,
    by_crop: bool,
    newlines: bool,
) -> None:
    """Put a grid's tokens into ``groups``, by the crop of ``crop`` patches that each lies in."""
    rows, cols, (high, across) = grid["rows"], grid["cols"], grid["tiles"]
    tile = grid["kind"] == "tile"
    top, left = (high * crop[0] - rows) // 2, (across * crop[1] - cols) // 2  # un-padding
    picture.patches += rows * cols
    for r in range(rows):
        start = grid["start"] + r * (cols + grid["newline"])
        down, y = divmod(r + top, crop[0])
        for right in range(across):  # the columns of this row that lie in one crop
            begin, end = right * crop[1] - left, (right + 1) * crop[1] - left
            begin, end, x = max(0, begin), min(cols, end), max(0, -begin)
            if begin >= end:
                continue
            number = first + down * across + right
            group = groups.setdefault(number if by_crop else 0, Group(picture.row, tile))
            group.columns += range(start + begin, start + end)
            origin = (number * crop[0] + y) * crop[1] + x
            group.origins += range(origin, origin + end - begin)
        if grid["newline"] and newlines:
            group.columns.append(start + cols)
            group.origins.append(-1)
        elif grid["newline"]:
            picture.newlines.append(start + cols)
