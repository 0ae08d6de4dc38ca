"""Crops made by hand, and naive picks, for the tests of methods that read the vision tower."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import methods
from harness.engine import routed
from harness.families.tiny import any_resolution_inputs as any_resolution
from methods.base import Crop, ModelInfo
from tests.routing_tools import (
    ROWS,
)
from tests.tiny import batch, tiny_llava, tiny_llava_next

SIZES = [(20, 30), (32, 14)]


class FakeCrop(Crop):
    """A crop whose class token's attention is given."""

    def cls_row(self, layer: int) -> torch.Tensor:
        return self.taps[layer][0].repeat(self.heads, 1)


def one_crop(states: Any, keys: Any, attention: Any) -> Any:
    """A sequence of one crop's patches and no text; the projector changes nothing."""
    states, keys = torch.tensor(states).double(), torch.tensor(keys).double()
    n = len(states) - 1
    tap = (torch.tensor([attention]).double(), keys)
    columns = torch.arange(n)[None]
    grid = {"kind": "base", "rows": 1, "cols": n, "crops": 1, "tiles": (1, 1), "newline": False}
    return SimpleNamespace(
        hidden=states[None, 1:],
        kinds=torch.full((1, n), 2),
        valid=torch.ones(1, n, dtype=torch.bool),
        crops=[FakeCrop(states, {-1: tap, -2: tap}, 1)],
        origins=columns,
        index=columns,
        grids=[[grid | {"start": 0, "image_start": 0, "image_length": n}]],
        counts=[n],
        image_counts=[n],
        project=lambda x: x,
        note=lambda *_: None,
        noted_as=nullcontext,
        info=ModelInfo(32, 4, 1, 1, 4, 24),
        memo={},
    )


def survivors(seq: Any, event: Any) -> list[list[float]]:
    """States that are left of ``one_crop`` after a Merge, in their order."""
    columns = torch.arange(event.assign.shape[1])
    kept = columns[event.assign[0] == columns]
    if event.order is not None:
        kept = kept[event.order[0][kept].argsort()]
    assert event.counts in (None, [len(kept)])
    return event.states[0][kept].tolist()


def events(spec: str, model: Any, inputs: Any) -> tuple[Any, Any, Any]:
    """The decision before layer 0 of a real pass, what it saw, and the records."""
    method = methods.parse(spec)
    seen: list[Any] = []
    original = type(method).before

    def before(self: Any, seq: Any) -> Any:
        event = original(self, seq)
        facts = ("hidden", "counts", "valid", "image", "crops", "origins", "grids", "index")
        seen.append((SimpleNamespace(**{f: getattr(seq, f) for f in facts}), event))
        return event

    spy = patch.object(type(method), "before", before)
    with torch.no_grad(), spy, routed(model, method) as run:
        model(**inputs)
        return (*seen[0], run.records())


CASES = [
    pytest.param(lambda: tiny_llava(side=6), lambda m: batch(m, big(ROWS)), id="ragged"),
    pytest.param(
        lambda: tiny_llava(side=6, attn="eager"), lambda m: batch(m, big(ROWS)), id="eager"
    ),
    pytest.param(tiny_llava_next, lambda m: any_resolution(m, SIZES), id="tiles"),
]


def big(rows: Any) -> Any:
    return [(before, [36] * len(images), after) for before, images, after in rows]


def tokens_of(seq: Any) -> list[dict[int, tuple[int, int]]]:
    """Per crop: patch -> (row, column) of its token."""
    per_crop = seq.crops[0].states.shape[0] - 1
    found: list[dict[int, tuple[int, int]]] = [{} for _ in seq.crops]
    for b, line in enumerate(seq.origins.tolist()):
        for column, origin in enumerate(line):
            if origin >= 0:
                found[origin // per_crop][origin % per_crop] = (b, column)
    return found


def best(scores: Any, candidates: Any, k: int) -> list[int]:
    order = sorted(candidates, key=lambda p: (-np.float32(scores[p]), p))
    return sorted(order[:k])


# --- budgets
