"""FasterVLM, VisionZip and SCOPE: against plain loops and the papers' own figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import methods
from harness.engine import routed
from harness.families.tiny import any_resolution_inputs as any_resolution
from tests.routing_tools import (
    ROWS,
)
from tests.tiny import batch, tiny_llava, tiny_llava_next
from tests.tower_tools import (
    CASES,
    SIZES,
    best,
    big,
    events,
    one_crop,
    survivors,
    tokens_of,
)


@pytest.mark.parametrize("name", ["fastervlm", "scope", "mmtok"])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_every_method_splits_a_budget_over_crops_by_their_tokens(name, share):
    """One rule for all: each crop within one token of its share, and the image's sum exact."""
    model = tiny_llava_next()
    seq, event, _ = events(f"{name}:ratio={share}", model, any_resolution(model, SIZES))
    crops = iter(tokens_of(seq))
    for row in seq.grids:
        for grid in row:
            if grid["kind"] == "base":
                tokens = round(share * grid["image_length"])
                groups: list[list[Any]] = []
            groups += [list(next(crops).values()) for _ in range(grid["crops"])]
            if grid["start"] + grid["rows"] * (grid["cols"] + grid["newline"]) < (
                grid["image_start"] + grid["image_length"]
            ):
                continue
            kept = [int(sum(event.keep[place] for place in places)) for places in groups]
            total = sum(map(len, groups))
            assert sum(kept) == tokens
            for count, places in zip(kept, groups, strict=True):
                assert abs(count - tokens * len(places) / total) < 1


TOWER = ["fastervlm", "visionzip", "prumerge", "prumerge:plus=1", "scope"]


@pytest.mark.parametrize("name", TOWER)
@pytest.mark.parametrize("tokens", [0, 1, 2, 5, 17, 35, 36])
def test_a_budget_of_tokens_is_met_exactly(name, tokens):
    model = tiny_llava(side=6)
    _, _, records = events(f"{name}:tokens={tokens}", model, batch(model, big(ROWS)))
    for record, (_, images, _) in zip(records, ROWS, strict=True):
        kept = record.processed_per_layer(2)
        assert set(kept.tolist()) == {tokens * len(images)}


@pytest.mark.parametrize("name", TOWER)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_ratio_counts_all_crops_of_an_image(name, share):
    model = tiny_llava_next()
    seq, _, (record,) = events(f"{name}:kv={share}", model, any_resolution(model, SIZES))
    wanted: dict[int, int] = {}
    patches: dict[int, int] = {}
    for g in seq.grids[0]:
        wanted[g["image_start"]] = round(g["image_length"] * share)
        patches[g["image_start"]] = patches.get(g["image_start"], 0) + g["rows"] * g["cols"]
    total = sum(min(wanted[i], patches[i]) for i in wanted)
    assert set(record.processed_per_layer(2).tolist()) == {total}


@pytest.mark.parametrize("name", TOWER)
def test_keeping_everything_keeps_newlines_too(name):
    model = tiny_llava_next()
    inputs = any_resolution(model, SIZES)
    with torch.no_grad():
        plain = model(**inputs).logits
        with routed(model, methods.parse(f"{name}:ratio=1")):
            assert torch.equal(plain, model(**inputs).logits)


# --- FasterVLM
@pytest.mark.parametrize(("make", "feed"), CASES)
@pytest.mark.parametrize("spec", ["fastervlm", "fastervlm:keep=300:tower=-1", "fastervlm:tokens=9"])
def test_fastervlm_keeps_the_top_of_its_score(spec, make, feed):
    model = make()
    method = methods.parse(spec)
    seq, event, _ = events(spec, model, feed(model))
    expected = (seq.valid & ~seq.image).numpy().copy()
    found = tokens_of(seq)
    for c, places in enumerate(found):
        k = round(method.keep * (seq.crops[0].states.shape[0] - 1) / 576)
        if method.tokens is not None:  # of an image; how crops share it is tested above
            k = int(sum(event.keep[place] for place in places.values()))
        scores = seq.crops[c].cls_row(method.tower).mean(0).numpy()
        for p in best(scores, places, k):
            expected[places[p]] = True
    np.testing.assert_array_equal(event.keep.numpy(), expected)
    assert event.counts == event.keep.sum(1).tolist()


def test_fastervlm_is_visionzip_without_class_token_and_context():
    model = tiny_llava(side=6)
    inputs = batch(model, big(ROWS))
    _, dropped, _ = events("fastervlm:tokens=8", model, inputs)
    seq, merged, _ = events("visionzip:tokens=9:contextual=0", model, inputs)
    columns = torch.arange(seq.index.shape[1])
    kept = merged.assign == columns
    untouched = (merged.states == seq.hidden).all(-1)
    assert torch.equal(kept & untouched & seq.valid, dropped.keep)


# --- VisionZip
def test_visionzip_published_counts():
    method = methods.parse("visionzip")
    assert [method.parts(k) for k in (192, 128, 64, 32)] == [
        (162, 30), (108, 20), (54, 10), (27, 5),
    ]  # fmt: skip
    for kept, (others, stride) in {192: (415, 13), 128: (469, 23), 64: (523, 52)}.items():
        first, merged = method.parts(kept)
        assert (577 - first, (577 - first) // merged) == (others, stride)


def test_visionzip_on_the_worked_example():
    keys = [[1, 0], [1, 0], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1], [1, 0.2], [0.1, 1]]
    attention = [0.05, 0.30, 0.02, 0.03, 0.20, 0.04, 0.06, 0.01]
    seq = one_crop([[float(i), 1.0] for i in range(9)], keys, attention)
    event = methods.parse("visionzip:tokens=5:dominant=3:contextual=2").before(seq)
    assert survivors(seq, event) == [[0, 1], [2, 1], [5, 1], [6.5, 2], [11.5, 2]]


@pytest.mark.parametrize(("make", "feed"), CASES)
def test_visionzip_equals_loops_and_the_order_of_the_release(make, feed):
    model = make()
    spec = "visionzip:dominant=180:contextual=90"
    seq, event, _ = events(spec, model, feed(model))
    project = model.model.multi_modal_projector
    per_crop = seq.crops[0].states.shape[0] - 1
    groups: list[list[Any]] = []  # one a crop: class state, [(place, state)], [contextual states]
    for crop, places in zip(seq.crops, tokens_of(seq), strict=True):
        kept = min(len(places), round(270 * per_crop / 576))
        merged = round(kept / 3)
        x, keys = crop.states.numpy(), crop.taps[-2][1].numpy()
        keys = keys.reshape(len(keys), crop.heads, -1).mean(1)
        keys = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        dominant = best(crop.cls_row(-2).sum(0).numpy(), places, kept - merged - 1)
        rest = [p for p in sorted(places) if p not in dominant]
        targets = rest[:: max(1, len(rest) // merged)][:merged]
        joined: dict[int, list[int]] = {t: [] for t in targets}
        for p in rest:
            if p not in joined:
                joined[max(targets, key=lambda t: float(keys[t + 1] @ keys[p + 1]))].append(p)
        context = []
        for t, members in joined.items():
            mean = x[[p + 1 for p in members]].mean(0) if members else 0
            context.append(torch.from_numpy(x[t + 1] + mean))
        with torch.no_grad():
            groups.append(
                [
                    project(crop.states[:1]),
                    [(places[p], seq.hidden[places[p]]) for p in dominant],
                    project(torch.stack(context).to(model.dtype)),
                ]
            )
    columns = torch.arange(seq.index.shape[1])
    for b, length in enumerate(event.counts):
        mine = columns[event.assign[b] == columns]
        mine = mine[event.order[b][mine].argsort()]
        assert len(mine) == length
        expected = _layout(seq, b, groups)
        torch.testing.assert_close(event.states[b][mine], torch.stack(expected))


def _layout(seq: Any, b: int, groups: Any) -> list[torch.Tensor]:
    """The states of row b after VisionZip: text where it was, each image as the release has it."""
    crop = sum(g["crops"] for r in seq.grids[:b] for g in r)
    line: list[torch.Tensor] = []
    columns, column = seq.index.shape[1], 0
    starts: dict[int, list[Any]] = {}
    for g in seq.grids[b]:
        starts.setdefault(g["image_start"], []).append(g)
    while column < columns:
        if column not in starts:
            if seq.valid[b, column]:
                line.append(seq.hidden[b, column])
            column += 1
            continue
        for g in starts[column]:
            own = groups[crop : crop + g["crops"]]
            raster = sorted((p for _, d, _ in own for p in d), key=lambda pair: pair[0])
            dominant = [state for _, state in raster]
            classes = [c for cls, _, _ in own for c in cls]
            context = [c for _, _, ctx in own for c in ctx]
            both = [*dominant, *classes] if g["kind"] == "tile" else [*classes, *dominant]
            line += [*both, *context]
            crop += g["crops"]
        column += starts[column][0]["image_length"]
    return line


# --- SCOPE
X = [[4, 0, 0, 1], [4, 1, 0, 1], [3, 0, 1, 0], [0, 4, 0, 1]]
X += [[0, 4, 1, 1], [0, 0, 4, 0], [1, 0, 4, 1], [1, 1, 1, 4]]
LOOKS = [0.05, 0.1, 0.3, 0.1, 0.05, 0.2, 0.1, 0.1]


def test_scope_picks_on_the_worked_example():
    for k in range(1, 5):
        seq = one_crop([[0] * 4, *X], [[0] * 4] * 9, LOOKS)
        event = methods.parse(f"scope:tokens={k}").before(seq)
        assert torch.nonzero(event.keep[0]).flatten().tolist() == sorted([2, 5, 3, 7][:k])


def test_scope_picks_distinct_patches_of_a_blank_image():
    for k in range(9):
        seq = one_crop([[1.0] * 4] * 9, [[0] * 4] * 9, [0.125] * 8)
        event = methods.parse(f"scope:tokens={k}").before(seq)
        assert event is None if k == 8 else int(event.keep.sum()) == k


@pytest.mark.parametrize(("make", "feed"), CASES)
@pytest.mark.parametrize("spec", ["scope:keep=200", "scope:tokens=12:alpha=0.5"])
def test_scope_equals_loops(spec, make, feed):
    model = make()
    method = methods.parse(spec)
    seq, event, _ = events(spec, model, feed(model))
    expected = (seq.valid & ~seq.image).numpy().copy()
    for crop, places in zip(seq.crops, tokens_of(seq), strict=True):
        x = crop.states.numpy().astype(float)[1:]
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        weight = crop.cls_row(-2).sum(0).numpy().astype(float) ** method.alpha
        covered, chosen = dict.fromkeys(places, 0.0), []
        for _ in range(int(sum(event.keep[place] for place in places.values()))):
            gains = {
                j: weight[j] * sum(max(0.0, x[i] @ x[j] - covered[i]) for i in places)
                for j in places
                if j not in chosen
            }
            chosen.append(max(gains, key=lambda j: gains[j]))
            covered = {i: max(covered[i], x[i] @ x[chosen[-1]]) for i in places}
        for p in chosen:
            expected[places[p]] = True
    np.testing.assert_array_equal(event.keep.numpy(), expected)
