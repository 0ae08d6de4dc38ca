"""The two passes of a routed decoder: over a prompt, and over new tokens behind a cache."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from harness.engine.block import run_layer
from harness.engine.cache import LayerState, RoutedCache
from harness.engine.masks import step_mask
from harness.engine.model import EngineError
from harness.engine.recorder import Event, Recorder
from harness.engine.sequence import RunningTokens
from harness.engine.tower import folded, tower_event
from methods.base import Drop, Merge, Method, Route


def plain_mask(
    config: Any, embeds: Tensor, mask: Tensor | None, cache: Any, position_ids: Tensor | None
) -> Tensor | None:
    """The mask the unrouted model would build, from the library's own function."""
    known = inspect.signature(create_causal_mask).parameters
    offered = {
        "config": config,
        "inputs_embeds": embeds,
        "input_embeds": embeds,  # the name before it was corrected
        "attention_mask": mask,
        "past_key_values": cache,
        "position_ids": position_ids,
        "cache_position": torch.arange(embeds.shape[1], device=embeds.device),
    }
    return create_causal_mask(**{k: v for k, v in offered.items() if k in known})


# --- prompt ---------------------------------------------------------------------------------
def run_prompt(
    method: Method,
    seq: RunningTokens,
    cache: RoutedCache | None,
    extra: dict[str, Any],
    recorder: Recorder | None,
) -> Tensor:
    """All layers over the whole prompt; returns normed states [B, N, d] at original columns."""
    states: list[LayerState] = []
    shift: Tensor | None = None
    plain_positions = extra.pop("position_ids", None)
    if recorder is not None:
        recorder.scoring.begin(seq, method.routes_text)
    merge = seq.samples.merge(method)
    for leaving in (lambda: tower_event(seq, merge), lambda: method.before(seq)):
        event = leaving()
        if event is not None:
            shift = _leave(seq, event, 0, shift, recorder)
    for layer in range(seq.info.layers):
        decision = method.layer(layer, seq)
        if isinstance(decision, (Drop, Merge)):
            shift = _leave(seq, decision, layer, shift, recorder)
            decision = None
        # Position ids serve only the stock call on the untouched sequence: flash attention
        # would take gaps in them for sequence ends.
        own = extra | {"past_key_values": cache}
        if not seq.moved and plain_positions is not None:
            own["position_ids"] = plain_positions
        state = _run_routed(layer, seq, decision or Route(), own, extra, cache, recorder)
        state.shift = shift
        states.append(state)
        seq.deepen(layer)
    if cache is not None:
        cache.states = states
    if recorder is not None:
        recorder.scoring.end()
    return seq.unpacked(seq.parts.text.norm(seq.hidden))


def _leave(
    seq: RunningTokens, event: Drop | Merge, layer: int, shift: Tensor | None, recorder: Any
) -> Tensor | None:
    """Tokens leave the sequence; returns the position shift for decoding."""
    steps = torch.arange(seq.hidden.shape[1], device=seq.hidden.device).unsqueeze(0)
    positions = seq.positions
    if isinstance(event, Drop):
        keep = event.keep & seq.valid
        owner = torch.where(keep, steps, -1)
    else:
        owner = event.assign
        keep = (owner == steps) & seq.valid
        seq.hidden = folded(seq.hidden, event, seq.valid)
        along = event.same or (lambda table: folded(table, replace(event, states=None), seq.valid))
        seq.added = [along(table) for table in seq.added]
        if event.place is not None:
            positions = seq.positions.take(event.place)
    counts = event.counts if event.counts is not None else keep.sum(dim=1).tolist()
    if min(counts) == 0:
        raise EngineError("a method dropped every token of a sample")
    gaps = event.positions == "compact" and seq.moved  # left by an earlier event
    if isinstance(event, Drop) and counts == seq.counts and event.order is None and not gaps:
        return shift
    image = seq.image & keep
    picked = seq.pick(keep, counts, event.order)
    if recorder is not None:
        recorder.events.append(Event(layer, owner, picked.columns, picked.valid))
    lost = [a - b for a, b in zip(seq.counts, counts, strict=True)]
    # Only image tokens leave in every method so far; otherwise ask the device.
    if all(left <= have for left, have in zip(lost, seq.image_counts, strict=True)):
        seq.image_counts = [a - b for a, b in zip(seq.image_counts, lost, strict=True)]
    else:
        seq.image_counts = image.sum(dim=1).tolist()
    moved = seq.shrink(picked, event.positions, positions)
    if moved is None:
        return shift
    return moved if shift is None else shift + moved


def _run_routed(
    layer: int,
    seq: RunningTokens,
    route: Route,
    whole: dict[str, Any],
    part: dict[str, Any],
    cache: RoutedCache | None,
    recorder: Recorder | None,
) -> LayerState:
    """One layer over the kept tokens; the others take the residual path."""
    module = seq.parts.layers[layer]
    compact = route.positions == "compact"
    counts = route.counts
    if route.keep is None:
        counts = seq.counts
    elif counts is None:
        counts = (route.keep & seq.valid).sum(dim=1).tolist()  # a threshold rule: one question
    if recorder is not None and route.keep is not None:
        recorder.keeps[layer] = route.keep
    everything = counts == seq.counts
    if everything and not compact:
        weight, mask, rotary = route.weight, seq.mask(), seq.rotary()
        seq.hidden = run_layer(module, seq.hidden, mask, rotary, whole, weight, route.scope)
        return LayerState(None if seq.full else seq.valid)
    rest = seq.hidden
    if route.skip_scale is not None:
        rest = rest * route.skip_scale.unsqueeze(-1).to(rest.dtype)
    if max(counts) == 0:
        seq.hidden = rest
        return LayerState(None, compact)
    picked = seq.pick(seq.valid if route.keep is None else route.keep, counts)
    columns = picked.columns
    if compact:
        positions = seq.positions.numbered(seq.compact_positions(picked))
        rotary = positions.rotary(seq.parts.text, seq.hidden)
    else:
        rotary = seq.rotary_at(columns)
    weight = route.weight.gather(1, columns) if route.weight is not None else None
    x, mask = seq.gather(picked), seq.layer_mask(picked)
    own = part | {"past_key_values": cache}
    y = run_layer(module, x, mask, rotary, own, weight, route.scope)
    seq.hidden = seq.scatter(picked, y, rest, own=rest is not seq.hidden)
    return LayerState(picked.valid, compact)


# --- new tokens behind a cache --------------------------------------------------------------
def run_step(
    method: Method,
    seq: RunningTokens,
    cache: RoutedCache,
    extra: dict[str, Any],
    recorder: Recorder | None,
    ids: Tensor,
) -> Tensor:
    """One or several new tokens through every layer; returns normed states [B, q, d]."""
    keeps: dict[int, Tensor] = {}
    known: dict[Any, Any] = {}  # columns, masks and tables shared by layers of equal state
    fresh: list[LayerState] = []
    if recorder is not None:
        recorder.scoring.begin(seq, method.routes_text)
    for layer in range(seq.info.layers):
        route = method.decode(layer, seq) or Route()
        state = cache.states[layer]
        if route.keep is None:
            kept = seq.kinds.numel()
        else:
            kept = int(route.keep.sum())  # the one question a threshold rule costs a layer
            if recorder is not None:
                keeps[layer] = route.keep
        fresh.append(_step_layer(layer, seq, cache, state, route, kept, extra, known))
    cache.states = fresh
    if recorder is not None:
        recorder.steps.append((ids, keeps))
        recorder.scoring.end()
    return seq.parts.text.norm(seq.hidden)


def _step_layer(
    layer: int,
    seq: RunningTokens,
    cache: RoutedCache,
    state: LayerState,
    route: Route,
    kept: int,
    extra: dict[str, Any],
    known: dict[Any, Any],
) -> LayerState:
    x, module = seq.hidden, seq.parts.layers[layer]
    keep = route.keep if kept < seq.kinds.numel() else None
    rest = x if route.skip_scale is None else x * route.skip_scale.unsqueeze(-1).to(x.dtype)
    if kept == 0:
        seq.hidden = rest
        return state
    rows, queries = x.shape[:2]
    stored = cache.stored(layer)
    # The key holds the tensors themselves, so an id cannot be reused while it is in the table.
    key = (id(state.valid), id(state.shift), stored, state.compact, id(keep))
    if key not in known:
        past = state.valid
        if past is None and keep is not None:
            past = torch.ones(rows, stored, dtype=torch.bool, device=x.device)
        new = keep if keep is not None else torch.ones_like(x[..., 0], dtype=torch.bool)
        keys = torch.cat([past, new], dim=1) if past is not None else None
        length = stored + queries
        mask = step_mask(seq.kind, x.dtype, x.device, keys, length, queries)
        rotary = _step_rotary(seq, state, stored, past, keep)
        known[key] = (keys, mask, rotary, (state.valid, state.shift, keep))
    keys, mask, rotary, _ = known[key]
    own = extra | {"past_key_values": cache}
    y = run_layer(module, x, mask, rotary, own, route.weight, route.scope)
    seq.hidden = y if keep is None else torch.where(keep.unsqueeze(-1), y, rest)
    return LayerState(keys, state.compact, state.shift)


def _step_rotary(
    seq: RunningTokens, state: LayerState, stored: int, past: Tensor | None, keep: Tensor | None
) -> Any:
    """cos and sin for the new tokens: the running position, or this layer's own count."""
    queries = seq.hidden.shape[1]
    if state.compact:
        device = seq.hidden.device
        if keep is not None:
            steps = (keep.long().cumsum(dim=1) - 1).clamp(min=0)
        else:
            steps = torch.arange(queries, device=device).unsqueeze(0)
        held: Any = stored if past is None else past.sum(dim=1, keepdim=True)
        count = (steps + held).expand(seq.hidden.shape[0], -1)
        positions = seq.positions.numbered(count)
    elif state.shift is None:
        return seq.rotary()
    else:
        positions = seq.positions.earlier(state.shift)
    return positions.rotary(seq.parts.text, seq.hidden)
