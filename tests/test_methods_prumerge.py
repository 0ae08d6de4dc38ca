"""PruMerge and PruMerge+: against plain loops and the guards of the fact sheet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import methods
from tests.tower_tools import (
    CASES,
    events,
    one_crop,
    tokens_of,
)


# --- PruMerge
def prumerge(attention: Any, places: Any, spec: str, kept: int) -> tuple[list[int], bool]:
    """(patches in order, is there an extra token) by the description; ``kept`` with a budget."""
    method = methods.parse(spec)
    patches = sorted(places)
    falling = sorted(patches, key=lambda p: (-np.float32(attention[p]), p))
    n = len(patches)
    if method.tokens is None:
        first, third = np.percentile(attention[patches], [25, 75])
        limit = third + method.iqr * (third - first)
        k = max(1, sum(bool(attention[p] > limit) for p in patches))
        chosen = falling[:k]
        if method.plus:
            step = max(1, int(int(1 / (k / n)) / 3))
            chosen += [patches[i] for i in range(0, n - 1, step) if patches[i] not in chosen]
        return chosen, len(chosen) < n
    spaced = max(0, kept - 1) // 2 if method.plus else 0
    chosen = falling[: max(0, kept - 1) - spaced]
    rest = [p for p in patches if p not in chosen]
    chosen += [rest[int((i + 0.5) * len(rest) / spaced)] for i in range(spaced)]
    return chosen, kept > 0


@pytest.mark.parametrize(("make", "feed"), CASES)
@pytest.mark.parametrize(
    "spec",
    [
        "prumerge",
        "prumerge:iqr=0.1:plus=1",
        "prumerge:iqr=0:neighbours=5",
        "prumerge:iqr=0.6:plus=1:neighbours=3",
        "prumerge:tokens=12",
        "prumerge:tokens=27:plus=1:neighbours=4",
    ],
)
def test_prumerge_equals_loops_over_patches(spec, make, feed):
    model = make()
    method = methods.parse(spec)
    seq, event, _ = events(spec, model, feed(model))
    lines: dict[int, list[Any]] = {}
    for crop, places in zip(seq.crops, tokens_of(seq), strict=True):
        query, keys = (t.numpy().astype(float) for t in crop.taps[-1])
        line = np.exp(query[0] @ keys.T / np.sqrt(keys.shape[1]))
        attention = (line / line.sum())[1:]
        x, keys = crop.states.numpy().astype(float)[1:], keys[1:]
        keys = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        b = next(iter(places.values()))[0]
        slots = [p for p in places if int(event.assign[places[p]]) == places[p][1]]
        chosen, extra = prumerge(attention, places, spec, len(slots))
        assert len(slots) == len(chosen) + extra
        states = []
        for p in chosen:
            others = sorted((q for q in places if q != p), key=lambda q: -keys[p] @ keys[q])
            near = others[: method.neighbours]
            states.append(x[p] + sum(attention[q] * x[q] for q in near))
        if extra:
            states.append(sum(attention[q] * x[q] for q in places if q not in chosen))
        with torch.no_grad():
            new = torch.tensor(np.array(states)).to(model.dtype).view(-1, x.shape[1])
            lines.setdefault(b, []).append(model.model.multi_modal_projector(new))
    columns = torch.arange(seq.index.shape[1])
    for b in range(len(event.assign)):
        mine = columns[event.assign[b] == columns]
        mine = mine[event.order[b][mine].argsort()]
        assert event.counts is None or len(mine) == event.counts[b]  # None: the device knows
        image = mine[seq.image[b][mine]]
        if b in lines:
            torch.testing.assert_close(event.states[b][image], torch.cat(lines[b]))
        text = mine[~seq.image[b][mine]]
        assert torch.equal(event.states[b][text], seq.hidden[b][text])


def counted(k: int, n: int = 576, plus: bool = True) -> int:
    """Tokens left of a crop whose class token singles out ``k`` patches."""
    rng = np.random.default_rng(0)
    attention = np.full(n, 1.0)
    attention[rng.permutation(n)[:k]] = 2 + np.arange(k)
    seq = one_crop(rng.normal(size=(n + 1, 2)), rng.normal(size=(n + 1, 2)), attention.tolist())
    (assign,) = methods.parse(f"prumerge:iqr=0:plus={int(plus)}").before(seq).assign
    return int((assign == torch.arange(n)).sum())


def test_prumerge_spacing_and_guards():
    """int(1 / rho) with rho in floating point is the whole quotient; t = 5, 2, 1 as published."""
    assert all(int(1 / (k / 576)) == 576 // k for k in range(1, 577))
    assert counted(36, plus=False) == 37
    assert len(range(0, 575, 5)) == 115
    assert counted(36) == len({*range(0, 575, 5), *_top(36)}) + 1
    assert counted(96) == len({*range(0, 575, 2), *_top(96)}) + 1
    assert counted(97) == 576  # t = 1: all but perhaps the last, which is the extra token
    assert counted(0, plus=False) == 2  # no outlier: one patch all the same
    assert counted(0) == 3 + 1  # 0, 192, 384 and the extra token


def _top(k: int) -> list[int]:
    rng = np.random.default_rng(0)
    return rng.permutation(576)[:k].tolist()


def test_more_than_a_quarter_cannot_stand_out():
    """So t = 0 (k > 192 of 576), where the release stops, is out of reach."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.choice([0.0, 1.0, 5.0], 576) * rng.random(576)
        assert (values > np.percentile(values, 75)).sum() <= 144
