"""The worked example, and passes of one batch, for the tests of methods that pick by likeness."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from harness.engine import routed
from harness.families.tiny import Clip
from methods import parse
from methods.base import IMAGE

# The worked example of all these methods: features of eight tokens.
X = [[4, 0, 0, 1], [4, 1, 0, 1], [3, 0, 1, 0], [0, 4, 0, 1]]
X += [[0, 4, 1, 1], [0, 0, 4, 0], [1, 0, 4, 1], [1, 1, 1, 4]]
PICKERS = ["divprune:keep=0.3", "divprune:keep=0.3:space=crop:newlines=keep"]
PICKERS += ["cdpruner:keep=200", "cdpruner:relevance=words:keep=200", "mmtok:keep=200"]
SPECS = [*PICKERS, "sparsevlm", "sparsevlm:version=2"]


def states(rows: Any) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def everywhere(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def run(model: Any, inputs: Any, spec: str, questions: Any = None, **options: Any) -> Any:
    """Logits and records of one pass."""
    options.setdefault("clip", Clip(model))
    with torch.no_grad(), routed(model, parse(spec), **options) as run:
        names = [f"doc {i}" for i in range(len(inputs["input_ids"]))]
        run.set_samples(names, questions)
        return model(**inputs).logits, run.records()


def kept(record: Any, layer: int = -1) -> list[int]:
    """Image columns of a record that a layer processes."""
    return np.nonzero(record.keep[layer] & (record.kinds == IMAGE))[0].tolist()


def sizes(record: Any) -> list[tuple[int, int]]:
    """(tokens, newlines) of each image of a record."""
    found: list[list[int]] = []
    for grid in record.grid:
        if grid["kind"] == "base":
            found.append([0, 0])
        found[-1][0] += grid["rows"] * (grid["cols"] + grid["newline"])
        found[-1][1] += grid["rows"] * grid["newline"]
    return [(n, lines) for n, lines in found]


# --- DivPrune
