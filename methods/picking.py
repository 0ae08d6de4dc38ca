"""What methods share that pick image tokens before the language model.

Image tokens come in groups, each ranked on its own: a crop of an image, or all of it. The groups of
a batch stand side by side in one padded table [G, n], a line a group, its tokens in raster order,
so that one tensor operation or greedy loop serves them together. How many tokens a group keeps is
known on the host; nothing here asks the device.

A budget holds for an image with all its crops and is split over the crops in proportion to their
tokens, largest remainder first: crops that un-padding cut get less. A method's own amount is one of
576 patches, as the papers print it, and scales with the model's own: of every crop
(``Picture.each``) or of the image's patches together (``Picture.overall``), as released. Newline
tokens leave, unless a method says otherwise. An image whose amount covers it stays as it is,
newlines included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods.base import Drop, ModelInfo, Positions, Ranking, Tokens, on_device, param
from methods.budget import Budgeted
from methods.pictures import PATCHES, Picture, pictures, square

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True)
class Picking(Budgeted):
    """Base of methods that pick before the language model, each image for itself."""

    apart: ClassVar[bool] = True

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [True] * info.layers

    def request(self, info: ModelInfo, n: int) -> list[int] | None:
        amount = self.amount(square(n), info)
        return [min(n, amount if isinstance(amount, int) else sum(amount))] * info.layers

    def own(self, picture: Picture) -> int | list[int]:
        """Tokens kept of an image, or of each of its groups, without a budget: all by default."""
        return picture.tokens

    def amount(self, picture: Picture, info: ModelInfo) -> int | list[int]:
        """Tokens kept of an image, or of each of its groups."""
        wanted = self.target(picture.tokens)
        return self.own(picture) if wanted is None else round(wanted)


@dataclass(frozen=True)
class Keeping(Picking):
    """... and keep ``keep`` tokens of 576 patches, of the image as a whole."""

    keep: int = param(64, "tokens kept of 576 patches; scales with the image's patches")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.keep >= 0, f"keep={self.keep} is below 0")
        most = f"keep={self.keep} is above the {PATCHES} patches that it is counted of"
        self.require(self.keep <= PATCHES, most)

    def own(self, picture: Picture) -> int | list[int]:
        return picture.overall(self.keep)


class Board:
    """The groups of a batch that holds an image, and how many tokens each of them keeps.

    ``newlines``: ``candidate`` (ranked like any token), ``keep`` (all stay, as part of the
    amount) or ``drop`` (all leave).
    """

    def __init__(
        self,
        seq: Tokens,
        by_crop: bool = True,
        newlines: Literal["candidate", "keep", "drop"] = "drop",
    ) -> None:
        self.seq, self.newlines = seq, newlines
        self.pictures = pictures(seq, by_crop, newlines == "candidate")
        self.groups = [group for picture in self.pictures for group in picture.groups]
        self.lengths = [len(group.columns) for group in self.groups]
        self.sizes = [0] * len(self.groups)  # tokens a group keeps; 0 where its image is whole
        self.whole = [False] * len(self.pictures)  # images that stay as they are

    def share(self, method: Picking) -> bool:
        """Fill in ``sizes`` and ``whole``; False where nothing leaves at all."""
        first = 0
        for i, picture in enumerate(self.pictures):
            amount, sizes = method.amount(picture, self.seq.info), picture.sizes
            if isinstance(amount, int):
                whole = amount >= picture.tokens
                left = amount - len(picture.newlines) * (self.newlines == "keep")
                amount = split(min(max(0, left), sum(sizes)), sizes)
            else:
                whole = amount == sizes
            self.whole[i] = whole
            if not whole:
                self.sizes[first : first + len(sizes)] = amount
            first += len(sizes)
        return not all(self.whole)

    @property
    def steps(self) -> int:
        """How many picks the largest ranking needs."""
        pairs = zip(self.sizes, self.lengths, strict=True)
        return max((size for size, length in pairs if size < length), default=0)

    # --- what it costs ----------------------------------------------------------------------
    @property
    def acting(self) -> set[int]:
        """Rows of which something leaves."""
        return {p.row for p, whole in zip(self.pictures, self.whole, strict=True) if not whole}

    def crops(self, each: int) -> list[int]:
        """``each`` for every crop of a row that acts."""
        found = [0] * len(self.seq.counts)
        for picture in self.pictures:
            found[picture.row] += each * len(picture.crops) * (picture.row in self.acting)
        return found

    def of_rows(self, values: list[int]) -> list[list[int]]:
        """A value a group, row by row; none of a row that alone would stay whole."""
        found: list[list[int]] = [[] for _ in self.seq.counts]
        for group, value in zip(self.groups, values, strict=True):
            if group.row in self.acting:
                found[group.row].append(value)
        return found

    def note(self, width: str | int, pairs: Callable[..., int], *values: list[int]) -> None:
        """Count ``pairs(G, n, ...)`` of a row whose G groups stand in a table of n tokens each.

        n is the largest of the row's own groups, as in a batch of that row alone: what pads the
        smaller ones is multiplied too. ``values``: further numbers of the groups, likewise.
        """
        rows = zip(*(self.of_rows(one) for one in (self.lengths, *values)), strict=True)
        found = [pairs(len(row[0]), *map(max, row)) if row[0] else 0 for row in rows]
        self.seq.note("product", found, width)

    # --- tables -----------------------------------------------------------------------------
    def on_device(self, values: list[Any]) -> Tensor:
        """[G, 1] of one host value a group."""
        return on_device([[value] for value in values], self.seq.hidden.device)

    def table(self, values: list[list[int]]) -> Tensor:
        """[G, n] of a host value a token; the padding has 0."""
        width = max(self.lengths)
        rows = [row + [0] * (width - len(row)) for row in values]
        return on_device(rows, self.seq.hidden.device)

    @cached_property
    def where(self) -> Tensor:
        """[G, n] long: row * m + column of each token; behind all of them where there is none."""
        rows, length = self.seq.kinds.shape
        width = max(self.lengths)
        table = [
            [g.row * length + c for c in g.columns] + [rows * length] * (width - len(g.columns))
            for g in self.groups
        ]
        return on_device(table, self.seq.hidden.device)

    @cached_property
    def there(self) -> Tensor:
        """[G, n] bool: a token, not the padding behind a smaller group."""
        return self.where < self.seq.kinds.numel()

    @property
    def rows(self) -> Tensor:
        """[G] long: the row of the batch that a group is in."""
        return on_device([group.row for group in self.groups], self.seq.hidden.device)

    @property
    def images(self) -> Tensor:
        """[G] long: the number of the image that a group is of."""
        numbers = [i for i, picture in enumerate(self.pictures) for _ in picture.groups]
        return on_device(numbers, self.seq.hidden.device)

    def states(self) -> Tensor:
        """[G, n, d] input embeddings of the groups' tokens, float32 or better; padding is zero."""
        flat = self.seq.hidden.flatten(0, 1)
        return wide(flat[self.where.clamp(max=len(flat) - 1)]) * self.there.unsqueeze(-1)

    def behind(self, patches: Tensor) -> Tensor:
        """[G, n, ...] of ``patches`` [crops * P, ...], those behind the tokens; as ``states``."""
        found = wide(patches[self.table([group.origins for group in self.groups])])
        return found * self.there.view(*self.there.shape, *[1] * (found.dim() - 2))

    def spread(self, table: Tensor, other: Any) -> Tensor:
        """[B, m]: a [G, n] table's entry of each token; ``other`` where no group has it."""
        flat = table.new_full((self.seq.kinds.numel() + 1,), other)
        flat = flat.scatter(0, self.where.flatten(), table.flatten())
        return flat[:-1].view(self.seq.kinds.shape)

    # --- what leaves ------------------------------------------------------------------------
    @cached_property
    def stay(self) -> Tensor:
        """[B, m] bool: tokens that nothing happens to: text, whole images, newlines to keep."""
        stay = [[True] * self.seq.kinds.shape[1] for _ in self.seq.counts]
        for picture, whole in zip(self.pictures, self.whole, strict=True):
            if not whole:
                line, end = stay[picture.row], picture.start + picture.tokens
                line[picture.start : end] = [False] * picture.tokens
                for column in picture.newlines if self.newlines == "keep" else ():
                    line[column] = True
        return on_device(stay, self.seq.hidden.device) & self.seq.valid

    @property
    def counts(self) -> list[int]:
        """Tokens that each row has left."""
        counts = list(self.seq.counts)
        for picture, whole in zip(self.pictures, self.whole, strict=True):
            if not whole:
                kept = len(picture.newlines) * (self.newlines == "keep")
                counts[picture.row] += kept - picture.tokens
        for size, group in zip(self.sizes, self.groups, strict=True):
            counts[group.row] += size
        return counts

    def best(self, scores: Tensor) -> Tensor:
        """[G, steps] the picks with the highest scores [G, n]; at a tie the lowest index wins."""
        ranked = scores.masked_fill(~self.there, float("-inf"))
        return ranked.argsort(dim=1, descending=True, stable=True)[:, : self.steps]

    def ranking(self, score: Tensor, chosen: Tensor | None = None) -> Ranking:
        """That ``chosen`` [G, n] (None: what stays) have the highest ``score``, group by group."""
        import torch

        groups = torch.arange(len(self.groups), device=score.device).unsqueeze(1)
        group = self.spread(groups.expand_as(self.there), -1).masked_fill(self.stay, -1)
        picked = None if chosen is None else self.spread(chosen, False)
        return Ranking(self.spread(score, 0), picked, group)

    def drop(self, order: Tensor, positions: Positions, score: Tensor | None = None) -> Drop:
        """Keep the first picks of ``order`` [G, steps], as many as each group may.

        ``score`` [G, n]: what the picks were ordered by, where that was one number a token.
        """
        import torch

        ranks = torch.arange(order.shape[1], device=order.device)
        taken = (ranks < self.on_device(self.sizes)).to(torch.uint8)
        chosen = torch.zeros_like(self.there, dtype=torch.uint8).scatter_add(1, order, taken) > 0
        pairs = zip(self.sizes, self.lengths, strict=True)
        full = self.on_device([size == length for size, length in pairs])
        chosen = (chosen | full) & self.there
        if score is None:  # the earlier a pick, the better
            score = torch.full_like(self.where, -order.shape[1]).scatter(
                1, order, -ranks.expand_as(order)
            )
        picked, ranked = self.spread(chosen, False), self.ranking(score)
        return Drop(self.stay | picked, self.counts, positions, ranked=ranked)


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
