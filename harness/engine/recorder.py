"""Notes decisions while they are made and turns them into records afterwards.

During a pass only references to the decision tensors are kept; nothing is copied or asked of the
device until :meth:`Recorder.records`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engine.cache import RoutedCache
from harness.engine.model import EngineError, Parts
from harness.engine.samples import Samples
from harness.engine.scoring import Scoring
from harness.store.record import DROPPED, SKIPPED, RoutingRecord, route_dtype


@dataclass
class Event:
    """Tokens left before ``layer``: where the survivors and the merged ones went."""

    layer: int
    owner: Tensor  # [B, m] running column that stands for this one from now on, -1 = gone
    columns: Tensor  # [B, k] running columns that survive, in their new order
    valid: Tensor | None  # [B, k]


@dataclass
class Recorder:
    """Decisions of one prompt and its decode steps."""

    samples: Samples
    prompt_columns: int  # of the prompt; later columns of a pass without cache were generated
    events: list[Event] = field(default_factory=list)
    keeps: dict[int, Tensor] = field(default_factory=dict)  # layer -> [B, m] processed
    steps: list[tuple[Tensor, dict[int, Tensor]]] = field(default_factory=list)  # fed ids, keeps
    order: list[Tensor] = field(default_factory=list)  # beam reorderings
    scoring: Scoring = field(default_factory=Scoring)

    def passed(self, ids: Tensor) -> None:
        """New tokens [B, q] went through every layer."""
        self.steps.append((ids, {}))
        self.scoring.passed(ids.shape[1])

    def mark(self) -> tuple[int, int]:
        """How far the notes go by now, for `back`."""
        return len(self.steps), len(self.scoring.passes)

    def back(self, mark: tuple[int, int]) -> None:
        """Forget the passes since."""
        del self.steps[mark[0] :], self.scoring.passes[mark[1] :]

    def records(
        self,
        parts: Parts,
        method: Any,
        lengths: list[int] | None,
        cache: RoutedCache | None,
        stop_ids: set[int],
    ) -> list[RoutingRecord]:
        """One record per row; the cache, if there is one, must hold exactly what they say."""
        if self.order:
            raise EngineError("records of beam search are not kept: generate with num_beams=1")
        depth = parts.info.layers
        mod_layers = np.array(method.mod_layers(parts.info), bool)
        routes = self._routes(depth)
        decoded, fed = self._decoded(depth)
        valid = _host(self.samples.valid)
        if cache is not None:
            cache.settle()
            self._check_bytes(parts, routes, decoded, valid, cache)
        merge = self.samples.merge(method)
        kinds, names, grids = _host(self.samples.kinds), self.samples.names, self._grids(method)
        records = []
        for b in range(valid.shape[0]):
            own = np.flatnonzero(valid[b])
            late = own >= self.prompt_columns
            route, steps = _renumber(routes[b], own), decoded[b]
            if late.any():  # a pass without cache: generated tokens stand in the sequence
                end = int((~late).sum())
                steps = route[:, end:] == np.arange(end, own.size)
                route, own = route[:, :end], own[:end]
            stop = self._stop(b, steps.shape[1], fed, lengths, stop_ids)
            records.append(
                RoutingRecord(
                    kinds=kinds[b][own],
                    route=route.astype(route_dtype(own.size)),
                    decode=steps[:, :stop],
                    mod_layers=mod_layers,
                    grid=grids[b],
                    method=method.spec,
                    sample=names[b] if names is not None else "",
                    scoring=self.scoring.of_row(b, stop, int(late.sum()), parts.info)
                    + _read_in_tower(merge, grids[b]),
                    tower=list(merge.tokens) if merge is not None and grids[b] else [],
                )
            )
        return records

    # --- prompt -----------------------------------------------------------------------------
    def _routes(self, depth: int) -> NDArray[np.int32]:
        """[B, L, N] in original columns."""
        rows, n = self.samples.valid.shape
        start = np.arange(n)
        result = np.full((rows, depth, n), DROPPED, np.int32)
        for b in range(rows):
            owner, index = start.copy(), start.copy()  # token -> running column -> token
            valid = _host(self.samples.valid[b])
            owner[~valid] = -1
            events = iter(self.events)
            event = next(events, None)
            for layer in range(depth):
                while event is not None and event.layer == layer:
                    owner, index = _apply(event, b, owner, index)
                    event = next(events, None)
                here = owner >= 0
                line = result[b, layer]
                line[here] = index[owner[here]]
                keep = self.keeps.get(layer)
                if keep is not None:
                    skipped = ~_host(keep[b])
                    own = here & (line == start)
                    line[own & skipped[np.where(here, owner, 0)]] = SKIPPED
        return result

    # --- decode -----------------------------------------------------------------------------
    def _decoded(self, depth: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """[B, L, steps] processed and [B, steps] ids that were fed."""
        rows = self.samples.valid.shape[0]
        fed = [_host(ids) for ids, _ in self.steps]
        tokens = np.concatenate(fed, axis=1) if fed else np.zeros((rows, 0), np.int64)
        done = np.ones((rows, depth, tokens.shape[1]), bool)
        column = 0
        for ids, keeps in self.steps:
            width = ids.shape[1]
            for layer, keep in keeps.items():
                done[:, layer, column : column + width] = _host(keep)
            column += width
        return done, tokens

    @staticmethod
    def _stop(b: int, steps: int, fed: Any, lengths: list[int] | None, stop_ids: set[int]) -> int:
        """Decode steps that belong to row b: a finished row is fed padding until all are done."""
        if lengths is not None:
            return min(steps, max(0, lengths[b] - 1))
        for i in range(min(steps, fed.shape[1])):
            if int(fed[b, i]) in stop_ids:
                return i
        return steps

    def _grids(self, method: Any) -> list[list[dict[str, Any]]]:
        result, mixed = [], {"mixed": True} if method.mixes else {}
        for row, first in zip(self.samples.grids(), self.samples.first, strict=True):
            keys = ("kind", "rows", "cols", "start", "newline", "crops", "whole", "padded", "saw")
            found = [{k: g[k] for k in keys if k in g} for g in row]
            result.append([g | mixed | {"start": g["start"] - first} for g in found])
        return result

    def _check_bytes(
        self, parts: Parts, routes: Any, decoded: Any, valid: Any, cache: RoutedCache
    ) -> None:
        """The real cache tensors must hold exactly the tokens the decisions name."""
        start = np.arange(valid.shape[1])
        said = ((routes == start) & valid[:, None, :]).sum(2) + decoded.sum(2)  # [B, L]
        expected, itemsize = 0, 0
        for layer in range(parts.info.layers):
            columns, state = cache.stored(layer), cache.states[layer]
            held = np.full(said.shape[0], columns)
            if state.valid is not None:
                if state.valid.shape[1] != columns:
                    raise EngineError(
                        f"layer {layer}: the cache holds {columns} columns, "
                        f"the routing says {state.valid.shape[1]}"
                    )
                held = _host(state.valid).sum(1)
            if (held != said[:, layer]).any():
                raise EngineError(
                    f"layer {layer}: the cache holds {held.tolist()} tokens, "
                    f"the routing says {said[:, layer].tolist()}"
                )
            if columns:
                itemsize = cache.layers[layer].keys.element_size()
            expected += columns
        info = parts.info
        size = expected * said.shape[0] * 2 * info.kv_heads * info.head_dim * itemsize
        if size != cache.nbytes():
            raise EngineError(f"the cache takes {cache.nbytes()} bytes, the routing says {size}")


def _read_in_tower(merge: Any, grids: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a method that merges in the tower had formed there: all attention rows of a layer."""
    crops = sum(grid["crops"] for grid in grids)
    layers = Counter(merge.asked if merge is not None and crops else [])
    return [
        {"phase": "prompt", "kind": "tower_rows", "tokens": tokens, "calls": crops * times}
        for tokens, times in layers.items()
    ]


def _apply(event: Event, b: int, owner: Any, index: Any) -> tuple[Any, Any]:
    """Follow one drop or merge: new owner of each token, new token of each running column."""
    columns = _host(event.columns[b])
    moved = np.full(index.size, -1)
    real = np.ones(columns.size, bool) if event.valid is None else _host(event.valid[b])
    moved[columns[real]] = np.flatnonzero(real)
    target = np.where(owner >= 0, _host(event.owner[b])[np.where(owner >= 0, owner, 0)], -1)
    owner = np.where(target >= 0, moved[np.where(target >= 0, target, 0)], -1)
    return owner, index[columns]


def _renumber(route: Any, own: Any) -> Any:
    """Routes of one row from padded columns to token numbers 0..n-1."""
    place = np.zeros(route.shape[1], np.int32)
    place[own] = np.arange(own.size)
    route = route[:, own]
    return np.where(route >= 0, place[np.maximum(route, 0)], route)


def _host(tensor: Tensor) -> Any:
    return tensor.detach().to("cpu").numpy() if isinstance(tensor, torch.Tensor) else tensor
