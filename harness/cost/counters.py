"""FLOPs of one module by two counters of others: fvcore and torch.

fvcore traces a module, torch's own counter watches it run. fvcore counts multiply-accumulates,
doubled here. Both give an operator that they do not know a zero: here such an operator is an error
unless it is known to be light (element by element, a copy, a norm).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from harness.cost.findings import RefereeError
from harness.cost.ownwork import DISTANCE

NORMS = ("layer_norm", "batch_norm", "group_norm", "instance_norm")
LIGHT = {
    *("add", "mul", "div", "sub", "neg", "pow", "rsqrt", "mean", "silu", "gelu", "sigmoid", "tanh"),
    *("cat", "copy", "_to_copy", "clone", "_unsafe_view", "where", "ones", "zeros", "tril"),
    *("scalar_tensor", "softmax", "_softmax", "_safe_softmax", "native_layer_norm", "empty"),
    *("arange", "repeat", "repeat_interleave", "promote_types", "unflatten"),
}


def count(module: nn.Module, inputs: tuple[Any, ...], scope: str) -> tuple[float, float]:
    """FLOPs of `module(*inputs)` by fvcore and by torch.

    Raises RefereeError naming the operator that one of them cannot count.
    """
    analysis = FlopCountAnalysis(module.eval(), inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention)
    analysis.set_op_handle("aten::cdist", _distances)
    for norm in NORMS:  # fvcore would count five FLOPs an element; no ledger here counts norms
        analysis.set_op_handle(f"aten::{norm}", _nothing)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    watch = _Watch()
    with torch.no_grad():
        macs = float(analysis.total())
        for name in analysis.unsupported_ops():
            _refuse_heavy(name.removeprefix("aten::").rstrip("_"), "fvcore", scope)
        with FlopCounterMode(display=False, custom_mapping=TORCH_DISTANCES) as counter, watch:
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


def _distances(inputs: list[Any], outputs: list[Any]) -> float:
    """Half of `DISTANCE` FLOPs a number, as multiply-accumulates are doubled."""
    left, right = (get_shape(one) for one in inputs[:2])
    assert left is not None and right is not None
    return DISTANCE / 2 * float(np.prod(left)) * right[-2]


def _torch_distances(left: Any, right: Any, *_: Any, **__: Any) -> int:
    return int(DISTANCE * np.prod(left)) * int(right[-2])


# Neither counter knows pairwise distances: both get the ledger's rule.
TORCH_DISTANCES = {torch.ops.aten._cdist_forward: _torch_distances}


def _nothing(inputs: list[Any], outputs: list[Any]) -> float:
    return 0.0


class _Watch(TorchDispatchMode):
    """Collects operators that torch's counter has no formula for and that are not plainly light."""

    def __init__(self) -> None:
        super().__init__()
        self.unknown: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        light = func.is_view or torch.Tag.pointwise in func.tags
        known = func._overloadpacket in flop_registry or func._overloadpacket in TORCH_DISTANCES
        if not known and not light:
            self.unknown.add(func._overloadpacket.__name__.rstrip("_"))
        return func(*args, **(kwargs or {}))
