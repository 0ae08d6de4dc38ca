"""Attention received stands in for a class token's: SigLIP towers, against the library's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import methods
from tests.routing_tools import ROWS
from tests.test_engine_families import siglip
from tests.tiny import batch
from tests.tower_tools import best, events

SIDE = 12  # patches: windows of 6 x 6


@pytest.fixture(scope="module")
def model() -> Any:
    return siglip(side=SIDE, attn="eager").double()


@pytest.fixture(scope="module")
def inputs(model: Any) -> Any:
    rows = [(before, [SIDE**2] * len(images), after) for before, images, after in ROWS]
    return batch(model, rows)


def seen(model: Any, inputs: Any, layer: int) -> tuple[Any, Any]:
    """Of every image, attention received [P] and keys [P, h] of a tower layer, heads' mean."""
    tower = model.model.vision_tower
    with torch.no_grad():
        out = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
        block = tower.encoder.layers[layer]
        states = out.hidden_states[layer if layer >= 0 else len(tower.encoder.layers) + layer]
        keys = block.self_attn.k_proj(block.layer_norm1(states))
    heads = block.self_attn.num_heads
    return out.attentions[layer].mean((1, 2)), keys.unflatten(-1, (heads, -1)).mean(2)


def columns_of(seq: Any) -> list[tuple[int, int]]:
    """Row and first column of every image."""
    return [(b, grid["start"]) for b, grids in enumerate(seq.grids) for grid in grids]


def test_visionzip_keeps_the_most_attended_and_merges_behind_the_projector(
    model: Any, inputs: Any
) -> None:
    seq, event, _ = events("visionzip:dominant=100:contextual=60", model, inputs)
    given, keys = seen(model, inputs, -1)
    n = SIDE**2
    for (b, start), score, key in zip(columns_of(seq), given, keys, strict=True):
        count = round(160 * n / 576)
        merged = round(count * 60 / 160)
        dominant = best(score.numpy(), range(n), count - merged)
        rest = [p for p in range(n) if p not in dominant]
        targets = rest[:: len(rest) // merged][:merged]
        unit = key / key.norm(dim=1, keepdim=True)
        joined: dict[int, list[int]] = {t: [] for t in targets}
        for p in rest:
            if p not in joined:
                joined[max(targets, key=lambda t: float(unit[t] @ unit[p]))].append(p)
        x = seq.hidden[b, start : start + n]
        for p in range(n):
            into = int(event.assign[b, start + p]) - start
            expected = p if p in dominant or p in targets else None
            assert into == expected if expected is not None else p in joined[into]
        for t, members in joined.items():
            mean = x[members].mean(0) if members else 0
            torch.testing.assert_close(event.states[b, start + t], x[t] + mean)
    assert event.order is None  # raster


def test_vscan_takes_windows_of_one_layer_and_the_best_of_the_last(model: Any, inputs: Any) -> None:
    seq, event, _ = events("vscan:keep=200:later=50:local=1", model, inputs)
    (local, _), (whole, _) = seen(model, inputs, 1), seen(model, inputs, -1)
    n = SIDE**2
    for (b, start), near, far in zip(columns_of(seq), local, whole, strict=True):
        count = round(200 * n / 576)
        chosen: list[int] = []
        for cell in range(4):
            places = [p for p in range(n) if p // SIDE // 6 * 2 + p % SIDE // 6 == cell]
            chosen += best(near.numpy(), places, count // 2 // 4)
        rest = [p for p in range(n) if p not in chosen]
        chosen = sorted(chosen + best(far.numpy(), rest, count - len(chosen)))
        into = event.assign[b, start : start + n].numpy() - start
        np.testing.assert_array_equal(np.flatnonzero(into == np.arange(n)), chosen)


@pytest.mark.parametrize(
    "spec", ["visionzip:dominant=100:contextual=60", "vscan:keep=200:later=50"]
)
def test_records_are_as_long_as_asked(spec: str, model: Any, inputs: Any) -> None:
    method = methods.parse(spec)
    _, _, records = events(spec, model, inputs)
    for record, (_, images, _) in zip(records, ROWS, strict=True):
        first = round((160 if method.name == "visionzip" else 200) * SIDE**2 / 576)
        assert record.processed_per_layer(2)[0] == first * len(images)
