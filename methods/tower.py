"""What methods that choose by the vision tower share: the patches of a batch, crop by crop.

Tables are [C, P]: one line a crop, over all images of the batch in prompt order, one column a
patch, whether or not a token stands for it (un-padding removes patches of any-resolution tiles).
All choices are made there at once, then spread over the running tokens. How many tokens an image
has is known on the host, so a fixed budget asks the device nothing.

A budget counts an image's tokens over all its crops and is split evenly among them; what a small
crop cannot use goes to the others. An amount of the method's own is one of a 576-patch crop, as
the papers print it, and scales with P / 576. Newline tokens are never chosen. An image whose
budget covers all its tokens stays as it is, newlines included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from methods.base import Tokens, on_device
from methods.budget import Budgeted

if TYPE_CHECKING:
    from torch import Tensor

CROP = 576  # patches of the crop that published amounts are meant for


class Patches:
    """The tower's side of a batch that holds at least one image."""

    def __init__(self, seq: Tokens) -> None:
        self.seq, self.crops, self.origins = seq, seq.crops, seq.origins
        self.per_crop = self.crops[0].states.shape[0] - 1
        self.sizes: list[int] = []  # patches of each crop that a token stands for
        self.images: list[tuple[int, int, int, range]] = []  # row, first column, tokens, crops
        self.tiles: list[bool] = []  # is the crop a tile, not the whole image?
        for b, grids in enumerate(seq.grids):
            for grid in grids:
                first = len(self.sizes)
                self.sizes += _sizes(grid, math.isqrt(self.per_crop))
                self.tiles += [grid["kind"] == "tile"] * grid["crops"]
                if grid["start"] == grid["image_start"]:
                    image = (b, grid["start"], grid["image_length"], range(first, len(self.sizes)))
                    self.images.append(image)
                else:
                    *same, crops = self.images[-1]
                    self.images[-1] = (*same, range(crops.start, len(self.sizes)))  # type: ignore[assignment]

    @cached_property
    def states(self) -> Tensor:
        """[C, 1 + P, w] what the projector reads, class token first."""
        import torch

        return torch.stack([crop.states for crop in self.crops])

    def keys(self, layer: int) -> Tensor:
        """[C, P, w] keys of a tower layer, float32 or better."""
        import torch

        keys = torch.stack([crop.taps[layer][1][1:] for crop in self.crops])
        return keys.to(torch.promote_types(keys.dtype, torch.float32))

    def attention(self, layer: int) -> Tensor:
        """[C, P] what the class token gives each patch in a tower layer, mean over heads."""
        import torch

        return torch.stack([crop.cls_row(layer).mean(dim=0) for crop in self.crops])

    @cached_property
    def columns(self) -> Tensor:
        """[C, P] long: the running column of the token behind a patch, -1 where there is none."""
        import torch

        total = len(self.crops) * self.per_crop
        where = self.origins.masked_fill(self.origins < 0, total)
        steps = torch.arange(where.shape[1], device=where.device).expand_as(where)
        table = steps.new_full((total + 1,), -1).scatter(0, where.flatten(), steps.flatten())
        return table[:-1].view(-1, self.per_crop)

    @property
    def exists(self) -> Tensor:
        """[C, P] bool: a token stands for the patch."""
        return self.columns >= 0

    def spread(self, table: Tensor, other: Any) -> Tensor:
        """[B, m]: a [C, P] table's entry of each token; ``other`` where no patch stands behind."""
        import torch

        found = table.flatten()[self.origins.clamp(min=0)]
        return torch.where(self.origins >= 0, found, other)

    def put(self, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        """[B, m, d] running states with new ones written over them.

        ``parts``: ([C, P] long, the state a patch's token takes, -1 none; [..., d] states).
        """
        import torch

        hidden = self.seq.hidden
        table, first = [hidden.flatten(0, 1)], hidden.shape[0] * hidden.shape[1]
        source = torch.arange(first, device=hidden.device).view(hidden.shape[:2])
        for numbers, states in parts:
            wanted = self.spread(numbers, -1)
            source = torch.where(wanted >= 0, wanted + first, source)
            table.append(states.reshape(-1, hidden.shape[2]).to(hidden.dtype))
            first += table[-1].shape[0]
        return torch.cat(table).index_select(0, source.flatten()).view(hidden.shape)

    def order(self, key: Tensor, limit: int, stay: Tensor) -> Tensor:
        """[B, m] sort key: all in its place, an image's tokens by ``key`` [B, m] in 0..limit-1."""
        import torch

        seq = self.seq
        first = [list(range(seq.kinds.shape[1])) for _ in seq.counts]
        for b, start, n, _ in self.images:
            first[b][start : start + n] = [start] * n
        columns = torch.arange(seq.kinds.shape[1], device=stay.device)
        place = on_device(first, stay.device)
        return torch.where(stay, columns * limit, place * limit + key)

    def on_device(self, values: list[Any]) -> Tensor:
        """[C, 1] of one host value a crop."""
        return on_device([[v] for v in values], self.seq.hidden.device)


@dataclass
class Shares:
    """How many tokens each crop keeps."""

    keep: list[int]  # a crop; 0 where its image stays as it is
    counts: list[int]  # tokens a row has left
    stay: Tensor  # [B, m] bool: text, and images that stay as they are


@dataclass(frozen=True)
class Tower(Budgeted):
    """Base of methods that choose before the language model, by what the tower says."""

    def mod_layers(self, info: Any) -> list[bool]:
        return [True] * info.layers

    def shares(self, patches: Patches, amount: int) -> Shares | None:
        """What each crop keeps by the budget, else ``amount`` a crop of 576; None: everything."""
        keep = [0] * len(patches.sizes)
        kept: list[int | None] = []
        for _, _, n, crops in patches.images:
            sizes, wanted = [patches.sizes[c] for c in crops], self.target(n)
            if wanted is None:
                own = round(amount * patches.per_crop / CROP)
                parts = [min(size, own) for size in sizes]
                whole = parts == sizes
            else:
                total, whole = min(round(wanted), sum(sizes)), round(wanted) >= n
                parts = split(total, sizes)
            kept.append(None if whole else sum(parts))
            if not whole:
                keep[crops.start : crops.stop] = parts
        if all(k is None for k in kept):
            return None
        return Shares(keep, *leaving(patches, kept))


def leaving(patches: Patches, kept: list[int | None]) -> tuple[list[int], Tensor]:
    """(tokens a row has left, [B, m] what stays as it is), ``kept`` of each image, None: all."""
    seq = patches.seq
    counts, stay = list(seq.counts), [[True] * seq.kinds.shape[1] for _ in seq.counts]
    for (b, start, n, _), left in zip(patches.images, kept, strict=True):
        if left is not None:
            counts[b] += left - n
            stay[b][start : start + n] = [False] * n
    return counts, on_device(stay, seq.hidden.device) & seq.valid


def split(total: int, sizes: list[int]) -> list[int]:
    """``total`` in parts as equal as ``sizes`` allow; of equal sizes the later take the rest."""
    parts = [0] * len(sizes)
    for done, i in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        parts[i] = min(sizes[i], (total - sum(parts)) // (len(sizes) - done))
    return parts


def _sizes(grid: dict[str, Any], side: int) -> list[int]:
    """Patches left of each crop of a grid: un-padding cut both ends of the joined tiles alike."""
    high, wide = grid["tiles"]
    if high * wide == 1:
        return [grid["rows"] * grid["cols"]]

    def left(length: int, tiles: int) -> list[int]:
        cut = (tiles * side - length) // 2
        return [
            max(0, min(cut + length, (t + 1) * side) - max(cut, t * side)) for t in range(tiles)
        ]

    return [r * c for r in left(grid["rows"], high) for c in left(grid["cols"], wide)]


def rows(table: Tensor, wanted: Tensor) -> Tensor:
    """[C, k, w]: rows ``wanted`` [C, k] of a [C, P, w] table."""
    return table.gather(1, wanted[..., None].expand(-1, -1, table.shape[2]))
