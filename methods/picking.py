"""What methods share that pick image tokens before the language model.

Image tokens come in groups, each ranked on its own: an image, or one crop of it. All groups of a
batch stand side by side in one padded tensor, so that a greedy loop serves them together. How many
tokens a group keeps is known on the host; nothing here asks the device.

A budget holds for an image with all its crops, and is split over the crops by their tokens (an
un-padded any-resolution image has smaller crops at its edges): largest remainder first. One that
covers the image leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from methods.base import Drop, ModelInfo, Positions, Tokens, on_device
from methods.budget import Budgeted

if TYPE_CHECKING:
    from torch import Tensor

PATCHES = 576  # image tokens of the models that papers count in


@dataclass(frozen=True)
class Picking(Budgeted):
    """Base of methods that pick ``keep`` of an image's 576 patches before the language model."""

    keep: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.keep >= 0, f"keep={self.keep} is below 0")

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [True] * info.layers

    def kept(self, n: int, patches: int) -> int:
        """Tokens kept of an image's ``n``, of which ``patches`` are no newlines."""
        wanted = self.target(n)
        return round(self.keep * patches / PATCHES if wanted is None else wanted)


@dataclass
class Group:
    """Tokens ranked together: their columns, and crop * P + patch of each (-1: a newline)."""

    row: int
    image: int  # number of the image in the batch
    columns: list[int] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)


def group(seq: Tokens, by_crop: bool, newlines: bool) -> tuple[list[Group], list[Group]]:
    """The groups of a batch, and the newline tokens of each image.

    ``newlines`` puts these into the groups too, a newline to the crop that its row ends in.
    """
    found: dict[tuple[int, int], Group] = {}
    breaks: list[Group] = []
    first = 0
    for b, grids in enumerate(seq.grids):
        for grid in grids:
            rows, cols, (high, wide) = grid["rows"], grid["cols"], grid["tiles"]
            if grid["kind"] == "base":
                breaks.append(Group(b, len(breaks)))
                down, across = rows, cols
            top, left = (high * down - rows) // 2, (wide * across - cols) // 2  # un-padding
            image = breaks[-1].image
            for r in range(rows):
                start = grid["start"] + r * (cols + grid["newline"])
                for c in range(cols):
                    y, x = r + top, c + left
                    crop = first + y // down * wide + x // across
                    one = found.setdefault((image, by_crop * crop), Group(b, image))
                    one.columns.append(start + c)
                    one.origins.append((crop * down + y % down) * across + x % across)
                if grid["newline"]:
                    breaks[-1].columns.append(start + cols)
                    if newlines:
                        one.columns.append(start + cols)
                        one.origins.append(-1)
            first += grid["crops"]
    return list(found.values()), breaks


class Board:
    """The groups of a batch as tensors [G, n], and how many tokens each of them keeps."""

    def __init__(
        self,
        seq: Tokens,
        amount: Callable[[int, int], int],
        by_crop: bool = True,
        newlines: str = "drop",
    ) -> None:
        """``amount``: tokens to keep of an image, from its tokens and its patches.

        ``newlines``: ``candidate`` (ranked like any token), ``keep`` (all stay, as part of the
        amount) or ``drop`` (all leave).
        """
        self.seq = seq
        self.groups, breaks = group(seq, by_crop, newlines == "candidate")
        self.sizes: list[int] = []
        self.extra: list[list[int]] = [[] for _ in seq.counts]  # newlines that stay, per row
        for lines in breaks:
            lengths = [len(g.columns) for g in self.groups if g.image == lines.image]
            patches = sum(o >= 0 for g in self.groups if g.image == lines.image for o in g.origins)
            tokens = patches + len(lines.columns)
            total = amount(tokens, patches)
            if newlines != "candidate" and (newlines == "keep" or total >= tokens):
                self.extra[lines.row] += lines.columns
                total = max(0, total - len(lines.columns))
            self.sizes += split(min(total, sum(lengths)), lengths)

    @property
    def untouched(self) -> bool:
        """Nothing leaves."""
        kept = sum(self.sizes) + sum(map(len, self.extra))
        return kept == sum(self.seq.image_counts)

    @property
    def steps(self) -> int:
        """How many picks the largest ranking needs."""
        pairs = zip(self.sizes, self.groups, strict=True)
        return max((size for size, g in pairs if size < len(g.columns)), default=0)

    def place(self) -> None:
        """Make the tensors ``where`` and ``there`` [G, n] and ``rows`` and ``images`` [G]."""
        width = max(len(g.columns) for g in self.groups)
        length, device = self.seq.hidden.shape[1], self.seq.hidden.device
        nowhere = length * len(self.seq.counts)
        where, there = [], []
        for g in self.groups:
            gap = width - len(g.columns)
            where.append([g.row * length + c for c in g.columns] + [nowhere] * gap)
            there.append([True] * len(g.columns) + [False] * gap)
        self.where, self.there = on_device(where, device), on_device(there, device)
        self.rows = on_device([g.row for g in self.groups], device)
        self.images = on_device([g.image for g in self.groups], device)

    def states(self) -> Tensor:
        """[G, n, d] input embeddings of the groups' tokens, float32 or better; padding is zero."""
        flat = self.seq.hidden.flatten(0, 1)
        return wide(flat[self.where.clamp(max=len(flat) - 1)]) * self.there.unsqueeze(-1)

    def behind(self, patches: Tensor) -> Tensor:
        """[G, n, w] of ``patches`` [crops * P, w], float32 or better: those behind the tokens."""
        width = self.where.shape[1]
        rows = [g.origins + [0] * (width - len(g.origins)) for g in self.groups]
        return wide(patches[on_device(rows, patches.device)]) * self.there.unsqueeze(-1)

    def drop(self, order: Tensor, positions: Positions) -> Drop:
        """Keep the first picks of ``order`` [G, steps], as many as each group may."""
        import torch

        seq, device = self.seq, self.where.device
        ranks = torch.arange(order.shape[1], device=device)
        taken = (ranks < on_device([[k] for k in self.sizes], device)).to(torch.uint8)
        chosen = torch.zeros_like(self.there, dtype=torch.uint8).scatter_add(1, order, taken) > 0
        pairs = zip(self.sizes, self.groups, strict=True)
        all_of = on_device([[size == len(g.columns)] for size, g in pairs], device)
        chosen = (chosen | all_of) & self.there
        image = seq.image
        keep = torch.zeros(image.numel() + 1, dtype=torch.bool, device=device)
        keep = keep.scatter(0, self.where.flatten(), chosen.flatten())
        length = image.shape[1]
        lines = [b * length + c for b, row in enumerate(self.extra) for c in row]
        if lines:
            keep = keep.index_fill(0, on_device(lines, device), True)
        counts = [c - n + len(e) for c, n, e in zip(
            seq.counts, seq.image_counts, self.extra, strict=True)]  # fmt: skip
        for size, g in zip(self.sizes, self.groups, strict=True):
            counts[g.row] += size
        return Drop((seq.valid & ~image) | keep[:-1].view_as(image), counts, positions)


def split(total: int, lengths: list[int]) -> list[int]:
    """``total`` shared out in proportion to ``lengths``; the largest remainders get one more."""
    whole = sum(lengths)
    if not whole:
        return [0] * len(lengths)
    parts = [total * n // whole for n in lengths]
    rest = sorted(range(len(lengths)), key=lambda i: (-(total * lengths[i] % whole), i))
    for i in rest[: total - sum(parts)]:
        parts[i] += 1
    return parts


def wide(states: Tensor) -> Tensor:
    """In float32, or as it is where it has more."""
    import torch

    return states.to(torch.promote_types(states.dtype, torch.float32))


def unit(states: Tensor) -> Tensor:
    """Of length one along the last dimension; zeros stay zeros."""
    return states / states.norm(dim=-1, keepdim=True).clamp(min=1e-12)
