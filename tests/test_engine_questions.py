"""What a routed pass asks of the device: every answer is a wait that leaves a GPU idle."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import methods
from harness.engine import routed
from tests.routing_tools import ROWS, random_modules
from tests.tiny import batch, tiny_llava

FIXED = ("dense", "mod", "pmod", "fastv", "llavolta", "random", "uniform", "pyramiddrop")
FIXED += ("illava:vit_remove=0",)
# These ask where the images stand, once; PruMerge how many patches stand out and what that leaves.
TOWER = {"fastervlm": 1, "visionzip": 1, "scope": 1, "prumerge:tokens=4": 1, "prumerge": 3}
TOWER |= {"illava": 1}
ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}


class Questions(TorchDispatchMode):
    """Counts operators whose result the host has to wait for, and copies to Python lists."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.lists = patch.object(torch.Tensor, "tolist", self._counted(torch.Tensor.tolist))

    def _counted(self, tolist: Any) -> Any:
        def counted(tensor: torch.Tensor) -> Any:  # on a CPU it passes the dispatcher by
            self.asked["tolist"] += 1
            return tolist(tensor)

        return counted

    def __enter__(self) -> Questions:
        self.lists.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.lists.stop()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        if name in ASKING:
            self.asked[name] += 1
        return func(*args, **(kwargs or {}))


def questions(spec: str, rows: Any, depth: int) -> tuple[int, int]:
    """(in prefill, in a decode step) of one prompt under a method."""
    model = tiny_llava(layers=depth)
    method = methods.parse(spec)
    inputs = batch(model, rows)
    with torch.no_grad(), routed(model, method, random_modules(method, model), record=False) as run:
        run.set_samples([str(i) for i in range(len(rows))])
        with Questions() as prefill:
            found = model(**inputs, use_cache=True, logits_to_keep=1)
        token = torch.full((len(rows), 1), 7)
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(token)], dim=1)
        with Questions() as step:
            model(input_ids=token, attention_mask=mask, past_key_values=found.past_key_values)
    return prefill.asked.total(), step.asked.total()


@pytest.mark.parametrize("spec", [*FIXED, *TOWER])
def test_known_counts_ask_nothing_more_at_any_depth(spec):
    few, many = questions(spec, ROWS, 5), questions(spec, ROWS, 9)
    assert few == many
    # llavolta asks once where the images stand; random draws on the host, a list a row; whether
    # fastv's scores are finite is asked on a CPU alone.
    own = (TOWER | {"llavolta": 1, "random": len(ROWS), "fastv": 1}).get(spec, 0)
    assert few[0] == questions("dense", ROWS, 5)[0] + own


def test_a_threshold_rule_asks_once_a_routed_layer():
    few, many = questions("gamma:layers=all", ROWS, 5), questions("gamma:layers=all", ROWS, 9)
    assert (many[0] - few[0], many[1] - few[1]) == (4, 4)
