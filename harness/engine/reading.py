"""What a method may read of a pass: the batch's facts, the tower's crops, attention rows, words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.engine.block import Rotary, attention_rows, query_key
from harness.engine.model import Parts
from methods.base import ANSWER, IMAGE, Crop, ModelInfo, Work, on_device

if TYPE_CHECKING:
    from harness.engine.scoring import Scoring


class Reading(ABC):
    """The reading half of ``methods.base.Tokens``; :class:`RunningTokens` holds the state."""

    parts: Parts
    info: ModelInfo
    modules: nn.Module | None
    samples: Any
    hidden: Tensor
    kinds: Tensor
    valid: Tensor
    index: Tensor
    counts: list[int]
    base: Tensor | None
    losses: list[Tensor]
    scoring: Scoring | None

    @abstractmethod
    def rotary(self) -> Rotary:
        """cos and sin of the running positions."""

    @abstractmethod
    def _base(self, rows: Tensor, columns: Tensor) -> Tensor:
        """[B, 1, r, c] of the packed mask at original row and column indices [B, r], [B, c]."""

    @abstractmethod
    def _allowed(self) -> Tensor:
        """[B, 1, m, m] bool, who sees whom; a padded query sees only itself."""

    @property
    def full(self) -> bool:
        """No column is padding."""
        return min(self.counts) == self.hidden.shape[1]

    @property
    def image(self) -> Tensor:
        """[B, m] bool: image tokens (never padding)."""
        return (self.kinds == IMAGE) & self.valid

    @property
    def identities(self) -> list[str]:
        """The caller's sample names, or a hash of each row's prompt ids."""
        return self.samples.identities()

    @property
    def grids(self) -> list[list[dict[str, Any]]]:
        """Per row, the geometry of its images; ``start`` is a column of the original sequence."""
        return self.samples.grids()

    @property
    def spans(self) -> list[list[tuple[int, int]]]:
        """Per row, (first original column, length) of each image."""
        return self.samples.spans()

    @contextmanager
    def noted_as(self, tokens: list[int]) -> Iterator[None]:
        """While open, linear layers and projector work on so many tokens of each row."""
        scoring = self.scoring
        if scoring is None:
            yield
            return
        scoring.given = tokens
        try:
            yield
        finally:
            scoring.given = None

    def note(self, kind: Work, tokens: Sequence[int], width: str | int = "width") -> None:
        """Say what the method computed that nobody else sees; ``methods.base.Tokens`` has more."""
        if self.scoring is None:
            return
        if kind in ("product", "distance"):
            self.scoring.pairs(kind, tokens, width)
        else:
            sizes = getattr(self.samples.clip, "sizes", None)
            self.scoring.clip(kind.removeprefix("clip_"), tokens, sizes, self.info)

    def add_loss(self, loss: Tensor) -> None:
        """Collect an auxiliary loss of this pass."""
        self.losses.append(loss)

    def normed(self, layer: int) -> Tensor:
        """[B, m, d] states after that layer's input norm."""
        return self.parts.layers[layer].input_layernorm(self.hidden)

    def last_row(self, layer: int, turned: bool = True) -> Tensor:
        """[B, m] float32: head mean of the last prompt token's attention in ``layer``.

        Only that row is formed, from the layer's own projections, so the layer itself runs on
        its fast kernel. Answer tokens behind the prompt take no part. ``turned``: by the rotary
        embedding, as in the layer; else as if all tokens stood at one position.
        """
        if self.scoring is not None:
            self.scoring.rows("last_row")
        prompt = self.valid & (self.kinds != ANSWER)
        columns = torch.arange(self.hidden.shape[1], device=self.hidden.device)
        last = (columns * prompt).amax(dim=1, keepdim=True)
        rotary, states = self.rotary(), self.normed(layer)
        if not turned:
            rotary = torch.ones_like(rotary[0]), torch.zeros_like(rotary[1])
        picked = take(states, last)
        turn = tuple(take(table, last) for table in rotary)
        query = self._heads(layer, picked, (turn[0], turn[1]), "q")
        keys = self._heads(layer, states, rotary, "k")
        allowed = self.valid & (columns <= last)
        if self.base is not None:
            seen = self._base(self.index.gather(1, last), self.index)
            allowed = allowed & seen[:, 0, 0]
        rows = attention_rows(self._attention(layer), query, keys, allowed[:, None, None])
        return rows.mean(dim=1)[:, 0]

    def mean_row(self, layer: int) -> Tensor:
        """[B, m] float32: attention each token receives, mean over heads and prompt queries."""
        if self.scoring is not None:
            self.scoring.rows("mean_row")
        rotary, states = self.rotary(), self.normed(layer)
        query = self._heads(layer, states, rotary, "q")
        keys = self._heads(layer, states, rotary, "k")
        prompt = self.valid & (self.kinds != ANSWER)
        allowed = self._allowed()
        total = torch.zeros(prompt.shape, device=states.device, dtype=torch.float64)
        group = query.shape[1] // keys.shape[1]
        for head in range(query.shape[1]):  # one head at a time bounds the memory
            one = slice(head, head + 1)
            key = keys[:, head // group : head // group + 1]
            rows = attention_rows(self._attention(layer), query[:, one], key, allowed)
            total += (rows[:, 0] * prompt.unsqueeze(-1)).sum(dim=1)
        scale = prompt.sum(dim=1, keepdim=True) * query.shape[1]
        return (total / scale).to(torch.promote_types(states.dtype, torch.float32))

    def attention(self, layer: int, rows: Tensor, factor: Tensor | None = None) -> Tensor:
        """[B, heads, m] float32: attention each token receives from ``rows`` [B, m] bool, mean.

        The softmax rows of ``layer`` on the running sequence, formed one head at a time, times
        ``factor`` [B or 1, m, m] where it is given. A row of the batch without a chosen query
        gives zeros.
        """
        if self.scoring is not None:
            self.scoring.rows("mean_row")  # all rows are formed, whichever are chosen
        rotary, states = self.rotary(), self.normed(layer)
        query = self._heads(layer, states, rotary, "q")
        keys = self._heads(layer, states, rotary, "k")
        allowed, rows = self._allowed(), rows & self.valid
        group = query.shape[1] // keys.shape[1]
        scale = rows.sum(dim=1).clamp(min=1).unsqueeze(-1)
        found = []
        for head in range(query.shape[1]):  # one head at a time bounds the memory
            key = keys[:, head // group : head // group + 1]
            maps = attention_rows(self._attention(layer), query[:, head : head + 1], key, allowed)
            maps = maps[:, 0] if factor is None else maps[:, 0] * factor
            found.append((maps * rows.unsqueeze(-1)).sum(dim=1) / scale)
        return torch.stack(found, dim=1)

    @property
    def crops(self) -> list[Crop]:
        """What the tower kept of every crop (``Method.taps``), in prompt order."""
        return self.samples.crops()

    @property
    def origins(self) -> Tensor:
        """[B, m] long: crop * P + patch of each running token, -1 where no patch stands behind."""
        found = self.samples.origins().gather(1, self.index)
        return found.masked_fill(~self.valid, -1)

    def project(self, states: Tensor) -> Tensor:
        """[..., w] tower states through the model's own projector, [..., d]."""
        if self.scoring is not None:
            self.scoring.projected(states)
        return self.parts.projector(states)

    @property
    def questions(self) -> list[str] | None:
        """The text of each row's question, where the caller gave it."""
        return self.samples.questions

    def words(self, texts: list[str]) -> list[Tensor] | None:
        """Input embeddings [t, d] of each text, without special tokens; None without tokenizer."""
        if self.samples.tokenizer is None:
            return None
        ids = self.samples.tokenizer(texts, add_special_tokens=False)["input_ids"]
        table = self.parts.text.embed_tokens
        return [table(on_device(row, self.hidden.device)) for row in ids]

    @property
    def clip(self) -> Any:
        """The text side of the tower's CLIP model, as the caller gave it to ``routed``."""
        return self.samples.clip

    def _attention(self, layer: int) -> Any:
        return self.parts.layers[layer].self_attn

    def _heads(self, layer: int, states: Tensor, rotary: Rotary, which: str) -> Tensor:
        return query_key(self._attention(layer), states, rotary, which, self.info.head_dim)


def take(states: Tensor, columns: Tensor) -> Tensor:
    """Rows of [B, m, d] at [B, k]; a table with batch 1 serves every row.

    Whole rows by one flat index: ``gather`` with an expanded index moves number by number, which
    took 18 times as long for 1,522 of 2,986 tokens of width 4,096 in bfloat16 (CPU).
    """
    rows = columns if states.shape[0] == 1 else flat(columns, states.shape[1])
    taken = states.flatten(0, 1).index_select(0, rows.flatten())
    return taken.view(*columns.shape, states.shape[2])


def flat(columns: Tensor, length: int) -> Tensor:
    """[B * k] rows of a [B * length, d] table that columns [B, k] name."""
    first = torch.arange(columns.shape[0], device=columns.device).unsqueeze(1) * length
    return (columns + first).flatten()
