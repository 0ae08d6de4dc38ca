"""The KV cache of a routed model: layers of different length, one global length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from harness.engine.model import EngineError


@dataclass
class LayerState:
    """What one layer's cache holds, beyond the keys and values themselves.

    valid    [B, columns] bool: the column holds a token of that row; None = every column does.
    compact  new tokens are numbered by this layer's own count of tokens (see ``Route``).
    shift    [B, 1] long subtracted from a new token's position, after a renumbering drop.
    """

    valid: Tensor | None = None
    compact: bool = False
    shift: Tensor | None = None


class RoutedCache(DynamicCache):
    """A ``DynamicCache`` whose reported length is the global one, whatever layer 0 holds."""

    def __init__(self, layers: list[Any]) -> None:
        # Sharing the list of layers fills the caller's own cache object along the way.
        Cache.__init__(self, layer_class_to_replicate=DynamicLayer)
        self.layers = layers
        self.states: list[LayerState] = []
        self.global_length = 0
        self.on_reorder: Callable[[Tensor], None] | None = None
        self.decoding: Any = None  # ``decoding.Decoding``, ahead of ``states`` until settled

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the full sequence so far, padding included, as ``generate`` counts."""
        return self.global_length

    def stored(self, layer: int) -> int:
        """Columns that one layer really holds."""
        if layer >= len(self.layers) or not self.layers[layer].is_initialized:
            return 0
        return int(self.layers[layer].get_seq_length())

    def nbytes(self) -> int:
        """Bytes of all keys and values, read off the tensors."""
        total = 0
        for layer in self.layers:
            if layer.is_initialized:
                total += layer.keys.nbytes + layer.values.nbytes
        return total

    def settle(self) -> None:
        """Bring ``states`` up to what the layers hold."""
        if self.decoding is not None:
            self.decoding.settle(self)
            self.decoding = None

    def _take(self, rows: Tensor) -> None:
        """Reorder the bookkeeping along the batch; tensors shared by layers stay shared."""
        self.settle()
        memo: dict[int, Tensor] = {}

        def pick(value: Tensor | None) -> Tensor | None:
            if value is None:
                return None
            if id(value) not in memo:
                memo[id(value)] = value.index_select(0, rows.to(value.device))
            return memo[id(value)]

        old = list(self.states)  # keeps the ids above alive
        self.states = [LayerState(pick(s.valid), s.compact, pick(s.shift)) for s in old]
        if self.on_reorder is not None:
            self.on_reorder(rows)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Beam search: follow the surviving beams."""
        super().reorder_cache(beam_idx)
        self._take(beam_idx)

    @property
    def is_croppable(self) -> bool:
        """A routed cache cannot be rolled back: its layers hold different tokens."""
        return False

    def _refuse(self, what: str) -> None:
        raise EngineError(f"{what} is not supported on a routed model: its cache cannot do it")

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Assisted decoding would need this."""
        self._refuse("assisted decoding (rolling the cache back)")

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Contrastive search would need this."""
        self._refuse("repeating a cache over the batch")

    def batch_select_indices(self, indices: Any) -> None:
        """Contrastive search would need this."""
        self._refuse("selecting batch rows of a cache")


def adopt(cache: Any, known: RoutedCache | None) -> RoutedCache:
    """The routed form of the cache a caller passed; an error if it was filled elsewhere."""
    if isinstance(cache, RoutedCache):
        return cache
    if cache is None:
        return RoutedCache([])
    if type(cache) is not DynamicCache or getattr(cache, "offloading", False):
        raise EngineError(
            f"{type(cache).__name__} is not supported on a routed model: use the dynamic cache"
        )
    if known is not None and cache.layers is known.layers:
        return known
    if any(layer.is_initialized for layer in cache.layers):
        raise EngineError("this cache was filled outside the routing context: start without one")
    return RoutedCache(cache.layers)
