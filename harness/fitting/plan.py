"""Choose a method's layers from the ARank of the model that training starts from (γ-MoD's rule)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

import methods
from harness.common.errors import UsageError
from harness.layers.states import TOP, arank, dense_layers
from methods.base import Method


def wants_plan(method: Method, plan: str) -> bool:
    """Whether the layers of `method` are to be chosen: a recipe says `plan`, and no layers by name.

    Raises UsageError for a method whose layers cannot be.
    """
    if not plan:
        return False
    if not method.plans_layers:
        why = "it does not declare plans_layers"
        raise UsageError(f"plan {plan}: the layers of {method.name} cannot be chosen: {why}")
    if "layers" not in method.params():
        raise UsageError(f"plan {plan}: {method.name} plans_layers, and has no `layers`")
    return bool(method.params()["layers"] == type(method)().params()["layers"])


def staged(stages: Sequence[str], method: Method, plan: str) -> tuple[str, ...]:
    """Specs of the stages, with the layers of the planned `method` in those of the same name that
    name none themselves."""
    found = []
    for spec in stages:
        stage = methods.parse(spec)
        if stage.name == method.name and wants_plan(stage, plan):
            layers = method.params()["layers"]
            spec = dataclasses.replace(stage, layers=layers).spec  # type: ignore[call-arg]
        found.append(spec)
    return tuple(found)


@torch.no_grad()
def by_arank(
    model: Any, prompts: Callable[[], Iterable[dict[str, Any]]], dense: int = TOP
) -> dict[str, Any]:
    """``layers`` (`0+1+3`): all but the ``dense`` ones of highest ARank, and what was measured.

    ARank is the released code's (``probs``), over single prompts; the paper's (``logits``) is
    measured beside it.
    """
    training = model.training
    model.eval()
    scores = {name: arank(model, prompts(), name) for name in ("probs", "logits")}
    model.train(training)
    kept = {name: dense_layers(s, dense) for name, s in scores.items()}
    depth = scores["probs"].shape[1]
    return {
        "layers": "+".join(str(i) for i in range(depth) if i not in kept["probs"]),
        "dense_layers": kept["probs"],
        "dense_layers_by_logits": kept["logits"],
        "arank": {name: s.mean(0).round(decimals=2).tolist() for name, s in scores.items()},
        "samples": len(scores["probs"]),
    }
