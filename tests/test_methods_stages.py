"""PyramidDrop and iLLaVA, which act inside the decoder: against a naive pass and the papers."""

from __future__ import annotations

from itertools import pairwise, permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import methods
from harness.engine import routed
from harness.families.catalog import info_of, shape_of
from tests import naive
from tests.routing_tools import (
    IMAGES,
    ROWS,
    exact_norms,
    forced,
    naive_sample,
    with_positions,
)
from tests.tiny import batch, row, tiny_llava
from tests.tower_tools import (
    big,
    one_crop,
)


# --- PyramidDrop
def test_pyramiddrop_published_counts():
    method = methods.parse("pyramiddrop")
    assert method.stages(32) == (8, 16, 24)
    assert method.stages(40) == (10, 20, 30)
    assert method.kept(576, 1, 32) == [288, 144, 72]
    assert (576 + 288 + 144 + 72) / 4 == 270
    assert method.kept(2880, 1, 32) == [1440, 720, 360]


def _tflops(counts):
    """The paper's count of image tokens at 7B sizes: 4nd^2 + 2n^2d + 3ndm MACs a layer."""
    d, m = 4096, 11008
    return sum(4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m for n in counts) / 1e12


@pytest.mark.parametrize(
    ("ratios", "stages", "printed"),
    [("0.5+0.25", (10, 20), 2.13), ("0.5+0.25+0.125", (8, 16, 24), 1.78)],
)
def test_pyramiddrop_stages_are_the_releases_at_the_printed_costs(ratios, stages, printed):
    method = methods.parse(f"pyramiddrop:ratios={ratios}")
    info = info_of(shape_of("llava-hf/llava-1.5-7b-hf"))
    assert method.stages(32) == stages
    assert _tflops(method.request(info, 576)) == pytest.approx(printed, abs=0.005)


def test_pyramiddrop_at_five_parts_has_no_equal_split_of_the_printed_cost():
    """The paper prints 1.38. Parts of six layers and one more or two: whichever they are."""
    spans = [(6, 6, 6, 6, 8), *set(permutations((6, 6, 6, 7, 7)))]
    kept = [576, 288, 144, 72, 36]
    for parts in spans:
        counts = [n for n, span in zip(kept, parts, strict=True) for _ in range(span)]
        assert len(counts) == 32 and _tflops(counts) > 1.385
    method = methods.parse("pyramiddrop:ratios=0.5+0.25+0.125+0.0625")
    assert method.stages(32) == (6, 12, 18, 24)
    assert method.stages(3) == (1, 2, 3, 4)  # no model for it: refused by its depth


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


# --- iLLaVA, language half
def test_illava_weights_on_the_worked_example():
    seq = one_crop(np.eye(11, 10, k=-1), np.zeros((11, 10)), [0.1] * 10)
    seq.image, seq.info = seq.valid, SimpleNamespace(layers=2)
    ranking = [3, 0, 9, 5, 1, 7, 8, 2, 6, 4]  # token of rank 1, 2, ...
    scores = torch.zeros(1, 10)
    scores[0, ranking] = torch.arange(10, 0, -1).float()
    for name, weights in (("as_released", [1, 2, 3, 4]), ("descending", [4, 3, 2, 1])):
        seq.memo = {"illava": scores}
        event = methods.parse(f"illava:vit_remove=0:k=1:weights={name}").layer(1, seq)
        assert event.counts == [7]
        assert (event.assign[0, ranking[6:]] == ranking[6]).all()
        assert event.assign[0, ranking[:6]].tolist() == ranking[:6]
        torch.testing.assert_close(event.weight[0, ranking[6:]], torch.tensor(weights).float() / 10)
        assert (event.weight[0, ranking[:6]] == 1).all()


def test_illava_layers():
    method = methods.parse("illava")
    assert [method.at(depth) for depth in (28, 32, 40, 12, 5)] == [8, 8, 8, 3, 1]
    assert method.removed(10, 1, 32) == 3


@pytest.mark.parametrize(
    "spec", ["illava:vit_remove=0", "illava:vit_remove=0:k=2:tokens=20:weights=descending"]
)
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
