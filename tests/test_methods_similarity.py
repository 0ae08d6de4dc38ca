"""Methods that pick image tokens by likeness: published examples, plain references, layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.engine import routed
from harness.model.tiny import any_resolution_inputs as any_resolution
from methods import MethodError, divprune, parse
from methods.base import IMAGE
from methods.picking import split
from tests.routing_tools import ROWS
from tests.tiny import batch, tiny_llava, tiny_llava_next

# The worked example of all these methods: features of eight tokens.
X = [[4, 0, 0, 1], [4, 1, 0, 1], [3, 0, 1, 0], [0, 4, 0, 1]]
X += [[0, 4, 1, 1], [0, 0, 4, 0], [1, 0, 4, 1], [1, 1, 1, 4]]
SPECS = ["divprune:keep=0.3", "divprune:keep=0.3:space=crop:newlines=keep"]


def states(rows: Any) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def everywhere(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def run(model: Any, inputs: Any, spec: str, questions: Any = None, **options: Any) -> Any:
    """Logits and records of one pass."""
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
def test_divprune_picks_in_the_published_order() -> None:
    x = states(X)
    assert divprune.pick(x, everywhere(x), 8)[0].tolist() == [7, 5, 2, 3, 1, 6, 0, 4]
    assert parse("divprune").kept(576) == 56


def test_divprune_never_repeats_equal_tokens() -> None:
    x = states([[1, 2, 3]] * 8)
    assert divprune.pick(x, everywhere(x), 4)[0].tolist() == [0, 1, 2, 3]


def naive_divprune(x: np.ndarray, k: int) -> list[int]:
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    d = 1 - x @ x.T
    n = len(x)
    picks = [int(np.argmax([np.sort(np.delete(d[i], i))[0] for i in range(n)]))]
    while len(picks) < k:
        worth = [-9.0 if j in picks else min(d[i, j] for i in picks) for j in range(n)]
        picks.append(int(np.argmax(worth)))
    return picks


def test_divprune_against_a_plain_reference_in_a_ragged_batch() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(3, 20, 6))
    there = torch.arange(20) < torch.tensor([[20], [13], [17]])
    picks = divprune.pick(torch.tensor(x) * there.unsqueeze(-1), there, 9)
    for i, n in enumerate((20, 13, 17)):
        assert picks[i].tolist() == naive_divprune(x[i, :n], 9)


# --- all of them
def test_shares_add_up_and_stay_within_the_crops() -> None:
    assert split(320, [576] * 5) == [64] * 5
    assert split(7, [4, 4, 2]) == [3, 3, 1]
    assert split(3, [0, 3, 0]) == [0, 3, 0]
    for total in range(20):
        parts = split(total, [3, 7, 1, 8])
        assert sum(parts) == total
        assert all(a <= b for a, b in zip(parts, [3, 7, 1, 8], strict=True))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_a_ragged_batch_is_its_rows(spec: str, attn: str) -> None:
    model = tiny_llava(attn=attn, dtype=torch.float64)
    inputs = batch(model, ROWS)
    _, together = run(model, inputs, spec)
    first = 0
    for i, (_, images, _) in enumerate(ROWS):
        real = inputs["attention_mask"][i].bool()
        single = {k: inputs[k][i][real][None] for k in ("input_ids", "attention_mask")}
        if images:
            single["pixel_values"] = inputs["pixel_values"][first : first + len(images)]
        first += len(images)
        with torch.no_grad(), routed(model, parse(spec)) as one:
            one.set_samples([f"doc {i}"])
            model(**single)
            (alone,) = one.records()
        assert (alone.keep == together[i].keep).all()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("amount", ["tokens=7", "ratio=0.25", "kv=0.5"])
@pytest.mark.parametrize("tiles", [False, True])
def test_budgets_are_met_exactly(spec: str, amount: str, tiles: bool) -> None:
    name = spec.partition(":")[0]
    rest = [p for p in spec.split(":")[1:] if not p.startswith("keep")]
    method = parse(":".join([name, *rest, amount]))
    if tiles:
        model = tiny_llava_next(dtype=torch.float64)
        inputs = any_resolution(model, [(20, 30), (32, 14)])
    else:
        model = tiny_llava(dtype=torch.float64)
        inputs = batch(model, ROWS)
    _, records = run(model, inputs, method.spec)
    for record in records:
        always = "newlines=keep" in spec
        wanted = [max(round(method.target(n)), lines * always) for n, lines in sizes(record)]
        assert len(kept(record)) == sum(wanted)


@pytest.mark.parametrize("spec", SPECS)
def test_everything_kept_is_dense_with_tiles_too(spec: str) -> None:
    model = tiny_llava_next()
    inputs = any_resolution(model, [(20, 30), (16, 60)])
    with torch.no_grad():
        plain = model(**inputs).logits
    rest = [p for p in spec.split(":") if not p.startswith("keep")]
    logits, _ = run(model, inputs, ":".join([*rest, "ratio=1.0"]))
    assert torch.equal(plain, logits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("divprune:keep=2", "divprune: keep=2.0 is outside 0..1"),
        ("divprune:ratio=0.5:kv=0.5", "divprune: ratio and kv exclude each other"),
    ],
)
def test_bad_input_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(MethodError, match="^" + message):
        parse(text)
