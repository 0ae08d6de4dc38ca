"""Schedules, weights and layer choices of the trained methods, against the papers' numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import parse
from methods.base import ModelInfo
from methods.placement import PRESETS, parse_layers


def info(layers: int) -> ModelInfo:
    return ModelInfo(layers, 8, 2, 2, 4)


# --- p-MoD schedules (32 layers, values of the release)
def counts(spec: str, n: int, layers: int = 32) -> list[int]:
    ratios = parse(spec).ratios(layers)
    return [int(np.float32(n) * np.float32(r)) for r in ratios]


def test_released_cosine_schedule():
    expected = [576] * 8 + [486, 464, 440, 414, 388, 360, 331, 302, 273, 244]
    expected += [215, 187, 161, 135, 111, 89] + [86] * 8
    assert counts("pmod", 576) == expected
    assert sum(expected) == 9896
    assert sum(counts("pmod", 2928)) == 50352


@pytest.mark.parametrize(
    ("spec", "mean", "routed"),
    [
        ("pmod", 0.5375, 24),
        ("pmod:beta=0.4", 0.4747, 27),
        ("pmod:beta=0.3", 0.3940, 32),
        ("pmod:beta=0.3:max=0.75", 0.4277, 27),
        ("pmod:schedule=constant", 0.5375, 29),
        ("pmod:schedule=constant:span=deep_last", 0.5375, 30),
        ("pmod:schedule=constant:span=all", 0.5375, 32),
        ("pmod:schedule=interleaved", 0.5375, 16),
        ("pmod:schedule=stepped", 0.5375, 24),
        ("pmod:schedule=linear", 0.523, 27),
    ],
)
def test_mean_ratio_and_routed_layers(spec, mean, routed):
    method = parse(spec)
    ratios = method.ratios(32)
    assert np.mean(ratios) == pytest.approx(mean, abs=6e-4)
    assert sum(method.mod_layers(info(32))) == routed


def test_constant_and_interleaved_ratios_of_the_same_mean():
    assert parse("pmod:schedule=constant").ratios(32)[5] == pytest.approx(0.490, abs=5e-4)
    assert parse("pmod:schedule=constant:span=deep_last").ratios(32)[5] == pytest.approx(
        0.507, abs=5e-4
    )
    assert parse("pmod:schedule=interleaved").ratios(32)[1] == pytest.approx(0.075, abs=5e-4)


def test_depth_normalised_schedule_falls_where_the_literal_one_rises_again():
    scaled, literal = parse("pmod").ratios(40), parse("pmod:denominator=31").ratios(40)
    assert np.mean(scaled) == pytest.approx(0.5375, abs=5e-3)
    assert np.mean(literal) == pytest.approx(0.460, abs=1e-3)
    assert literal[39] > literal[31]
    assert parse("pmod:denominator=31").ratios(32) == parse("pmod").ratios(32)


def test_counts_are_single_precision_products():
    """At N = 2365, layer 10, the float32 product floors one higher than the float64 one."""
    ratio = parse("pmod").ratios(32)[10]
    assert int(np.float32(2365) * np.float32(ratio)) == 1808
    assert int(2365 * ratio) == 1807
    assert counts("pmod", 2365)[10] == 1808
    for n in range(1, 3000, 37):  # an int32 tensor times a Python float, as the release has it
        assert int(torch.tensor(n, dtype=torch.int32) * ratio) == counts("pmod", n)[10]


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("tanh", lambda r: 1 + 0.2 * np.tanh(r)),
        ("sigmoid", lambda r: 1 + 1 / (1 + np.exp(-r))),
        ("softmax", lambda r: np.exp(r) / np.exp(r).sum()),
        ("shifted_softmax", lambda r: 1 + np.exp(r) / np.exp(r).sum()),
        ("none", lambda r: r + 1),
    ],
)
def test_weight_norms(norm, expected):
    raw = torch.tensor([[0.3, -1.0, 2.0, 9.0]], dtype=torch.float64)
    image = torch.tensor([[True, True, True, False]])
    weights = parse(f"pmod:norm={norm}").weights(raw, image)[0, :3].numpy()
    np.testing.assert_allclose(weights, expected(raw[0, :3].numpy()), rtol=1e-12)
    scaled = parse(f"pmod:norm={norm}:scale=0:bias=0.7").weights(raw, image)
    assert (scaled[0, :3] == 0.7).all()


def test_fresh_predictors_weigh_one():
    modules = parse("pmod").build_modules(info(32))
    assert sorted(map(int, modules)) == list(range(8, 32))
    assert all((p == 0).all() for p in modules.parameters())
    assert {tuple(p.shape) for p in modules.parameters()} == {(1, 8), (1,)}
    offset = parse("mod").build_modules(info(8))
    assert sorted(offset) == ["1", "3", "5", "7"]
    assert all((p == 0).all() for p in offset.parameters())
    scratch = parse("mod:offset=0").build_modules(info(8))
    assert all((p != 0).any() for p in scratch.parameters())


# --- gamma-MoD
def test_gamma_layers_and_router():
    method = parse("gamma")
    assert [i for i, r in enumerate(method.mod_layers(info(32))) if r] == list(range(3, 31))
    assert [i for i, r in enumerate(method.mod_layers(info(40))) if r] == list(range(3, 39))
    shared = method.build_modules(info(32))
    assert [tuple(p.shape) for p in shared.parameters()] == [(2, 8)]
    single = parse("gamma:shared=false").build_modules(info(32))
    assert len(list(single.parameters())) == 28


@pytest.mark.parametrize(
    ("preset", "layers"),
    [
        ("first-half", range(16)),
        ("second-half", range(16, 31)),
        ("first-last-dense", range(1, 31)),
        ("last-two-thirds", range(12, 31)),
        ("first-five-dense", range(5, 31)),
        ("odd", range(1, 32, 2)),
        ("even", range(0, 32, 2)),
        ("all", range(32)),
    ],
)
def test_presets(preset, layers):
    assert [i for i, r in enumerate(parse_layers("gamma", preset, 32)) if r] == list(layers)
    assert preset in PRESETS


def test_two_per_three():
    assert sum(parse_layers("mod", "2-per-3", 32)) == 21
    assert parse_layers("mod", "2-per-3", 6) == (False, True, True, False, True, True)
