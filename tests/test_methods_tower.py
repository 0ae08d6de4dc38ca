"""Methods that choose by the vision tower, or in stages: against plain numpy and the papers."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import methods
from harness.engine import routed
from harness.model.tiny import any_resolution_inputs as any_resolution
from methods.base import Crop
from methods.tower import split
from tests import naive
from tests.routing_tools import (
    IMAGES,
    ROWS,
    exact_norms,
    forced,
    naive_sample,
    with_positions,
)
from tests.tiny import batch, row, tiny_llava, tiny_llava_next

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
def test_a_budget_is_split_evenly_as_far_as_crops_last():
    assert split(320, [576] * 5) == [64] * 5
    assert split(7, [4, 1, 4]) == [3, 1, 3]
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(0, 9, rng.integers(1, 6)).tolist()
        total = int(rng.integers(0, sum(sizes) + 1))
        parts = split(total, sizes)
        assert sum(parts) == total
        assert all(p <= s for p, s in zip(parts, sizes, strict=True))
        full = [p for p, s in zip(parts, sizes, strict=True) if p < s]
        assert not full or max(full) - min(full) <= 1


TOWER = ["fastervlm", "visionzip", "prumerge", "prumerge:plus=1", "scope"]


@pytest.mark.parametrize("name", TOWER)
@pytest.mark.parametrize("tokens", [0, 1, 2, 5, 17, 35, 36, 1000])
def test_a_budget_of_tokens_is_met_exactly(name, tokens):
    model = tiny_llava(side=6)
    _, _, records = events(f"{name}:tokens={tokens}", model, batch(model, big(ROWS)))
    for record, (_, images, _) in zip(records, ROWS, strict=True):
        kept = record.processed_per_layer(2)
        assert set(kept.tolist()) == {min(tokens, 36) * len(images)}


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
    for b, length in enumerate(event.counts):
        mine = columns[event.assign[b] == columns]
        mine = mine[event.order[b][mine].argsort()]
        assert len(mine) == length
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
    (counts,) = methods.parse(f"prumerge:iqr=0:plus={int(plus)}").before(seq).counts
    return counts


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


# --- PyramidDrop
def test_pyramiddrop_published_counts():
    method = methods.parse("pyramiddrop")
    assert method.stages(32) == (8, 16, 24)
    assert method.stages(40) == (10, 20, 30)
    assert method.kept(576, 1, 32) == [288, 144, 72]
    assert (576 + 288 + 144 + 72) / 4 == 270
    assert method.kept(2880, 1, 32) == [1440, 720, 360]


@pytest.mark.parametrize("tokens", [150, 192, 270, 288, 400, 500, 576])
@pytest.mark.parametrize("layers", ["", ":layers=2+6+15", ":layers=8+16+31"])
def test_pyramiddrop_meets_a_budget_in_the_layer_mean(tokens, layers):
    method = methods.parse(f"pyramiddrop:tokens={tokens}{layers}")
    counts = method.kept(576, 1, 32)
    bounds = (*method.stages(32), 32)
    total = 576 * bounds[0] + sum(
        k * (b - a) for k, (a, b) in zip(counts, pairwise(bounds), strict=True)
    )
    assert abs(total / 32 - tokens) <= 0.5
    assert counts == sorted(counts, reverse=True)


def test_pyramiddrop_keeps_the_published_ratios_at_their_own_mean():
    assert methods.parse("pyramiddrop:tokens=270").kept(576, 1, 32) == [288, 144, 72]
    assert methods.parse("pyramiddrop:tokens=64").kept(576, 1, 32) == [0, 0, 0]


@pytest.mark.parametrize("spec", ["pyramiddrop", "pyramiddrop:positions=original:tokens=20"])
@pytest.mark.parametrize("i", range(4))
def test_pyramiddrop_equals_the_reference(spec, i):
    model = exact_norms(tiny_llava(side=6, layers=6, dtype=torch.float64))
    inputs = batch(model, big(ROWS))
    answer = torch.randint(3, 50, (4, 3), generator=torch.Generator().manual_seed(5))
    method = methods.parse(spec)
    with torch.no_grad(), routed(model, method) as run:
        mine = forced(model, with_positions(inputs), answer)[i]
        record = run.records()[i]
        sample = naive_sample(model, row(inputs, i, IMAGES[i]), answer[i], "")
        reference = naive.Naive(model, sample)
        counts = method.kept(len(sample.image), len(IMAGES[i]), 6)
        left = sample.image
        for layer in range(6):
            if layer in method.stages(6):
                scores = reference.probabilities(layer, reference.alive, reference.position)
                k = counts[method.stages(6).index(layer)]
                left = reference.best(scores.mean(0)[sample.prompt - 1], left, k)
                naive._leave(reference, left, method.positions)
            reference.run_layer(layer)
        torch.testing.assert_close(mine, reference.logits(), rtol=0, atol=1e-9)
    active = torch.stack(reference.active).numpy()
    np.testing.assert_array_equal(record.keep, active[:, : record.n])


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


# --- iLLaVA, language half
def test_illava_weights_on_the_worked_example():
    seq = one_crop(np.eye(11, 10, k=-1), np.zeros((11, 10)), [0.1] * 10)
    seq.image, seq.info = seq.valid, SimpleNamespace(layers=2)
    ranking = [3, 0, 9, 5, 1, 7, 8, 2, 6, 4]  # token of rank 1, 2, ...
    scores = torch.zeros(1, 10)
    scores[0, ranking] = torch.arange(10, 0, -1).float()
    for name, weights in (("as_released", [1, 2, 3, 4]), ("descending", [4, 3, 2, 1])):
        seq.memo = {"illava": scores}
        event = methods.parse(f"illava:k=1:weights={name}").layer(1, seq)
        assert event.counts == [7]
        assert (event.assign[0, ranking[6:]] == ranking[6]).all()
        assert event.assign[0, ranking[:6]].tolist() == ranking[:6]
        torch.testing.assert_close(
            event.weight[0, ranking[6:]], torch.tensor(weights).double() / 10
        )
        assert (event.weight[0, ranking[:6]] == 1).all()


def test_illava_layers_and_refusal():
    method = methods.parse("illava")
    assert [method.at(depth) for depth in (28, 32, 40, 12, 5)] == [8, 8, 8, 3, 1]
    assert method.removed(10, 1, 32) == 3
    with pytest.raises(methods.MethodError, match=r"^illava: merging inside the tower is not here"):
        methods.parse("illava:vit_remove=92")


@pytest.mark.parametrize("spec", ["illava", "illava:k=2:tokens=20:weights=descending"])
@pytest.mark.parametrize("i", range(4))
def test_illava_equals_the_reference(spec, i):
    model = exact_norms(tiny_llava(side=6, layers=6, dtype=torch.float64))
    inputs = batch(model, big(ROWS))
    answer = torch.randint(3, 50, (4, 3), generator=torch.Generator().manual_seed(5))
    method = methods.parse(spec)
    with torch.no_grad(), routed(model, method) as run:
        mine = forced(model, with_positions(inputs), answer)[i]
        record = run.records()[i]
        sample = naive_sample(model, row(inputs, i, IMAGES[i]), answer[i], "")
        reference = naive.Naive(model, sample)
        image, k = sample.image, method.at(6)
        r = round(len(image) * 0.3)
        if method.tokens is not None:
            r = len(image) - round((20 * len(IMAGES[i]) * 6 - len(image) * k) / (6 - k))
        for layer in range(6):
            if layer == k - 1:
                rows = reference.probabilities(layer, reference.alive, reference.position)
                scores = rows.mean(0)[sample.prompt - 1]
            if layer == k and image:
                low = reference.best(scores, image, len(image))[-(r + 1) :]
                weights = torch.arange(1, r + 2).double() / ((r + 1) * (r + 2) / 2)
                if method.weights == "descending":
                    weights = weights.flip(0)
                reference.x[low[0]] = (weights[:, None] * reference.x[low]).sum(0)
                reference.alive[low[1:]] = False
            reference.run_layer(layer)
        torch.testing.assert_close(mine, reference.logits(), rtol=0, atol=1e-9)
    active = torch.stack(reference.active).numpy()
    np.testing.assert_array_equal(record.keep, active[:, : record.n])
