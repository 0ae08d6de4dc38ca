"""What methods share that pick or merge by what the vision tower says of the patches.

:class:`Patches` is a board (``methods/picking.py``) of crops whose tables hold what the tower knows
of the patch behind each token. Merged tokens are made of the tower's states and go through the
projector afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from methods.base import Merge, ModelInfo, Positions, Ranking, on_device, param
from methods.picking import Board, Picking

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Attended(Picking):
    """Base of methods that read the attention of the tower's class token."""

    @property
    def reads_tower(self) -> bool:
        return True

    @property
    def needs_class_token(self) -> bool:
        return True


@dataclass(frozen=True)
class Received(Attended):
    """... or, of a tower without one, the attention that patches receive; a token may join some."""

    tower: int | None = param(
        None, "tower layer whose attention is read (none: the last but one, else the last)"
    )

    @property
    def reads_received(self) -> bool:
        return True

    @property
    def reads_joined(self) -> bool:
        return True

    def check(self, info: ModelInfo) -> None:
        # Joined patches behind a class token: no release says what becomes of them.
        self.require(info.joins == 1 or not info.class_tokens, info.unread)
        super().check(info)

    def read_at(self, info: ModelInfo) -> int:
        """The tower layer, the last but one behind a class token, else the last."""
        return self.tower if self.tower is not None else -2 if info.class_tokens else -1

    def taps(self, info: ModelInfo) -> tuple[int, ...]:
        return (self.read_at(info),)


@dataclass(frozen=True)
class Tower(Attended):
    """Base of methods that read the attention of tower layer ``tower``."""

    tower: int = param(-2, "tower layer whose attention is read (-2: the last but one)")

    def taps(self, info: ModelInfo) -> tuple[int, ...]:
        return (self.tower,)


class Patches(Board):
    """A board of crops, and the tower's side of it."""

    def attention(self, layer: int) -> Tensor:
        """[G, n] what the class token gives each patch in a tower layer, mean over heads.

        Of a tower without one: what each patch receives, mean over heads and queries too.
        """
        import torch

        if not self.seq.info.class_tokens:
            return self.received(layer)
        return self.behind(torch.cat([row.mean(dim=0) for row in self.class_rows(layer)]))

    def class_rows(self, layer: int, heads: int | None = None) -> list[Tensor]:
        """[heads, P] of every crop: the class token's row in a tower layer."""
        read = self.pictures[0].crop * self.seq.info.joins + 1
        self.seq.note("product", self.crops(read), "tower")
        return [replace(crop, heads=heads or crop.heads).cls_row(layer) for crop in self.seq.crops]

    def received(self, layer: int) -> Tensor:
        """[G, n] attention that each patch receives in a tower layer, mean over heads, queries."""
        import torch

        pairs = [0] * len(self.seq.counts)
        for picture in self.pictures:
            read = picture.crop * self.seq.info.joins + self.seq.info.class_tokens
            pairs[picture.row] += read**2 * len(picture.crops) * (picture.row in self.acting)
        self.seq.note("product", pairs, "tower")
        return self.behind(torch.cat([crop.received(layer) for crop in self.seq.crops]))

    def keys(self, layer: int) -> Tensor:
        """[G, n, w] keys of a tower layer; of tokens that join patches, the mean of theirs."""
        import torch

        return self.behind(torch.cat([crop.keys(layer) for crop in self.seq.crops]))

    def features(self) -> Tensor:
        """[G, n, w] what the projector reads."""
        import torch

        return self.behind(torch.cat([crop.patches for crop in self.seq.crops]))

    def class_states(self) -> Tensor:
        """[G, w] the class token's state of each group's crop."""
        import torch

        crop = [group.origins[0] // self.pictures[0].crop for group in self.groups]
        return torch.stack([self.seq.crops[c].states[0] for c in crop])

    def assign(self, slot: Tensor) -> Tensor:
        """[B, m] columns of ``slot`` [G, n], the index in its crop that a token joins, -1 none."""
        import torch

        width = self.seq.kinds.shape[1]
        into = self.where.gather(1, slot.clamp(min=0)) % width
        into = self.spread(into.masked_fill(slot < 0, -1), -1)
        return torch.where(self.stay, torch.arange(width, device=slot.device), into)

    def merge(
        self,
        slot: Tensor,
        new: list[tuple[Tensor, Tensor, list[int]]],
        key: Tensor,
        limit: int,
        positions: Positions,
        ranked: Ranking | None = None,
    ) -> Merge:
        """Fold tokens into slots (``assign``) and give slots new states.

        ``new``: [G, n] long, which of the states [..., w] a token takes (-1: none), these tower
        states, and how many of them are each group's own. An image's tokens are ordered by
        ``key`` [G, n], 0..limit-1.
        """
        import torch

        width, device = self.seq.kinds.shape[1], slot.device
        first = [list(range(width)) for _ in self.seq.counts]  # where an image's tokens begin
        for image in self.pictures:
            first[image.row][image.start : image.start + image.tokens] = [
                image.start
            ] * image.tokens
        columns, start = torch.arange(width, device=device), on_device(first, device)
        order = torch.where(self.stay, columns * limit, start * limit + self.spread(key, 0))
        made = self._put(new)
        return Merge(
            self.assign(slot), self.counts, made, positions=positions, order=order, ranked=ranked
        )

    def _put(self, new: list[tuple[Tensor, Tensor, list[int]]]) -> Tensor:
        """[B, m, d] running states, with the projections of new ones written over them."""
        import torch

        hidden, kind = self.seq.hidden, self.seq.crops[0].states.dtype
        table, first = [hidden.flatten(0, 1)], self.seq.kinds.numel()
        source = torch.arange(first, device=hidden.device).view(self.seq.kinds.shape)
        for numbers, states, own in new:
            wanted = self.spread(numbers, -1)
            source = torch.where(wanted >= 0, wanted + first, source)
            # As a row alone: its groups side by side, each as long as the longest.
            counts = [len(row) * max(row, default=0) for row in self.of_rows(own)]
            with self.seq.noted_as(counts):
                made = self.seq.project(states.to(kind)).reshape(-1, hidden.shape[2])
            table.append(made.to(hidden.dtype))
            first += len(made)
        return torch.cat(table).index_select(0, source.flatten()).view(hidden.shape)


def rows(table: Tensor, wanted: Tensor) -> Tensor:
    """[G, k, w]: rows ``wanted`` [G, k] of a [G, n, w] table."""
    return table.gather(1, wanted[..., None].expand(-1, -1, table.shape[2]))
