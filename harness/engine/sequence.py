"""The running sequence of one forward pass: gather, run, scatter.

Rows are samples. Once rows keep different numbers of tokens, they are padded on the left and
``valid`` says which columns are real. Token counts live on the host, so shapes need no question
to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.engine.block import Rotary
from harness.engine.masks import prefill_mask
from harness.engine.model import Parts
from harness.engine.positions import PositionIds
from harness.engine.reading import Reading, flat, take
from methods.base import Positions

if TYPE_CHECKING:
    from harness.engine.scoring import Scoring


@dataclass
class Picked:
    """Some columns of the running sequence, left-padded per row."""

    columns: Tensor  # [B, k] long
    valid: Tensor | None  # [B, k] bool, None = all real
    counts: list[int]


class RunningTokens(Reading):
    """Implements ``methods.base.Tokens``; see there for the fields a method may read."""

    def __init__(
        self,
        parts: Parts,
        kind: str,
        modules: nn.Module | None,
        hidden: Tensor,
        kinds: Tensor,
        valid: Tensor,
        positions: PositionIds,
        counts: list[int],
        image_counts: list[int],
        head_counts: list[int],
        samples: Any,
        training: bool,
        generated: bool = False,
        base: Tensor | None = None,
        added: Sequence[Tensor] = (),
    ) -> None:
        self.parts, self.kind, self.modules = parts, kind, modules
        self.hidden, self.kinds, self.valid = hidden, kinds, valid
        self.positions, self.counts = positions, counts
        self.image_counts, self.head_counts = image_counts, head_counts
        self.samples, self.training, self.generated = samples, training, generated
        self.base = base  # [B, 1, N, N] bool over the original columns, packed questions only
        self.added = list(added)  # [B, m, d] that the model adds behind layers 0, 1, ...
        self.info = parts.info
        self.memo: dict[str, Any] = {}
        self.losses: list[Tensor] = []
        self.scoring: Scoring | None = None  # takes notes while decisions are recorded
        self.n = hidden.shape[1]  # original columns
        columns = torch.arange(self.n, device=hidden.device)
        self.index = columns.unsqueeze(0).expand(hidden.shape[0], -1)
        self.moved = False  # True once tokens left, so columns are no longer the original ones
        self._rotary: Rotary | None = None
        self._mask: tuple[Tensor | None] | None = None

    # --- masks and positions ----------------------------------------------------------------
    def rotary(self) -> Rotary:
        """cos and sin of the running positions."""
        if self._rotary is None:
            self._rotary = self.positions.rotary(self.parts.text, self.hidden)
        return self._rotary

    def rotary_at(self, columns: Tensor) -> Rotary:
        """Those of ``columns`` [B, k]: rows of the tables, which no layer computes again."""
        cos, sin = self.rotary()
        if cos.dim() > 3:  # a table for each axis
            return self.positions.take(columns).rotary(self.parts.text, self.hidden)
        return take(cos, columns), take(sin, columns)

    def seed(self, rotary: Rotary, mask: Tensor | None) -> None:
        """Take over the plain model's own tables and mask while nothing has left."""
        self._rotary, self._mask = rotary, (mask,)

    def mask(self) -> Tensor | None:
        """Attention mask over all running tokens."""
        if self._mask is None:
            base = self._base(self.index, self.index) if self.base is not None else None
            valid = None if self.full else self.valid
            self._mask = (self._prefill_mask(self.hidden.shape[1], valid, base),)
        return self._mask[0]

    def _prefill_mask(self, length: int, valid: Tensor | None, base: Tensor | None) -> Any:
        hidden = self.hidden
        return prefill_mask(self.kind, hidden.dtype, hidden.device, length, valid, base)

    def _base(self, rows: Tensor, columns: Tensor) -> Tensor:
        """[B, 1, r, c] of the packed mask at original row and column indices [B, r], [B, c]."""
        assert self.base is not None
        base = self.base.expand(rows.shape[0], -1, -1, -1)
        wide = rows[:, None, :, None].expand(-1, 1, -1, base.shape[3])
        picked = base.gather(2, wide)
        return picked.gather(3, columns[:, None, None, :].expand(-1, 1, rows.shape[1], -1))

    def _allowed(self) -> Tensor:
        """[B, 1, m, m] bool, who sees whom; a padded query sees only itself."""
        length, device = self.hidden.shape[1], self.hidden.device
        if self.base is not None:
            seen = self._base(self.index, self.index)
        else:
            seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        own = torch.eye(length, dtype=torch.bool, device=device)
        return (seen & self.valid[:, None, None, :]) | own

    def layer_mask(self, picked: Picked) -> Tensor | None:
        """Attention mask among picked columns."""
        base = None
        if self.base is not None:
            original = self.index.gather(1, picked.columns)
            base = self._base(original, original)
        length = picked.columns.shape[1]
        if base is None and picked.valid is None and self.kind == "eager":
            key = "causal"  # one triangle serves every shorter one
            if key not in self.memo:
                self.memo[key] = self._prefill_mask(self.hidden.shape[1], None, None)
            return self.memo[key][:, :, :length, :length]
        return self._prefill_mask(length, picked.valid, base)

    def compact_positions(self, picked: Picked) -> Tensor:
        """[B, k] long: how many picked tokens each picked token sees, minus one (0, 1, 2, ...).

        In a packed sequence each question counts on from the image, as it would alone.
        """
        columns = picked.columns
        if self.base is None:
            if picked.valid is None:
                steps = torch.arange(columns.shape[1], device=columns.device)
                return steps.unsqueeze(0).expand(columns.shape[0], -1)
            return (picked.valid.long().cumsum(dim=1) - 1).clamp(min=0)
        original = self.index.gather(1, columns)
        seen = self._base(original, original)[:, 0]
        if picked.valid is not None:
            seen = seen & picked.valid[:, None, :]
        return (seen.sum(dim=2) - 1).clamp(min=0)

    def deepen(self, layer: int) -> None:
        """What the model adds to running tokens behind a layer, processed or skipped there.

        Outside the layer, as in the model's own code: a token that skips takes it along.
        """
        if layer < len(self.added):
            self.hidden = self.hidden + self.added[layer]

    # --- gather and scatter -----------------------------------------------------------------
    def pick(self, keep: Tensor, counts: list[int], order: Tensor | None = None) -> Picked:
        """Columns of the kept tokens, in sequence order (or by ``order``), left-padded."""
        width = max(counts)
        keep = keep & self.valid
        if order is None:
            ranked = keep.to(torch.uint8).argsort(dim=1, stable=True)
        else:
            low = order.amin(dim=1, keepdim=True) - 1
            ranked = torch.where(keep, order, low).argsort(dim=1, stable=True)
        columns = ranked[:, ranked.shape[1] - width :]
        valid = None if min(counts) == width else keep.gather(1, columns)
        return Picked(columns, valid, counts)

    def shrink(self, picked: Picked, numbering: Positions, positions: PositionIds) -> Tensor | None:
        """Only the picked tokens run on. Returns the position shift [B, 1] decoding must apply.

        ``positions``: where the tokens stand if their ``numbering`` stays ``original``.
        """
        columns = picked.columns
        before = self.positions.last(self.valid)
        if numbering == "compact":
            moved = self.positions.numbered(self.compact_positions(picked))
        else:
            moved = positions.take(columns)
        self.hidden = take(self.hidden, columns)
        self.added = [take(table, columns) for table in self.added]
        self.kinds = self.kinds.gather(1, columns)
        self.index = self.index.gather(1, columns)
        self.positions = moved
        valid = picked.valid if picked.valid is not None else torch.ones_like(columns).bool()
        self.valid, self.counts = valid, picked.counts
        self._rotary = self._mask = None
        self.memo.pop("causal", None)
        self.moved = True
        return before - moved.last(valid) if numbering == "compact" else None

    def gather(self, picked: Picked) -> Tensor:
        """[B, k, d] states of the picked tokens."""
        return take(self.hidden, picked.columns)

    def scatter(self, picked: Picked, states: Tensor, rest: Tensor, own: bool = False) -> Tensor:
        """``rest`` [B, m, d] with the picked tokens' new states written over it.

        ``own``: nobody else holds ``rest``, so it is written to as it is.
        """
        states = states.to(rest.dtype)
        if picked.valid is not None:
            states = torch.where(picked.valid[..., None], states, take(rest, picked.columns))
        rows = flat(picked.columns, rest.shape[1])
        write = torch.Tensor.index_copy_ if own else torch.Tensor.index_copy
        return write(rest.flatten(0, 1), 0, rows, states.flatten(0, 1)).view(rest.shape)

    def unpacked(self, states: Tensor) -> Tensor:
        """[B, N, d]: running states back at their original columns, zero where tokens left."""
        if not self.moved:
            return states
        rows, _, width = states.shape
        full = states.new_zeros(rows * self.n, width)
        # Padded columns carry the index of a token that left: they must write zeros.
        states = (states * self.valid[..., None]).flatten(0, 1)
        return full.index_copy_(0, flat(self.index, self.n), states).view(rows, self.n, width)
