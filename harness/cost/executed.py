"""Counts the matrix products that a model really executes, whoever asked for them.

A dispatch mode sees every operator below the modules, so nothing has to be declared: products,
convolutions, attention kernels (all of n^2, whatever their mask) and pairwise distances. Element by
element arithmetic counts nothing, as in `harness.cost.ledger`; nor does the product inside the
rotary embedding, which the ledger leaves out by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from harness.cost.findings import RefereeError
from harness.cost.ledger import TERA
from harness.cost.ownwork import DISTANCE
from harness.engine.model import find_parts
from harness.engine.shadow import shadowed

aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    pairs = query.shape[:-1].numel() * key.shape[-2]
    return int(2 * pairs * (query.shape[-1] + value.shape[-1]))


def _distances(left: Any, right: Any, *_: Any, **__: Any) -> int:
    return int(DISTANCE * left.shape.numel() * right.shape[-2])


# Operators that torch's own counter has no formula for, or not for every device.
OWN: dict[Any, Callable[..., int]] = {
    aten.mv: lambda a, b: 2 * a.numel(),
    aten.addmv: lambda c, a, b, **_: 2 * a.numel(),
    aten.dot: lambda a, b: 2 * a.numel(),
    aten._cdist_forward: _distances,
    aten._euclidean_dist: _distances,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
}

# What a fused operator without a formula has in its name.
HEAVY = ("mm", "matmul", "conv", "attention", "encoder_layer", "linear", "dist")


class Executed(TorchDispatchMode):
    """FLOPs of all matrix products while it is open, by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.by_operator: dict[str, int] = {}
        self.paused = False

    @property
    def tflops(self) -> float:
        return sum(self.by_operator.values()) / TERA

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        name = packet.__name__
        if self.paused:
            return out
        if packet in OWN or packet in flop_registry:
            if packet in OWN:
                flops = OWN[packet](*args, **kwargs)
            else:
                flops = flop_registry[packet](*args, **kwargs, out_val=out)
            self.by_operator[name] = self.by_operator.get(name, 0) + flops
        elif any(word in name for word in HEAVY) and "upsample" not in name:
            raise RefereeError(f"the operator '{name}' multiplies matrices in a way nobody counts")
        return out


@contextmanager
def executed(model: Any) -> Iterator[Executed]:
    """Count what runs while the context is open; `model` is the LLaVA-family model that runs."""
    watch, rotary = Executed(), find_parts(model).text.rotary_emb
    original = rotary.forward

    def turned(*args: Any, **kwargs: Any) -> Any:
        watch.paused = True
        try:
            return original(*args, **kwargs)
        finally:
            watch.paused = False

    with shadowed(rotary, "forward", turned), watch:
        yield watch
