"""Merges patches inside the vision tower where a method asks for it, and keeps the books.

Every crop loses equally many patches, so the crops of a batch stay one tensor. Tower layers behind
a merge, and the projector, run on fewer tokens. The model's own code then gets its full number of
features, those of a merged patch repeated; before layer 0 of the language model all but one of
their tokens leave.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.engine.model import EngineError, Parts, feature_layer
from harness.engine.reading import take
from harness.engine.shadow import shadowed
from methods.base import Merge, Method, MethodError, Seen
from methods.crop import received


@dataclass
class TowerMerge:
    """What became of the patches in one pass of the tower."""

    patches: int  # of a crop, before any merge
    class_tokens: int  # that stand before them
    tokens: list[int] = field(default_factory=list)  # that leave each layer, class token included
    asked: list[int] = field(default_factory=list)  # tokens of each layer that was read
    owner: Tensor | None = None  # [C, P] long: running patch that each patch went into
    index: Tensor | None = None  # [C, p] long: the patch that each running one was

    @property
    def left(self) -> int:
        """Patches of a crop that reach the projector."""
        return self.tokens[-1] - self.class_tokens if self.tokens else self.patches

    def slots(self) -> Tensor:
        """[C, P] long: the patch in whose place each one is now."""
        assert self.owner is not None and self.index is not None
        return self.index.gather(1, self.owner)

    def begin(self) -> None:
        """A new pass."""
        self.tokens, self.asked, self.owner, self.index = [], [], None, None

    def fold(self, states: Tensor, event: Merge) -> Tensor:
        """Carry out a method's answer on states [C, c + p, w]."""
        first = self.class_tokens
        kept = set(event.counts or ())
        if len(kept) != 1:
            raise EngineError("inside the tower every crop must keep equally many patches")
        steps = torch.arange(states.shape[1] - first, device=states.device).expand_as(event.assign)
        stays = event.assign == steps
        columns = (~stays).to(torch.uint8).argsort(dim=1, stable=True)[:, : kept.pop()]
        place = torch.full_like(steps, 0).scatter(
            1, columns, steps[:, : columns.shape[1]]
        )  # running patch -> its new number
        own = place.gather(1, event.assign)
        self.owner = own if self.owner is None else own.gather(1, self.owner)
        self.index = columns if self.index is None else self.index.gather(1, columns)
        merged = folded(states[:, first:], event, torch.ones_like(stays))
        return torch.cat([states[:, :first], take(merged, columns)], dim=1)


@contextmanager
def merging(parts: Parts, method: Method) -> Iterator[TowerMerge | None]:
    """While open, the tower merges what ``method`` says; None where it never does."""
    chosen = method.merge_layers(parts.info)
    if not chosen:
        yield None
        return
    layers = parts.tower_layers
    if layers is None:
        raise EngineError("this vision tower has no CLIP-type layers to merge patches in")
    last = feature_layer(parts)
    if max(chosen) > last:
        raise MethodError(
            f"{method.name}: tower layer {max(chosen)} lies behind what the projector reads, "
            f"the output of layer {last}"
        )
    notes = TowerMerge(parts.info.tower_side**2, parts.info.class_tokens)
    projector = parts.projector
    with ExitStack() as stack:
        start = parts.tower.register_forward_pre_hook(lambda *_: notes.begin())
        stack.callback(start.remove)
        for number, layer in enumerate(layers):
            if number in chosen:
                asked = functools.partial(_layer, parts, method, notes, number)
                stack.enter_context(shadowed(layer, "forward", asked))
            note = layer.register_forward_hook(
                lambda _module, _inputs, out: notes.tokens.append(_states(out).shape[1])
            )
            stack.callback(note.remove)
        spread = functools.partial(_project, notes, projector.forward)
        stack.enter_context(shadowed(projector, "forward", spread))
        yield notes


def tower_event(seq: Any, notes: TowerMerge | None) -> Merge | None:
    """The tokens of patches that the tower merged leave; None where there are none.

    The merged token stands where its slot's token stood. One whose slot is in the padding that the
    model cuts off has no place and is lost; how many these are, only the device knows.
    """
    if notes is None or notes.owner is None or not any(seq.image_counts):
        return None
    origins, slots = seq.origins, notes.slots()
    total = slots.numel()
    first = torch.arange(len(slots), device=slots.device).unsqueeze(1) * notes.patches
    columns = torch.arange(origins.shape[1], device=origins.device).expand_as(origins)
    where = torch.where(origins >= 0, origins, total)
    places = columns.new_full((total + 1,), -1).scatter(0, where.flatten(), columns.flatten())
    target = places[(slots + first).flatten()][origins.clamp(min=0)]
    assign = torch.where(origins >= 0, target, columns).masked_fill(~seq.valid, -1)
    crops = [sum(grid["crops"] for grid in grids) for grids in seq.grids]
    tokens = [sum(grid["rows"] * grid["cols"] for grid in grids) for grids in seq.grids]
    whole = all(t == c * notes.patches for t, c in zip(tokens, crops, strict=True))
    gone = [c * (notes.patches - notes.left) for c in crops]
    left = [have - g for have, g in zip(seq.counts, gone, strict=True)]
    return Merge(assign, left if whole else None, states=seq.hidden, positions="compact")


def folded(hidden: Tensor, event: Merge, valid: Tensor) -> Tensor:
    """States after a merge, meaningful at the slots."""
    if event.states is not None:
        return event.states
    takes = (event.assign >= 0) & valid
    target = event.assign.clamp(min=0)
    weight = torch.ones_like(hidden[..., 0]) if event.weight is None else event.weight
    weight = (weight * takes).to(torch.promote_types(hidden.dtype, torch.float32))
    if event.weight is None:
        total = torch.zeros_like(weight).scatter_add(1, target, weight)
        weight = weight / total.gather(1, target).clamp(min=1)
    parts = hidden * weight.unsqueeze(-1)
    where = target.unsqueeze(-1).expand_as(parts)
    return torch.zeros_like(parts).scatter_add(1, where, parts).to(hidden.dtype)


def _layer(
    parts: Parts,
    method: Method,
    notes: TowerMerge,
    number: int,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """A tower layer whose patches may merge between its attention and its MLP."""
    assert parts.tower_layers is not None
    layer = parts.tower_layers[number]
    found: dict[str, Tensor] = {}

    def keep(name: str, _module: Any, _inputs: Any, output: Tensor) -> None:
        found[name] = output.detach()

    with ExitStack() as stack:
        for name in ("q_proj", "k_proj"):
            module = getattr(layer.self_attn, name)
            hook = module.register_forward_hook(functools.partial(keep, name))
            stack.callback(hook.remove)
        attended = layer.self_attn(
            hidden_states=layer.layer_norm1(hidden_states), attention_mask=attention_mask, **kwargs
        )[0]
    states = hidden_states + attended
    heads = int(parts.model.config.vision_config.num_attention_heads)
    given = received(found["q_proj"], found["k_proj"], heads)[:, notes.class_tokens :]
    notes.asked.append(states.shape[1])
    event = method.merge_patches(number, Seen(states, given, notes.patches, parts.info))
    if event is not None:
        states = notes.fold(states, event)
    return states + layer.mlp(layer.layer_norm2(states))


def _project(notes: TowerMerge, original: Any, features: Tensor) -> Tensor:
    """The projector on the patches that are left, its answers at all places they came from."""
    made = original(features)
    if notes.owner is None:
        return made
    return take(made, notes.owner)


def _states(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
