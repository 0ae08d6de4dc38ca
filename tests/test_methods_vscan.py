"""VScan: against plain loops, the paper's counts, and its budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import methods
from harness.engine import routed
from harness.families.tiny import any_resolution_inputs as any_resolution
from harness.store.record import IMAGE as IMAGE_KIND
from methods.base import Crop, ModelInfo
from tests.routing_tools import ROWS
from tests.tiny import IMAGE, batch, tiny_llava, tiny_llava_next
from tests.tower_tools import CASES, SIZES, best, big, events, one_crop, tokens_of


def test_layers_and_counts_as_published() -> None:
    """ "64": 96 tokens in layers 0 to 15, 32 in 16 to 31; layers 5 and 22 of the tower."""
    info = ModelInfo(32, 8, 2, 2, 4, 24)
    method = methods.parse("vscan:tokens=64")
    seq, (n, k) = crop(24, np.arange(576), np.arange(576)), (576, method.at(32))
    assert (k, methods.parse("vscan").taps(info)) == (16, (5, -2))
    for spec in ("vscan", "vscan:tokens=64", "vscan:kv=0.1111"):
        seq.memo = {}
        assert methods.parse(spec).before(seq).counts == [96]
    assert method.behind(n, 1, k, 32, 96) == 32
    assert (96 * 16 + 32 * 16) / 32 == 64
    for tokens, first in ((192, 288), (128, 192)):
        seq.memo = {}
        assert methods.parse(f"vscan:tokens={tokens}").before(seq).counts == [first]


def crop(side: int, local: Any, whole: Any) -> Any:
    """One crop whose class token's attention is given in layer 5 and in the last but one."""
    n = side * side
    seq = one_crop(
        np.random.default_rng(0).normal(size=(n + 1, 6)), np.zeros((n + 1, 6)), [0.0] * n
    )
    rows = {5: torch.tensor(local)[None].double(), -2: torch.tensor(whole)[None].double()}

    class Both(Crop):
        def cls_row(self, layer: int) -> torch.Tensor:
            return rows[layer]

    seq.crops = [Both(seq.crops[0].states, {}, 1)]
    seq.grids[0][0] |= {"rows": side, "cols": side}
    seq.spans = [[(0, n)]]
    return seq


@pytest.mark.parametrize("tokens", [64, 70, 100, 3])
def test_windows_first_then_the_best_of_the_rest(tokens: int) -> None:
    """On made-up scores: every window gives its best by one layer, the other layer fills up."""
    rng = np.random.default_rng(tokens)
    local, whole = rng.permutation(576), rng.permutation(576)
    seq = crop(24, local, whole)
    event = methods.parse(f"vscan:keep={tokens}:later=1").before(seq)
    chosen: set[int] = set()
    for down in range(4):
        for right in range(4):
            cells = [(6 * down + y) * 24 + 6 * right + x for y in range(6) for x in range(6)]
            ranked = sorted(cells, key=lambda p: -local[p])
            chosen |= set(ranked[: tokens // 2 // 16])
    rest = sorted(set(range(576)) - chosen, key=lambda p: -whole[p])
    chosen |= set(rest[: tokens - len(chosen)])
    columns = torch.arange(576)
    assert set(columns[event.assign[0] == columns].tolist()) == chosen


WIDE = [
    pytest.param(
        lambda: tiny_llava(side=12),
        lambda m: batch(m, [(3, [144], 4), (2, [], 5), (2, [144, 144], 2)]),
        id="windows",
    ),
    pytest.param(
        lambda: tiny_llava_next(side=12),
        lambda m: next_inputs(m, [(48, 90), (60, 96)]),
        id="windows of un-padded tiles",
    ),
]


def next_inputs(model: Any, sizes: Any) -> Any:
    """``any_resolution`` for crops of 48 pixels a side."""
    pixels = torch.randn((len(sizes), 5, 3, 48, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model.model.get_image_features(pixels, torch.tensor(sizes), return_dict=True)
    ids = torch.tensor([[1, 7, *[IMAGE] * sum(len(f) for f in out.pooler_output), 9, 11]])
    mask = torch.ones_like(ids)
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
    return inputs | {"image_sizes": torch.tensor(sizes)}


@pytest.mark.parametrize(("make", "feed"), [*CASES, *WIDE])
@pytest.mark.parametrize("spec", ["vscan:keep=300:later=100", "vscan:tokens=9"])
def test_it_equals_loops(spec: str, make: Any, feed: Any) -> None:
    model = make()
    method = methods.parse(spec)
    seq, event, _ = events(spec, model, feed(model))
    per_crop = seq.crops[0].states.shape[0] - 1
    side = int(per_crop**0.5)
    info = ModelInfo(4, 16, 4, 2, 4, len(model.model.vision_tower.encoder.layers))
    early, late = method.taps(info)
    columns = torch.arange(seq.index.shape[1])
    for one, places in zip(seq.crops, tokens_of(seq), strict=True):
        kept = [p for p, (b, c) in places.items() if event.assign[b, c] == c]
        if method.tokens is None:
            assert len(kept) == min(len(places), round(method.keep * per_crop / 576))
        scores = [one.cls_row(layer).mean(0).numpy() for layer in (early, late)]
        groups: dict[Any, list[int]] = {}
        for p in sorted(places):
            groups.setdefault((p // side // 6, p % side // 6), []).append(p)
        chosen: list[int] = []
        for group in groups.values():
            chosen += best(scores[0], group, len(kept) // 2 // max(1, side // 6) ** 2)
        rest = [p for p in sorted(places) if p not in chosen]
        chosen += best(scores[1], rest, len(kept) - len(chosen))
        assert sorted(kept) == sorted(chosen)
        unit = {p: seq.hidden[place] / seq.hidden[place].norm() for p, place in places.items()}
        for p, (b, c) in places.items():
            if p in kept or not kept:
                assert int(event.assign[b, c]) == (c if kept else -1)
            else:
                near = max(sorted(kept), key=lambda q: float(unit[q] @ unit[p]))
                assert int(event.assign[b, c]) == places[near][1]
    assert event.weight is None and event.states is None  # the engine's plain mean
    text = seq.valid & ~seq.image
    assert (event.assign == columns)[text].all()


@pytest.mark.parametrize("kv", [0.05, 0.1111, 0.3333, 0.6, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("tiles", [False, True])
def test_both_prunings_meet_a_budget_together(kv: float, tiles: bool) -> None:
    model = tiny_llava_next(layers=6) if tiles else tiny_llava(side=6, layers=6)
    inputs = any_resolution(model, SIZES) if tiles else batch(model, big(ROWS))
    with torch.no_grad(), routed(model, methods.parse(f"vscan:kv={kv}")) as run:
        model(**inputs)
        for record in run.records():
            if record.n_image:
                kept = record.processed_per_layer(IMAGE_KIND)
                assert abs(kept.mean() - kv * record.n_image) <= 0.25 + 1e-9
                assert kept.tolist() == sorted(kept.tolist(), reverse=True)


def test_the_second_pruning_keeps_what_the_last_token_looks_at() -> None:
    """Half depth, by that layer's own row, a third of what is there."""
    model = tiny_llava(side=6, layers=6, dtype=torch.float64)
    inputs = batch(model, big(ROWS))
    found: list[Any] = []
    method = methods.parse("vscan:keep=200:later=50")
    original = type(method).layer

    def layer(self: Any, number: int, seq: Any) -> Any:
        event = original(self, number, seq)
        if event is not None:
            found.append((number, seq.last_row(number), seq.image, seq.valid, event))
        return event

    with pytest.MonkeyPatch.context() as patched, torch.no_grad():
        patched.setattr(type(method), "layer", layer)
        with routed(model, method) as run:
            model(**inputs)
            records = run.records()
    ((number, row, image, valid, event),) = found
    assert number == 3
    for b, record in enumerate(records):
        images = image[b].nonzero().flatten().tolist()
        left = sorted(images, key=lambda c: (-float(row[b, c]), c))[: round(len(images) / 4)]
        expected = (valid[b] & ~image[b]).index_fill(0, torch.tensor(left, dtype=torch.long), True)
        assert torch.equal(event.keep[b], expected)
        assert (
            record.processed_per_layer(IMAGE_KIND).tolist() == [len(images)] * 3 + [len(left)] * 3
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vscan:later=97", "vscan: later=97 is outside 0..keep"),
        ("vscan:keep=0:later=0", "vscan: keep must be above 0"),
        ("vscan:k=0", "vscan: k=0 is below 1"),
    ],
)
def test_bad_input_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(methods.MethodError, match="^" + message):
        methods.parse(text)
