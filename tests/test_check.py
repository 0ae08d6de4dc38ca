"""The conformance suite passes on all methods and catches methods that break the rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import methods
from harness import check
from methods.base import Drop, Method, Route
from tests.tiers import some

# A router and a drop; the checks of every method run with --slow.
KINDS = ("pmod", "fastv")


@pytest.mark.parametrize("name", some(methods.names(), *KINDS))
def test_every_method_conforms(name):
    results = list(check.check([name]))
    assert len(results) == len(check.CHECKS)
    assert [str(r) for r in results if not r.ok] == []


def test_report_lines_and_verdict(capsys):
    assert check.run_check("blind")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok   blind: ")
    assert lines[-1].startswith(f"{len(check.CHECKS)} of {len(check.CHECKS)} checks hold (")


@dataclass(frozen=True)
class Broken(Method):
    """A method that breaks one rule at a time."""

    name: ClassVar[str] = "broken"
    neutral: ClassVar[dict] = {}
    rule: str = "none"

    def mod_layers(self, info):
        return [self.rule != "announces nothing"] * info.layers

    def layer(self, layer, seq):
        if self.rule == "drops text" and layer == 1:
            keep = seq.valid.clone()
            keep[:, -1] = keep[:, -2] = True
            keep &= ~((seq.kinds == 1) & (seq.index == seq.index.amax(1, keepdim=True) - 1))
            return Drop(keep)
        if self.rule == "looks at the batch" and layer == 1:
            mean = seq.hidden.mean(dim=(0, 1))
            weight = (seq.hidden @ mean).sigmoid()
            return Route(weight=weight)
        if self.rule == "announces nothing" and layer == 1:
            keep = seq.valid & ~(seq.image & (seq.index % 2 == 0))
            return Drop(keep)
        return None


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("none", set()),
        ("drops text", {"text_untouched", "nothing_dropped"}),
        ("looks at the batch", {"batch_is_single", "nothing_dropped", "text_untouched"}),
        ("announces nothing", {"cache_is_recorded", "nothing_dropped"}),
    ],
)
def test_broken_methods_are_caught(monkeypatch, rule, expected):
    monkeypatch.setitem(
        methods.REGISTRY, "broken", methods.Entry(f"{__name__}:Broken", "breaks a rule")
    )
    neutral = {"rule": rule}
    monkeypatch.setattr(Broken, "neutral", neutral)
    asked = [test for test in check.CHECKS if test.__name__ in expected]
    if asked:  # one that breaks no rule is asked all, for false alarms
        monkeypatch.setattr(check, "CHECKS", tuple(asked))
    results = list(check.check([f"broken:rule={rule}"]))
    titles = {check.title(t): t.__name__ for t in check.CHECKS}
    failed = {titles[r.name] for r in results if not r.ok}
    failed.discard("every_parameter_acts")  # no other value of ``rule`` is one that it knows
    assert failed == expected
    assert all("\n" not in str(r) for r in results)


def test_a_crash_is_a_failed_check_not_the_end(monkeypatch):
    def crash(self, layer, seq):
        raise torch.cuda.OutOfMemoryError("no memory\nand more lines")

    monkeypatch.setattr(methods.load("fastv"), "layer", crash)
    results = list(check.check(["fastv"]))
    assert len(results) == len(check.CHECKS)
    assert any("OutOfMemoryError: no memory" in r.detail for r in results)
