"""Two independent counters against the closed form, on real modules of true size.

Both (`harness.cost.counters`) on the ``meta`` device, where a 7B layer takes no memory; every
figure of this module is in FLOPs, 2 per multiply-accumulate. Each distinct (layer type, queries,
keys) is counted once, up to some number of them; the others lie on the curve through those
(`Curve`). Attention is counted in full (convention ``full``); ``causal`` is half of that part.

A counter that is off by more than 0.5 % is an error. What a family has no module for has a closed
form only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harness.common.torchvision_ops import declare_missing_ops
from harness.cost.counters import count
from harness.cost.findings import Curve, Finding, described
from harness.cost.ledger import TERA, Counts, sight_of
from harness.cost.modules import (
    Alone,
    Behind,
    Distances,
    Products,
    Rows,
    Scores,
    llama_layer,
    rotary_width,
    with_experts,
)
from harness.cost.ownwork import linear_sizes, router_flops, scoring_flops, width_of
from harness.families.catalog import REGISTRY
from harness.families.shapes import ModelShape, Part
from harness.families.towers import CLIP, encoder_layer, module_of
from harness.store.columns import COUNTERS
from harness.store.record import PROJECTOR, UNKNOWN, RoutingRecord

# (queries, keys) that every model is examined at: a decode step, short and long prompts, and
# queries behind a longer cache.
SHAPES = ((1, 635), (58, 58), (634, 634), (100, 634), (2986, 2986))


class Referees:
    """Both counters on the parts of one model; nothing is counted twice.

    `decoder` makes one decoder layer without experts (on the current default device); without it,
    Llama's at the sizes of `shape`.
    """

    def __init__(self, shape: ModelShape, decoder: Callable[[], nn.Module] | None = None) -> None:
        declare_missing_ops()
        self.shape = shape
        self._decoder = decoder or (lambda: llama_layer(shape))
        self._layers: dict[tuple[int, int, bool], Finding] = {}
        self._sight: dict[tuple[str, int], tuple[float, float] | None] = {}
        self._routers: dict[tuple[Any, ...], Curve] = {}
        # Both kinds of decoder layers that the model has: without experts, and with them.
        self._prefill = {kind: self._prompt_curve(kind) for kind in sorted(set(shape.mixed))}
        self._step = {kind: self._step_curve(kind) for kind in self._prefill}

    def _prompt_curve(self, mixed: bool) -> Curve:
        nodes = (58, 634, 2986)
        return Curve(lambda n: self.layer(n, n, mixed), nodes, proof=1217)

    def _step_curve(self, mixed: bool) -> Curve:
        return Curve(partial(self.layer, 1, mixed=mixed), nodes=(1, 635), proof=2986)

    def _made(self, mixed: bool) -> nn.Module:
        with torch.device("meta"):
            layer = self._decoder()
            return Behind(with_experts(layer, self.shape) if mixed else layer)

    @cached_property
    def _modules(self) -> dict[bool, nn.Module]:
        return {mixed: self._made(mixed) for mixed in self._prefill}

    def layer(self, queries: int, keys: int, mixed: bool = False) -> Finding:
        """One decoder layer on `queries` tokens that see `keys`, themselves included.

        `mixed`: one with experts.
        """
        what = queries, keys, mixed
        if what not in self._layers:
            self._layers[what] = self._count_layer(*what)
        return self._layers[what]

    def _count_layer(self, queries: int, keys: int, mixed: bool) -> Finding:
        shape, module = self.shape, self._modules[mixed]
        with torch.device("meta"):
            hidden = torch.empty(1, queries, shape.hidden)
            angle = torch.empty(1, queries, self._turned)
            past = torch.empty(1, shape.kv_heads, keys - queries, shape.head_dim)
            # Without a mask the library takes the first `queries` keys for all there are.
            mask = torch.empty(1, 1, queries, keys, dtype=torch.bool)
        found = count(module, (hidden, angle, angle, past, mask), "llm_layer")
        attention = 4.0 * queries * keys * shape.attention_width
        closed = 2.0 * queries * shape.weights_met(mixed) + attention
        size = f"{queries} queries, {keys} keys" + (", with experts" if mixed else "")
        return Finding("llm_layer", size, closed, *found).checked()

    @cached_property
    def head(self) -> Finding:
        """The LM head on one position."""
        shape = self.shape
        with torch.device("meta"):
            head = nn.Linear(shape.hidden, shape.vocab, bias=False)
            found = count(head, (torch.empty(1, 1, shape.hidden),), "lm_head")
        return Finding("lm_head", "1 position", 2.0 * shape.head_weights, *found).checked()

    def seen(self, parts: Sequence[Part], scope: str) -> Finding | None:
        """What runs for images in one scope, by all counters; None where one has no module.

        Raises RefereeError for a part whose counters disagree.
        """
        mine = [part for part in parts if part.scope == scope and part.times]
        closed, total = 0.0, np.zeros(len(COUNTERS))
        for part in mine:
            found = self._part(part)
            if found is None or part.flops is None:
                return None
            closed += part.times * part.flops
            total += part.times * np.array(found)
        size = ", ".join(f"{p.times} x {p.name} of {p.tokens}" for p in mine)
        return Finding(scope, size, closed, *total.tolist())

    def _part(self, part: Part) -> tuple[float, float] | None:
        """Both counts of a part, once."""
        key = (part.name, part.tokens)
        if key not in self._sight:
            made = REGISTRY[self.shape.family].module(self.shape, *key)
            found = None
            if made is not None and part.flops is not None:
                module, inputs = made
                counts = count(module, inputs, part.scope)
                size = f"{part.name} of {part.tokens} tokens"
                Finding(part.scope, size, part.flops, *counts).checked()
                found = counts
            self._sight[key] = found
        return self._sight[key]

    def examine(self) -> list[Finding]:
        """Every part, the decoder layer at several sizes. Raises RefereeError."""
        layers = [self.layer(*size, mixed) for mixed in self._prefill for size in SHAPES]
        parts = REGISTRY[self.shape.family].example(self.shape)
        parts = [part for part in parts if self._part(part) is not None]
        sight = [self.seen(parts, scope) for scope in ("vision", "projector")]
        return [*(one for one in sight if one is not None), *layers, self.head]

    def described(self) -> dict[str, Any]:
        """The examination as `run.json` keeps it. Raises RefereeError."""
        return described(self.examine())

    def sample(
        self, record: RoutingRecord, vision_runs: bool = True, counts: Counts | None = None
    ) -> dict[str, dict[str, float | None]]:
        """counter -> scope -> TFLOP of one recorded sample, under the convention ``full``.

        `vision` is None where a second tower runs, which only the closed form covers, `router`
        where something ran whose sizes are not known; `counts` [L] is
        `record.processed_per_layer()` where it is known already.
        """
        parts = sight_of(self.shape, record) if vision_runs else []
        vision, projector = (self.seen(parts, scope) for scope in ("vision", "projector"))
        counts = record.processed_per_layer() if counts is None else counts
        layers, steps = self._decoder_work(counts, record)
        router, again = self._own_work(record.scoring)
        result: dict[str, dict[str, float | None]] = {}
        for counter in COUNTERS:
            head = getattr(self.head, counter)
            found = {
                "projector": getattr(projector, counter, 0.0) + again[counter],
                "llm_prefill": layers[counter] + head,
                "llm_decode": steps[counter] + head * record.n_out,
                "lm_head": head * (1 + record.n_out),
            }
            result[counter] = {scope: flops / TERA for scope, flops in found.items()}
            result[counter]["router"] = router[counter] / TERA if router else None
            seen = None if vision is None else getattr(vision, counter) / TERA
            result[counter]["vision"] = seen
        return result

    def _decoder_work(
        self, counts: Counts, record: RoutingRecord
    ) -> tuple[dict[str, float], dict[str, float]]:
        """counter -> FLOPs of all decoder layers on the prompt and on the tokens fed back."""
        prompt, fed = dict.fromkeys(COUNTERS, 0.0), dict.fromkeys(COUNTERS, 0.0)
        for mixed in self._prefill:
            rows = np.array(self.shape.mixed) == mixed
            seen = entries_seen(counts[rows], record.decode[rows])
            found = (self._prefill[mixed], counts[rows]), (self._step[mixed], seen)
            for sums, (curve, sizes) in zip((prompt, fed), found, strict=True):
                for counter, flops in curve.total(sizes).items():
                    sums[counter] += flops
        return prompt, fed

    def _own_work(
        self, scoring: list[dict[str, Any]] | None
    ) -> tuple[dict[str, float] | None, dict[str, float]]:
        """counter -> FLOPs of what the method computed, and of those in the projector.

        The first is None where a part of it is not known.
        """
        total, again = dict.fromkeys(COUNTERS, 0.0), dict.fromkeys(COUNTERS, 0.0)
        for call in scoring or ():
            if call["kind"] == UNKNOWN:
                continue
            what = (call["kind"], *self._sizes(call))
            if what not in self._routers:
                at = partial(self._count_router, what)
                square = call["kind"] in ("mean_row", "tower_rows", "encoder")
                nodes = (58, 634, 2986) if square else (58, 634)
                self._routers[what] = Curve(at, nodes, proof=1217)
            sums = again if call["kind"] == PROJECTOR else total
            for counter, flops in self._routers[what].total(np.array([call["tokens"]])).items():
                sums[counter] += flops * call["calls"]
        known = router_flops(self.shape, scoring) is not None
        return (total if known else None), again

    def _sizes(self, call: Mapping[str, Any]) -> tuple[int, int]:
        """The widths that a call of this kind depends on."""
        if call["kind"] == "linear":
            return linear_sizes(self.shape, call)
        names = [call[name] for name in ("width", "ffn") if name in call]
        first, second = (*(width_of(self.shape, name) for name in names), 0, 0)[:2]
        return first, second

    def _count_router(self, what: tuple[str, int, int], tokens: int) -> Finding:
        """One call of a kind of ``scoring`` over `tokens`."""
        kind, size, out = what
        shape = self.shape
        with torch.device("meta"):
            if kind == "linear":
                module: nn.Module = nn.Linear(size, out)
                inputs: tuple[Any, ...] = (torch.empty(1, tokens, size),)
            elif kind == "tower_rows":
                module = Scores()
                inputs = (torch.empty(1, tokens, shape.vision.hidden),) * 2
            elif kind == PROJECTOR:
                module, inputs = module_of(shape, "projector", tokens)
            elif kind == "encoder":
                module = Alone(encoder_layer(CLIP, size, out))
                inputs = (torch.empty(1, tokens, size),)
            elif kind in ("product", "distance"):
                module = Products() if kind == "product" else Distances()
                inputs = (torch.empty(tokens, 1, size), torch.empty(tokens, size, 1))
            else:
                asked = tokens if kind == "mean_row" else 1
                module = self._rows
                states = [torch.empty(1, n, shape.hidden) for n in (asked, tokens)]
                turns = [torch.empty(1, n, self._turned) for n in (asked, tokens)]
                inputs = (*states, *turns, torch.empty(1, 1, asked, tokens, dtype=torch.bool))
        found = count(module, inputs, "router")
        call = {"kind": kind, "tokens": tokens}
        call |= {"in": size, "out": out} if kind == "linear" else {"width": size, "ffn": out}
        closed = scoring_flops(shape, call)
        return Finding("router", f"{kind}, {tokens} tokens", closed, *found).checked()

    @cached_property
    def _rows(self) -> Rows:
        with torch.device("meta"):
            return Rows(self._decoder(), self.shape.head_dim)

    @cached_property
    def _turned(self) -> int:
        return rotary_width(self._rows.attention, self.shape.head_dim)


def entries_seen(counts: Counts, decode: NDArray[np.bool_]) -> Counts:
    """Cache entries that each processed decode token meets, itself included, over these layers."""
    return (counts[:, None] + np.cumsum(decode, axis=1))[decode]


@lru_cache(maxsize=32)
def referees_for(shape: ModelShape, decoder: Callable[[], nn.Module] | None = None) -> Referees:
    """The counters on one model, the same object for all in this process that ask for it.

    Examining a model takes seconds, and no sample changes what they say of another one.
    """
    return Referees(shape, decoder)
