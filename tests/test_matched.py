"""--controls: which rows stand beside the methods, at which budget; without it nothing changes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.command.cli import main, parse
from harness.common.errors import UsageError
from harness.families.catalog import REGISTRY, shape_of
from harness.jobs.matched import MATCHED, with_controls
from harness.jobs.resolve import named_methods
from harness.store.csvfile import read_rows
from methods.base import Method, MethodError, ModelInfo, Role
from methods.budget import Budgeted
from tests.fakes import FakeRun, run, settings

TINY = shape_of("tiny-llava")  # 12 layers, 144 image tokens


@dataclasses.dataclass(frozen=True)
class Half(Method):
    """All tokens in the first third of the layers, a quarter of them behind: half on average."""

    name: ClassVar[str] = "half"
    later: float = 0.25

    def request(self, info: ModelInfo, n: int) -> Sequence[int] | None:
        first = info.layers // 3
        return [n] * first + [round(self.later * n)] * (info.layers - first)


@dataclasses.dataclass(frozen=True)
class Adaptive(Budgeted):
    """Without a budget the images decide."""

    name: ClassVar[str] = "adaptive"


@dataclasses.dataclass(frozen=True)
class Floor(Adaptive):
    """Keeps everything in 3 of 12 layers whatever it is given."""

    name: ClassVar[str] = "floor"

    def request(self, info: ModelInfo, n: int) -> Sequence[int] | None:
        return [n] * 3 + [0] * (info.layers - 3)


@dataclasses.dataclass(frozen=True)
class Grid(Floor):
    """A control that misses its budget, as whole grids do."""

    role: ClassVar[Role] = "control"
    name: ClassVar[str] = "pool"


@dataclasses.dataclass(frozen=True)
class Wrong(Method):
    name: ClassVar[str] = "wrong"

    def request(self, info: ModelInfo, n: int) -> Sequence[int] | None:
        raise MethodError("wrong: k=40 needs more than 12 layers")


def added(*methods: Any) -> tuple[list[str], tuple[str, ...]]:
    found, notes = with_controls(methods, TINY, named_methods)
    assert found[: len(methods)] == list(methods)
    return [method.spec for method in found[len(methods) :]], notes


def at(budget: str, positions: str = "original") -> list[str]:
    """The controls at a budget; a spec leaves out what is their default."""
    default = dict.fromkeys(MATCHED, "compact") | dict.fromkeys(("random", "uniform"), "original")
    said = f":positions={positions}"
    return [f"{n}:{budget}{'' if default[n] == positions else said}" for n in MATCHED]


def test_the_budget_a_method_was_given() -> None:
    assert added(Adaptive(kv=0.25)) == ([*at("kv=0.25"), "blind"], ())
    assert added(Adaptive(ratio=0.1111)) == ([*at("kv=0.1111"), "blind"], ())
    assert added(Adaptive(tokens=64)) == ([*at("tokens=64"), "blind"], ())


def test_the_budget_that_its_parameters_ask_for() -> None:
    assert added(Half()) == ([*at("kv=0.5"), "blind"], ())  # (4 * 144 + 8 * 36) / (12 * 144)
    assert added(Half(later=0.5))[0][0] == "random:kv=0.6667"


def test_a_budget_that_cannot_be_met_gives_way_to_what_is_asked() -> None:
    assert added(Floor(kv=0.1))[0] == [*at("kv=0.25"), "blind"]
    assert added(Floor(kv=0.252))[0] == [*at("kv=0.252"), "blind"]  # as good as met


@dataclasses.dataclass(frozen=True)
class Anew(Half):
    """Numbers anew what it keeps."""

    name: ClassVar[str] = "anew"
    positions: str = "compact"


def test_controls_number_their_tokens_as_the_method_does() -> None:
    assert added(Anew()) == ([*at("kv=0.5", "compact"), "blind"], ())
    both = added(Anew(), Half())[0]
    assert both == [*at("kv=0.5", "compact"), *at("kv=0.5"), "blind"]
    (given,) = named_methods(("random:kv=0.5",))  # of the other kind
    assert added(Anew(), given)[0] == [*at("kv=0.5", "compact"), "blind"]


def test_no_budget_gets_its_controls_twice() -> None:
    given = Adaptive(kv=0.5), Adaptive(ratio=0.5), Adaptive(tokens=72), Half(), Adaptive(kv=0.504)
    assert added(*given) == ([*at("kv=0.5"), "blind"], ())
    assert added(Adaptive(kv=0.5), Adaptive(kv=0.52))[0] == [*at("kv=0.5"), *at("kv=0.52"), "blind"]


def test_controls_that_were_asked_for_stay_the_only_ones() -> None:
    said = ("random:kv=0.5", "random:kv=0.5:seed=1", "pool:tokens=72:positions=original", "blind")
    asked = named_methods(said)
    small = "downsample:kv=0.5:positions=original"
    assert added(Half(), *asked) == (["uniform:kv=0.5", small], ())
    assert added(*named_methods(("dense", "random:kv=0.2"))) == (["blind"], ())
    missing = Adaptive(kv=0.4), Grid(ratio=0.4)  # pool keeps a quarter whatever it is given
    others = [spec for spec in at("kv=0.4") if not spec.startswith("pool")]
    assert added(*missing) == ([*others, "blind"], ())


def test_methods_without_a_budget_to_match_are_named() -> None:
    specs, notes = added(Adaptive(), Half())
    assert specs == [*at("kv=0.5"), "blind"]
    assert notes == ("no matched controls for adaptive: the images decide what it keeps",)
    assert added(Half(later=1.0)) == (["blind"], ())  # nothing dropped, nothing to match


def test_a_number_that_is_no_budget_is_not_taken_for_one() -> None:
    (gamma,) = named_methods(("gamma:ratio=0.4",))  # the share that its training skips
    assert all("0.4" not in spec for spec in added(gamma)[0])


def test_a_wrong_parameter_is_one_line() -> None:
    with pytest.raises(UsageError, match="--methods: wrong: k=40 needs more than 12 layers"):
        added(Wrong())


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("tiny-llava", 144),
        ("llava-hf/llava-1.5-7b-hf", 576),
        ("llava-hf/llava-v1.6-vicuna-7b-hf", 5 * 576),
        ("mini-gemini-hd-7b", 2880),
    ],
)
def test_tokens_of_an_image(model: str, tokens: int) -> None:
    shape = shape_of(model)
    assert REGISTRY[shape.family].budget_tokens(shape) == tokens


def test_a_run_computes_and_compares_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = ("fastv:kv=0.5", "divprune:kv=0.5")
    assert run(out, FakeRun(), methods=said, bench=("gqa",), controls=True) == 0
    labels = [row["label"] for row in read_rows(out / "cells.csv")]
    controls = [spec.replace(":", " ") for spec in (*at("kv=0.5"), *at("kv=0.5", "compact"))]
    assert labels == ["dense", "fastv kv=0.5", "divprune kv=0.5", *controls, "blind"]
    rows = read_rows(out / "controls.csv")
    assert {(r["label"], r["control"]): r["control_label"] for r in rows} == {
        **dict(zip([("fastv kv=0.5", c) for c in MATCHED], controls[: len(MATCHED)], strict=True)),
        **dict(
            zip([("divprune kv=0.5", c) for c in MATCHED], controls[len(MATCHED) :], strict=True)
        ),
        ("fastv kv=0.5", "blind"): "blind",
        ("divprune kv=0.5", "blind"): "blind",
    }
    accuracy = read_rows(out / "accuracy.csv")
    assert {r["label"]: r["positions"] for r in accuracy} == {
        "dense": "", "fastv kv=0.5": "original", "divprune kv=0.5": "compact", "blind": "",
        **dict.fromkeys(controls[: len(MATCHED)], "original"),
        **dict.fromkeys(controls[len(MATCHED) :], "compact"),
    }  # fmt: skip
    # The same rows by name are the same run: nothing is left to do.
    parts = FakeRun()
    written = (*said, *at("kv=0.5"), *at("kv=0.5", "compact"), "blind")
    assert run(out, parts, methods=written, bench=("gqa",)) == 0
    assert parts.computed == []


def test_without_the_flag_nothing_is_added_nor_recorded(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, bench=("gqa",)) == 0
    assert [row["label"] for row in read_rows(out / "cells.csv")] == ["dense", "fastv", "random"]
    assert "controls" not in json.loads((out / "run.json").read_text())["settings"]
    assert "controls" not in settings(out, controls=True).recorded()


def test_flag_and_suite_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("methods: fastv\nbench: gqa\ncontrols: true\n")
    assert parse(["--suite", str(suite)])[1].controls
    assert parse(["--methods", "fastv", "--bench", "gqa", "--controls"])[1].controls
    assert not parse(["--methods", "gamma,pmod", "--bench", "gqa,textvqa"])[1].controls
    for job in ("--costs-only", "--throughput"):
        assert main(["--methods", "fastv", "--controls", job]) == 2
        assert "--controls has no meaning with" in capsys.readouterr().err
