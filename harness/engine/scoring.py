"""Notes what a method computes of its own: attention rows, linear layers, products of tokens.

Host-side only: shapes and the running sequence's own token counts, no question to the device.
Noted is what a row costs alone, never the padding of a batch, so a sample has the same notes alone
and in a ragged batch. Seen without a word are ``Tokens.last_row``, ``Tokens.mean_row``,
``Tokens.project`` and forward calls of ``nn.Linear`` inside the method's modules; matrix products
the method says itself (``Tokens.note``), and the conformance suite holds them against what really
ran. Element-wise arithmetic (softmax, sorting, pooling) is light and not noted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from harness.store.record import PROJECTOR, UNKNOWN
from methods.vocabulary import CLIP_CHUNK, ClipSizes

if TYPE_CHECKING:
    from methods.base import ModelInfo

Width = int | str
# kind, in and out features (by name where a method gave one), tokens of each row
Call = tuple[str, Width, Width, tuple[int, ...]]
PER_TOKEN = ("linear", "last_row", "mean_row", PROJECTOR)  # calls that see what runs


class Scoring:
    """The notes of one prompt and its decode steps."""

    def __init__(self) -> None:
        self.passes: list[tuple[int, Counter[Call]]] = []  # columns fed, calls; the prompt first
        self.given: list[int] | None = None  # tokens of each row, where the method says them
        self._seq: Any = None  # the RunningTokens of the pass
        self._routes_text = False

    def begin(self, seq: Any, routes_text: bool) -> None:
        """A new pass. ``routes_text``: the method may act on samples without image tokens."""
        self.passes.append((seq.hidden.shape[1], Counter()))
        self._seq, self._routes_text = seq, routes_text
        seq.scoring = self

    def passed(self, columns: int) -> None:
        """A pass over so many columns in which nothing was computed beside the layers."""
        self.passes.append((columns, Counter()))

    def end(self) -> None:
        """The pass is over: let go of its tensors, and note nothing before the next one."""
        if self._seq is not None:
            self._seq.scoring = None
        self._seq = None

    def rows(self, kind: str) -> None:
        """One call of ``last_row`` or ``mean_row`` over the running tokens."""
        self._note(kind, 0, 0, self._tokens())

    def linear(self, layer: nn.Linear, states: Any) -> None:
        """One forward call of a method's linear layer on ``states`` [..., in_features]."""
        if self._seq is not None:
            self._note(
                "linear", layer.in_features, layer.out_features, self._shared(states.shape[:-1])
            )

    def projected(self, states: Any) -> None:
        """One call of the model's projector on ``states`` [..., w]."""
        self._note(PROJECTOR, 0, 0, self._shared(states.shape[:-1]))

    def pairs(self, kind: str, tokens: Sequence[int], width: Width) -> None:
        """Products or distances of so many pairs of tokens in each row."""
        self._note(kind, width, 0, tokens)

    def clip(
        self, part: str, tokens: Sequence[int], sizes: ClipSizes | None, info: ModelInfo
    ) -> None:
        """What of the CLIP model ran in each row: ``text`` chunks, ``patches`` or ``frame``s.

        ``likeness``: pairs of vectors of the joint space. Without ``sizes`` nobody knows.
        """
        if sizes is None:
            self._note(UNKNOWN, 0, 0, tokens)
        elif part == "likeness":
            self.pairs("product", tokens, sizes.out)
        elif part == "text":
            self._encoders(sizes.layers, sizes.width, sizes.ffn, CLIP_CHUNK, tokens)
            self._note("linear", sizes.width, sizes.out, tokens)
        else:
            if part == "frame":
                crop = info.tower_side**2 + 1
                self._encoders(sizes.behind, "tower", "tower_ffn", crop, tokens)
            self._note("linear", "tower", sizes.out, tokens)

    def _encoders(
        self, layers: int, width: Width, ffn: Width, length: int, times: Sequence[int]
    ) -> None:
        """So many layers on ``length`` tokens, ``times`` [B] times."""
        for i in range(max(times, default=0) if layers else 0):
            lengths = [length if i < n else 0 for n in times]
            self._note("encoder", width, ffn, lengths, layers)

    def _shared(self, shape: Any) -> Sequence[int]:
        """Tokens of each row in states of this shape (the width left out)."""
        tokens = self._tokens()
        if self.given is not None:
            tokens = self.given
        elif len(shape) > 1 and shape[0] == len(tokens):  # [B, k, d]: padding fills up a row
            positions = shape[1:].numel()
            tokens = [min(count, positions) for count in tokens]
        elif sum(tokens):  # rows taken together: each by its share of the tokens
            tokens = [count * shape.numel() // sum(tokens) for count in tokens]
        return tokens

    def _tokens(self) -> list[int]:
        """Running tokens of each row.

        Where text is never routed, a row without image tokens is scored only because it stands in
        a batch with others; alone it is not, so nothing is noted for it.
        """
        seq = self._seq
        assert seq is not None
        if seq.generated or self._routes_text:
            return list(seq.counts)
        return [c if images else 0 for c, images in zip(seq.counts, seq.image_counts, strict=True)]

    def _note(
        self, kind: str, size: Width, out: Width, tokens: Sequence[int], times: int = 1
    ) -> None:
        self.passes[-1][1][kind, size, out, tuple(tokens)] += times

    def of_row(self, row: int, steps: int, late: int, info: ModelInfo) -> list[dict[str, Any]]:
        """What ``RoutingRecord.scoring`` holds of a row, equal calls together.

        ``steps`` are the decode steps that belong to the row, ``late`` its generated tokens that
        stand in the prompt (a pass without cache; they are left out).
        """
        total: Counter[tuple[str, str, Width, Width, int]] = Counter()
        left = steps
        for number, (columns, calls) in enumerate(self.passes):
            for (kind, size, out, tokens), times in calls.items():
                count = tokens[row]
                if number:
                    count = min(count, left)
                elif kind in PER_TOKEN:
                    count -= late
                if count > 0:
                    total["decode" if number else "prompt", kind, size, out, count] += times
            left -= min(left, columns) if number else 0
        return [_entry(*key, calls, info) for key, calls in total.items()]


def _entry(
    phase: str, kind: str, size: Width, out: Width, tokens: int, calls: int, info: ModelInfo
) -> dict[str, Any]:
    entry: dict[str, Any] = {"phase": phase, "kind": kind, "tokens": tokens, "calls": calls}
    if kind == "encoder":
        entry |= {"width": size, "ffn": out}
    elif kind in ("product", "distance"):
        entry["width"] = size
    elif kind == "linear":
        # Widths of decoder and tower by name, so that the entry holds at every width.
        named: dict[Width, Width] = {info.tower_width: "tower", info.width: "width"}
        entry["out"] = named.get(out, out)
        if size != info.width:
            entry["in"] = named.get(size, size)
    return entry


@contextmanager
def linears_noted(modules: nn.Module, current: Callable[[], Scoring | None]) -> Iterator[None]:
    """While open, every call of a linear layer in ``modules`` is noted in ``current()``."""

    def note(layer: nn.Module, args: tuple[Any, ...], _out: Any) -> None:
        scoring = current()
        if scoring is not None and isinstance(layer, nn.Linear):
            scoring.linear(layer, args[0])

    with ExitStack() as stack:
        for module in modules.modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(note).remove)
        yield
