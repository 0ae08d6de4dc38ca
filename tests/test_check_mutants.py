"""Bugs met in public code of this field, put into methods that are right: each must be caught.

Sources: a port of a pruner that keeps the worst tokens; index lists that forget the tokens before
the image; survivors left in order of their score; a released cache that stores a layer's keys
twice; ratios that are read and then not used (the defects sections of the methods' fact sheets).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import methods
from harness import check
from methods import (
    fastv,
    gamma,
    mod,
    picking,
    plan,
    pmod,
    pyramiddrop,
    sparsevlm,
    visionzip,
    vocabulary,
    vscan,
)
from methods.base import Drop, top_k_mask
from methods.budget import Budgeted
from tests.tiers import some

RANKING = {
    "fastv": fastv,
    "pyramiddrop": pyramiddrop,
    "sparsevlm": sparsevlm,
    "visionzip": visionzip,
    "vscan": vscan,
    "mod:capacity=0.5": mod,
    "pmod": pmod,
    "gamma:rule=topk": gamma,
    "plan": plan,
}
CHOICE = ("best_are_kept", "text_untouched", "counts_as_requested", "order_is_kept")


def failures(spec: str, names: tuple[str, ...] | None = None) -> set[str]:
    """The checks that a method fails, of those named."""
    tests = {test.__name__: test for test in check.CHECKS}
    subject = check.Case(methods.parse(spec))
    failed = set()
    for name in names or tuple(tests):
        try:
            tests[name](subject)
        except check.NotApplicable:
            pass
        except Exception:
            failed.add(name)
    return failed


def replace_top_k(monkeypatch: Any, module: Any, mutant: Any) -> None:
    """Where a method's file looks it up, and where ``keep_best`` does."""
    monkeypatch.setattr(vocabulary, "top_k_mask", mutant)
    if hasattr(module, "top_k_mask"):
        monkeypatch.setattr(module, "top_k_mask", mutant)


FEW = ("fastv", "pyramiddrop", "visionzip", "pmod", "gamma:rule=topk")


@pytest.mark.parametrize("spec", some(RANKING, *FEW))
def test_untouched_methods_pass(spec):
    assert failures(spec, CHOICE) == set()


@pytest.mark.parametrize("spec", some(RANKING, *FEW))
def test_sign_flipped(monkeypatch, spec):
    def worst(scores: Any, candidates: Any, counts: Any) -> Any:
        return top_k_mask(-scores, candidates, counts)

    replace_top_k(monkeypatch, RANKING[spec], worst)
    assert "best_are_kept" in failures(spec, CHOICE)


@pytest.mark.parametrize("spec", some(RANKING, *FEW))
def test_indices_shifted_by_one(monkeypatch, spec):
    def shifted(scores: Any, candidates: Any, counts: Any) -> Any:
        return top_k_mask(scores, candidates, counts).roll(1, dims=1)

    replace_top_k(monkeypatch, RANKING[spec], shifted)
    assert failures(spec, CHOICE)


@pytest.mark.parametrize("name", ["fastervlm", "scope", "divprune", "cdpruner", "mmtok"])
def test_picks_shifted_by_one(monkeypatch, name):
    drop = picking.Board.drop

    def shifted(self: Any, order: Any, positions: Any, score: Any = None) -> Drop:
        made = drop(self, order, positions, score)
        keep = torch.where(self.stay, made.keep, (made.keep & ~self.stay).roll(1, dims=1))
        return dataclasses.replace(made, keep=keep)

    monkeypatch.setattr(picking.Board, "drop", shifted)
    assert failures(name, CHOICE)


def test_picks_with_the_sign_flipped(monkeypatch):
    best = picking.Board.best
    monkeypatch.setattr(picking.Board, "best", lambda self, scores: best(self, -scores))
    assert "best_are_kept" in failures("fastervlm", CHOICE)


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop"])
def test_unsorted(monkeypatch, name):
    layer = methods.load(name).layer

    def unsorted(self: Any, number: int, seq: Any) -> Drop | None:
        made = layer(self, number, seq)
        if made is None:
            return None
        place = torch.arange(seq.valid.shape[1]).expand_as(seq.valid).float()
        first = place.masked_fill(~seq.image, torch.inf).amin(dim=1, keepdim=True)
        falling = first + 1 - made.ranked.score / made.ranked.score.amax(dim=1, keepdim=True)
        return dataclasses.replace(made, order=torch.where(seq.image, falling, place))

    monkeypatch.setattr(methods.load(name), "layer", unsorted)
    assert "order_is_kept" in failures(name, CHOICE)


@pytest.mark.parametrize("name", ["fastv", "llavolta", "divprune", "pmod"])
def test_numbering_that_is_not_what_it_says(monkeypatch, name):
    """Of llavolta and p-MoD no parameter tells it."""
    names = ("numbered_as_said",)
    assert failures(name, names) == set()
    said = methods.parse(name).numbering
    other = "compact" if said == "original" else "original"
    monkeypatch.setattr(methods.load(name), "numbering", property(lambda self: other))
    assert failures(name, names) == set(names)


@pytest.mark.parametrize("name", ["fastv", "divprune", "llavolta"])
def test_cache_doubled(monkeypatch, name):
    from transformers.cache_utils import DynamicLayer

    update = DynamicLayer.update

    def twice(self: Any, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        first = update(self, keys, values, *args, **kwargs)
        if keys.shape[2] > 1:  # the prompt's
            self.keys = torch.cat([self.keys, keys], dim=2)
            self.values = torch.cat([self.values, values], dim=2)
        return first

    monkeypatch.setattr(DynamicLayer, "update", twice)
    assert "cache_is_recorded" in failures(name, ("cache_is_recorded",))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("fastv", "r"),
        ("random", "keep"),
        ("uniform", "keep"),
        ("mod", "capacity"),
        ("plan", "steps"),
    ],
)
def test_own_ratio_ignored(monkeypatch, name, key):
    """The number is read and shown, and the default used."""
    cls = methods.load(name)
    default = cls()
    plain = cls.__getattribute__

    def ignoring(self: Any, attribute: str) -> Any:
        value = plain(self, attribute)
        return getattr(default, key) if attribute == key and self is not default else value

    made = cls.params
    honest = {f.name for f in dataclasses.fields(cls)}
    monkeypatch.setattr(
        cls, "params", lambda self: {k: plain(self, k) for k in made(self) if k in honest}
    )
    monkeypatch.setattr(cls, "__getattribute__", ignoring)
    assert "every_parameter_acts" in failures(name, ("every_parameter_acts",))


@pytest.mark.parametrize(
    "name",
    some(
        ["fastv", "sparsevlm", "fastervlm", "visionzip", "random", "pool"],
        "fastv",
        "visionzip",
    ),
)
def test_budget_ignored(monkeypatch, name):
    monkeypatch.setattr(Budgeted, "target", lambda self, n, images=1: None)
    sparsevlm._planned.cache_clear()
    failed = failures(name, ("budget_is_met", "every_parameter_acts"))
    sparsevlm._planned.cache_clear()
    assert failed == {"budget_is_met", "every_parameter_acts"}


def test_request_that_is_not_kept(monkeypatch):
    """A method that processes more than it says: the released threshold of one does."""
    kept = fastv.FastV.kept
    monkeypatch.setattr(
        fastv.FastV, "request", lambda self, info, n: [kept(self, n, 1, info.layers)] * info.layers
    )
    assert "counts_as_requested" in failures("fastv", CHOICE)


@pytest.mark.parametrize("name", ["fastv", "divprune", "pmod"])
def test_future_leaks(monkeypatch, name):
    """A layer whose mask is lost sees the whole prompt."""
    from harness.engine.sequence import RunningTokens

    def lost(self: Any, picked: Any = None) -> Any:
        rows, length = (self.hidden if picked is None else picked.columns).shape[:2]
        return torch.ones(rows, 1, length, length, dtype=torch.bool)

    monkeypatch.setattr(RunningTokens, "mask", lost)
    monkeypatch.setattr(RunningTokens, "layer_mask", lost)
    assert "future_unseen" in failures(name, ("future_unseen",))


def test_record_that_flatters(monkeypatch):
    """Skipped tokens that run all the same: a mask instead of fewer tokens."""
    from harness.store.record import RoutingRecord

    honest = RoutingRecord.kv_tokens.fget
    assert honest is not None
    monkeypatch.setattr(RoutingRecord, "kv_tokens", property(lambda self: honest(self) - 1))
    assert "recount" in failures("pmod", ("recount",))


def test_global_generator_is_used(monkeypatch):
    monkeypatch.setattr(
        methods.load("random"),
        "chosen",
        lambda self, n, identity, kept=None: sorted(torch.randperm(n)[:kept].tolist()),
    )
    assert "ties_and_seeds" in failures("random", ("ties_and_seeds",))
