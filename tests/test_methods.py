"""Parsing, ranges, schedules and counts of the methods; the numbers are those of the papers."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import methods
from methods import MethodError, parse, parse_list
from methods.base import ModelInfo, param, top_k_mask


def info(layers: int) -> ModelInfo:
    return ModelInfo(layers, 8, 2, 2, 4)


# --- names and parameters
def test_registry_lists_and_loads_every_method():
    for name in methods.names():
        cls = methods.load(name)
        entry = methods.REGISTRY[name]
        assert cls.name == name
        assert (cls.trained, cls.role) == (entry.trained, entry.role)
        assert entry.summary
        assert "\n" not in entry.summary


def test_listing_and_parsing_imports_no_torch():
    code = "import sys, methods; methods.parse_list('pmod:beta=0.4,gamma,fastv:k=3:r=0.75,random')"
    code += "; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("pmod", "pmod"),
        ("fastv:k=3:r=0.75", "fastv k=3 r=0.75"),
        ("fastv:r=0.5", "fastv"),
        ("pmod:steps=1+0.5+0.25:schedule=stepped", "pmod schedule=stepped steps=1.0+0.5+0.25"),
        ("gamma:layers=2+6+15:shared=false", "gamma layers=2+6+15 shared=false"),
        ("pmod:denominator=31", "pmod denominator=31"),
    ],
)
def test_labels_and_specs_round_trip(text, label):
    method = parse(text)
    assert method.label == label
    assert parse(method.spec) == method
    assert methods.build(method.name, json.loads(json.dumps(method.params()))) == method


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pmood", "unknown method 'pmood'; nearest is 'pmod'"),
        (
            "fastv:kk=3",
            "fastv: unknown parameter 'kk'; nearest is 'k' \\(it has tokens, ratio, kv, k, r,",
        ),
        ("dense:k=3", "dense: unknown parameter 'k' \\(it takes none\\)"),
        ("fastv:k=two", "fastv: k=two is not a whole number"),
        ("fastv:k=2.5", "fastv: k=2.5 is not a whole number"),
        ("fastv:r=1.5", "fastv: r=1.5 is outside 0..1"),
        ("fastv:r=nan", "fastv: r=nan is not a number"),
        ("fastv:r=inf", "fastv: r=inf is not a number"),
        ("fastv:k=0", "fastv: k=0 is below 1"),
        ("fastv:k", "fastv: 'k' is not key=value"),
        ("fastv:k=3:k=4", "fastv: parameter 'k' is given twice"),
        ("fastv:score=best", "fastv: score=best is not one of last, all"),
        ("pmod:string=maybe", "pmod: string=maybe is not true or false"),
        ("pmod:steps=1+x", "pmod: steps=1\\+x is not a list of numbers joined by \\+"),
        ("pmod:min=0.9", "pmod: need 0 <= min <= max <= 1"),
        ("pmod:beta=9", "pmod: beta=9.0 is outside"),
        ("pmod:ratio=2", "pmod: ratio must lie in 0..1"),
        ("pmod:denominator=0", "pmod: denominator must be"),
        (
            "gamma:layers=some",
            "gamma: layers=some is not a list like",
        ),
        ("gamma:ratio=2", "gamma: ratio=2.0 is outside"),
        ("mod:capacity=-1", "mod: capacity=-1.0 is outside"),
        ("llavolta:stride=0", "llavolta: stride=0 is below 1"),
        ("llavolta:k=-2", "llavolta: k=-2 is below -1"),
        ("random:keep=2", "random: keep=2.0 is outside"),
        ("uniform:k=-1", "uniform: k=-1 is below 0"),
        ("pool:keep=0", "pool: keep=0.0 is outside"),
        ("pool:side=0", "pool: side=0 is below 1"),
    ],
)
def test_bad_input_is_one_clear_line(text, message):
    with pytest.raises(MethodError, match="^" + message) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_the_same_method_twice():
    assert [m.label for m in parse_list("fastv,fastv:k=3")] == ["fastv", "fastv k=3"]
    with pytest.raises(MethodError, match=r"given twice with the same parameters: fastv$"):
        parse_list("fastv,pmod,fastv:k=2")


@pytest.mark.parametrize("spec", ["fastv:k=9", "llavolta:k=8", "random:k=8", "uniform:k=8"])
def test_layers_that_do_not_exist(spec):
    with pytest.raises(MethodError, match="needs more than 8 layers"):
        parse(spec).check(info(8))


def test_layer_lists_that_do_not_fit():
    with pytest.raises(MethodError, match="layer 9 does not exist: the model has 8"):
        parse("gamma:layers=3+9").check(info(8))
    with pytest.raises(MethodError, match="no MoD layer in a model of 4"):
        parse("gamma").check(info(4))


@pytest.mark.parametrize("name", methods.names())
def test_every_parameter_says_what_it_means(name):
    fields = dataclasses.fields(methods.load(name))
    assert [f.name for f in fields if not f.metadata.get("meaning", "").strip()] == []


def test_a_meaning_changes_nothing_else():
    @dataclasses.dataclass(frozen=True)
    class Plain(methods.Method):
        name = "plain"
        r: float = 0.5
        steps: tuple[float, ...] = (1.0, 0.5)

    @dataclasses.dataclass(frozen=True)
    class Meant(methods.Method):
        name = "plain"
        r: float = param(0.5, "a share")
        steps: tuple[float, ...] = param((1.0, 0.5), "shares")

    for values in ({}, {"r": 0.25}, {"steps": (1.0,)}):
        plain, meant = Plain(**values), Meant(**values)
        assert (meant.spec, meant.label, meant.params()) == (
            plain.spec,
            plain.label,
            plain.params(),
        )
        assert hash(meant) == hash(plain)
        assert meant == Meant(**values)
    assert Meant.r == 0.5


def test_source_hash_changes_with_the_file_only():
    hashes = {methods.load(n).source_hash() for n in methods.names()}
    assert len(hashes) == len(methods.names())
    assert all(len(h) == 64 for h in hashes)


# --- counts of the training-free methods
def test_fastv_rounds_half_to_even():
    method = parse("fastv")
    assert [method.kept(n) for n in (576, 5, 7, 3)] == [288, 2, 4, 2]
    assert parse("fastv:rounding=int").kept(7) == 3
    assert parse("fastv:r=0.75").kept(576) == 144


def test_uniform_takes_the_middle_of_equal_parts():
    method = parse("uniform:keep=0.25")
    assert method.chosen(16) == [2, 6, 10, 14]
    assert parse("uniform:keep=0.3").chosen(10) == [1, 5, 8]
    for n in range(1, 40):
        kept = parse("uniform:keep=0.4").chosen(n)
        assert kept == sorted(set(kept))
        assert len(kept) == round(0.4 * n)


def test_random_depends_on_seed_and_sample_only():
    method = parse("random:keep=0.5")
    first = method.chosen(100, "doc 1")
    assert first == method.chosen(100, "doc 1") == sorted(set(first))
    assert len(first) == 50
    assert first != method.chosen(100, "doc 2")
    assert first != parse("random:keep=0.5:seed=1").chosen(100, "doc 1")


def test_random_is_uniform_over_tokens():
    method = parse("random:keep=0.25")
    hits = np.zeros(20)
    for i in range(2000):
        hits[method.chosen(20, str(i))] += 1
    assert abs(hits / 2000 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 2000)


def test_pool_shapes():
    assert parse("pool").shape(24, 24) == (12, 12)
    assert parse("pool:side=8").shape(24, 24) == (8, 8)
    assert parse("pool:side=8").shape(5, 9) == (5, 8)
    assert parse("pool:keep=0.01").shape(3, 3) == (1, 1)


# --- ranking
@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=6, max_size=6), min_size=1),
    st.data(),
)
def test_top_k_is_exact_stable_and_lowest_index_first(values, data):
    scores = torch.tensor(values)
    candidates = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=len(values),
                           max_size=len(values)))
    )  # fmt: skip
    wanted = [data.draw(st.integers(0, int(c.sum()))) for c in candidates]
    mask = top_k_mask(scores, candidates, wanted)
    for row, allowed, k, picked in zip(values, candidates, wanted, mask, strict=True):
        order = sorted((i for i in range(6) if allowed[i]), key=lambda i: (-row[i], i))
        assert sorted(order[:k]) == torch.nonzero(picked).flatten().tolist()


def test_ranking_happens_in_single_precision():
    scores = torch.tensor([[1.0, 1.0 + 1e-12]], dtype=torch.float64)
    assert top_k_mask(scores, torch.ones(1, 2).bool(), [1]).tolist() == [[True, False]]
