"""Two independent counters against the closed form, on real modules of true size.

fvcore traces a module, torch's own counter watches it run; both on the ``meta`` device, where a
7B layer takes no memory. fvcore counts multiply-accumulates, doubled here; every figure of this
module is in FLOPs, 2 per multiply-accumulate. Each distinct (layer type, queries, keys) is counted
once. Attention is counted in full (convention ``full``); ``causal`` is half of that part.

Both counters give an operator that they do not know a zero. Here such an operator is an error
unless it is known to be light (element by element, a copy, a norm), and so is a counter that is
off by more than 0.5 %. LLaVA-HR's second tower has a closed form only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from harness.cost.ledger import TERA, Counts, crop_count, projector_flops, vision_flops
from harness.cost.modules import Behind, Unmasked, clip_layer, llama_layer
from harness.cost.shapes import ModelShape
from harness.errors import HarnessError
from harness.model.torchvision_ops import declare_missing_ops
from harness.record import RoutingRecord

TOLERANCE = 0.005
COUNTERS = ("fvcore", "torch")
# (queries, keys) that every model is examined at: a decode step, short and long prompts, and
# queries behind a longer cache.
SHAPES = ((1, 635), (58, 58), (634, 634), (100, 634), (2986, 2986))

NORMS = ("layer_norm", "batch_norm", "group_norm", "instance_norm")
LIGHT = {
    *("add", "mul", "div", "sub", "neg", "pow", "rsqrt", "mean", "silu", "gelu", "sigmoid", "tanh"),
    *("cat", "copy", "_to_copy", "clone", "_unsafe_view", "where", "ones", "zeros", "tril"),
    *("scalar_tensor", "softmax", "_softmax", "_safe_softmax", "native_layer_norm", "empty"),
    *("arange", "repeat_interleave"),
}


class RefereeError(HarnessError):
    """A counter met an operator it does not know, or the counters disagree."""


@dataclass(frozen=True)
class Finding:
    """One scope at one size: FLOPs by the closed form and by both counters."""

    scope: str  # vision, projector, llm_layer, lm_head
    size: str
    closed_form: float
    fvcore: float
    torch: float

    @property
    def difference(self) -> float:
        """The larger of both relative differences to the closed form."""
        return max(abs(x / self.closed_form - 1) for x in (self.fvcore, self.torch))

    def checked(self) -> Finding:
        """Itself; RefereeError when a counter is off by more than `TOLERANCE`."""
        if self.difference > TOLERANCE:
            raise RefereeError(
                f"FLOPs of {self.scope} at {self.size} disagree by {self.difference:.1%}: closed "
                f"form {self.closed_form:.6g}, fvcore {self.fvcore:.6g}, torch {self.torch:.6g}"
            )
        return self


def described(findings: Sequence[Finding]) -> dict[str, Any]:
    """What `run.json` keeps of an examination (JSON-able): FLOPs of each part, three times."""
    return {
        "unit": "FLOP",
        "tolerance": TOLERANCE,
        "largest_difference": max(one.difference for one in findings),
        "checked": [
            f"{f.scope}, {f.size}: closed form {f.closed_form:.9g}, fvcore {f.fvcore:.9g}, "
            f"torch {f.torch:.9g}"
            for f in findings
        ],
    }


def count(module: nn.Module, inputs: tuple[Any, ...], scope: str) -> tuple[float, float]:
    """FLOPs of `module(*inputs)` by fvcore and by torch.

    Raises RefereeError naming the operator that one of them cannot count.
    """
    analysis = FlopCountAnalysis(module.eval(), inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention)
    for norm in NORMS:  # fvcore would count five FLOPs an element; no ledger here counts norms
        analysis.set_op_handle(f"aten::{norm}", _nothing)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    watch = _Watch()
    with torch.no_grad():
        macs = float(analysis.total())
        for name in analysis.unsupported_ops():
            _refuse_heavy(name.removeprefix("aten::").rstrip("_"), "fvcore", scope)
        with FlopCounterMode(display=False) as counter, watch:
            module(*inputs)
    for name in watch.unknown:
        _refuse_heavy(name, "torch.utils.flop_counter", scope)
    return 2 * macs, float(counter.get_total_flops())


def _refuse_heavy(name: str, counter: str, scope: str) -> None:
    if name not in LIGHT:
        raise RefereeError(f"FLOPs of {scope}: {counter} cannot count the operator '{name}'")


def _attention(inputs: list[Any], outputs: list[Any]) -> float:
    """Multiply-accumulates of scaled-dot-product attention: scores and values, all of q x k."""
    query, key, value = (get_shape(one) for one in inputs[:3])
    assert query is not None and key is not None and value is not None
    pairs = float(np.prod(query[:-1])) * key[-2]
    return pairs * (query[-1] + value[-1])


def _nothing(inputs: list[Any], outputs: list[Any]) -> float:
    return 0.0


class _Watch(TorchDispatchMode):
    """Collects operators that torch's counter has no formula for and that are not plainly light."""

    def __init__(self) -> None:
        super().__init__()
        self.unknown: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        light = func.is_view or torch.Tag.pointwise in func.tags
        if func._overloadpacket not in flop_registry and not light:
            self.unknown.add(func._overloadpacket.__name__.rstrip("_"))
        return func(*args, **(kwargs or {}))


class Referees:
    """Both counters on the parts of one model; nothing is counted twice.

    `decoder` makes one decoder layer (on the current default device); without it, Llama's at the
    sizes of `shape`.
    """

    def __init__(self, shape: ModelShape, decoder: Callable[[], nn.Module] | None = None) -> None:
        declare_missing_ops()
        self.shape = shape
        self._decoder = decoder or (lambda: llama_layer(shape))
        self._layers: dict[tuple[int, int], Finding] = {}

    @cached_property
    def _layer(self) -> nn.Module:
        with torch.device("meta"):
            return Behind(self._decoder())

    def layer(self, queries: int, keys: int) -> Finding:
        """One decoder layer on `queries` tokens that see `keys`, themselves included."""
        if (queries, keys) not in self._layers:
            self._layers[queries, keys] = self._count_layer(queries, keys)
        return self._layers[queries, keys]

    def _count_layer(self, queries: int, keys: int) -> Finding:
        shape = self.shape
        with torch.device("meta"):
            hidden = torch.empty(1, queries, shape.hidden)
            angle = torch.empty(1, queries, shape.head_dim)
            past = torch.empty(1, shape.kv_heads, keys - queries, shape.head_dim)
            # Without a mask the library takes the first `queries` keys for all there are.
            mask = torch.empty(1, 1, queries, keys, dtype=torch.bool)
        found = count(self._layer, (hidden, angle, angle, past, mask), "llm_layer")
        closed = 2.0 * queries * shape.layer_weights + 4.0 * queries * keys * shape.attention_width
        size = f"{queries} queries, {keys} keys"
        return Finding("llm_layer", size, closed, *found).checked()

    @cached_property
    def head(self) -> Finding:
        """The LM head on one position."""
        shape = self.shape
        with torch.device("meta"):
            head = nn.Linear(shape.hidden, shape.vocab, bias=False)
            found = count(head, (torch.empty(1, 1, shape.hidden),), "lm_head")
        return Finding("lm_head", "1 position", 2.0 * shape.head_weights, *found).checked()

    @cached_property
    def projector(self) -> Finding:
        """The projector on one crop."""
        shape, patches = self.shape, self.shape.vision.patches
        with torch.device("meta"):
            first = nn.Linear(shape.projector_in, shape.hidden)
            module = nn.Sequential(first, nn.GELU(), nn.Linear(shape.hidden, shape.hidden))
            found = count(module, (torch.empty(1, patches, shape.projector_in),), "projector")
        size = f"{patches} patches"
        return Finding("projector", size, projector_flops(shape), *found).checked()

    @cached_property
    def tower(self) -> Finding:
        """The CLIP-type tower on one crop: patch embedding and every layer."""
        vision = self.shape.vision
        tokens = vision.patches + vision.class_tokens
        # torch 2.13 cannot trace a convolution on the meta device; this one is small.
        patches = nn.Conv2d(vision.channels, vision.hidden, vision.patch, vision.patch, bias=False)
        image = torch.zeros(1, vision.channels, vision.image_size, vision.image_size)
        embed = count(patches, (image,), "vision")
        with torch.device("meta"):
            states = torch.empty(1, tokens, vision.hidden)
            layer = count(Unmasked(clip_layer(self.shape)), (states,), "vision")
        found = [e + vision.layers * one for e, one in zip(embed, layer, strict=True)]
        size = f"{tokens} tokens, {vision.layers} layers"
        return Finding("vision", size, vision_flops(vision), *found).checked()

    def examine(self) -> list[Finding]:
        """Every part, the decoder layer at several sizes. Raises RefereeError."""
        layers = [self.layer(queries, keys) for queries, keys in SHAPES]
        return [self.tower, self.projector, *layers, self.head]

    def sample(self, record: RoutingRecord, vision_runs: bool = True) -> dict[str, dict[str, Any]]:
        """counter -> scope -> TFLOP of one recorded sample, under the convention ``full``.

        `vision` is None where a second tower runs, which only the closed form covers.
        """
        grid, n_image = record.grid, record.n_image
        crops = crop_count(grid, self.shape.vision, n_image) if vision_runs else 0
        counts = record.processed_per_layer()
        result = {}
        for counter in COUNTERS:
            tower = crops * getattr(self.tower, counter) / TERA
            head = getattr(self.head, counter)
            layers = sum(getattr(self.layer(n, n), counter) for n in counts.tolist() if n)
            decode = self._decode(counts, record, counter) + head * record.n_out
            result[counter] = {
                "vision": tower if self.shape.second_tower == 0 or not crops else None,
                "projector": crops * getattr(self.projector, counter) / TERA,
                "llm_prefill": (layers + head) / TERA,
                "llm_decode": decode / TERA,
            }
        return result

    def _decode(self, counts: Counts, record: RoutingRecord, counter: str) -> float:
        """All fed tokens: the cost of one query is a straight line in the keys it sees.

        The line goes through the smallest and the largest number of keys; one in the middle is
        counted too and must lie on it.
        """
        steps = record.decode
        if not steps.any():
            return 0.0
        seen = (counts[:, None] + np.cumsum(steps, axis=1))[steps]
        low, high = int(seen.min()), int(seen.max())
        at = {keys: getattr(self.layer(1, keys), counter) for keys in (low, high)}
        slope = (at[high] - at[low]) / (high - low) if high > low else 0.0
        middle = (low + high) // 2
        line, found = at[low] + slope * (middle - low), getattr(self.layer(1, middle), counter)
        if abs(line / found - 1) > TOLERANCE:
            raise RefereeError(f"llm_layer at 1 query, {middle} keys: {counter} is not linear")
        return float(seen.size * at[low] + slope * (seen - low).sum())
