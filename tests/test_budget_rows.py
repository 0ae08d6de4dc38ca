"""--budgets: which rows a list of budgets makes of the methods, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import modsuite as ms
from harness.command.cli import main, parse
from harness.common.errors import UsageError
from harness.families.catalog import shape_of
from harness.jobs.budgets import with_budgets
from harness.jobs.costs import Costs
from harness.jobs.resolve import named_methods
from harness.store.csvfile import read_rows
from tests.fakes import FakeRun, run

TINY = shape_of("tiny-llava")  # 12 layers, 144 image tokens


def rows(methods: str, *budgets: str) -> tuple[list[str], str]:
    found, notes = with_budgets(named_methods(methods.split(",")), budgets, TINY)
    return [method.spec for method in found], " ".join(notes)


def test_a_row_a_budget_in_the_place_of_each_method_that_takes_one() -> None:
    specs, said = rows("dense,fastv,divprune:positions=original,blind", "0.5", "0.25")
    assert specs == [
        "dense", "fastv:kv=0.5", "fastv:kv=0.25", "divprune:kv=0.5:positions=original",
        "divprune:kv=0.25:positions=original", "blind",
    ]  # fmt: skip
    assert said == (
        "--budgets: fastv, divprune positions=original at kv 0.5, 0.25; "
        "as they are: dense, blind take no budget"
    )


def test_tokens_of_an_image() -> None:
    assert rows("fastv,random", "72", "36")[0] == [
        "fastv:tokens=72", "fastv:tokens=36", "random:tokens=72", "random:tokens=36",
    ]  # fmt: skip


def test_a_budget_that_a_method_states_itself_stays() -> None:
    specs, said = rows("fastv,fastv:tokens=40,fastv:kv=0.5,gamma:ratio=0.4", "0.5")
    assert specs == ["fastv:kv=0.5", "fastv:tokens=40", "gamma:ratio=0.4"]
    assert "fastv tokens=40, fastv kv=0.5 state their own; gamma ratio=0.4 takes no" in said


@pytest.mark.parametrize(
    ("methods", "budgets", "said"),
    [
        ("fastv", "0.1", "smallest is kv=0.1667; k=1 would reach 0.1"),
        ("fastv,uniform,pyramiddrop", "0.1", r"nor is every budget within reach of pyramiddrop"),
        ("uniform", "200", "tokens=200 cannot be met.*an image has 144 tokens"),
        ("gamma,blind", "0.5", "nothing to expand: gamma, blind take no budget"),
        ("fastv:kv=0.5", "0.5", "nothing to expand: fastv kv=0.5 states its own"),
    ],
)
def test_what_no_row_can_be_made_of(methods: str, budgets: str, said: str) -> None:
    with pytest.raises(UsageError, match="--budgets: .*" + said):
        rows(methods, budgets)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.5,64", "'64' is a number of tokens, '0.5' a share"),
        ("0.5,0.50", "'0.50' stands twice"),
        ("50%", "expected a share above 0"),
        ("1.5", "expected a share above 0"),
        ("0,64", "at least 1, got '0'"),
    ],
)
def test_wrong_lists(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--methods", "fastv", "--bench", "gqa", "--budgets", text]) == 2
    assert said in capsys.readouterr().err


def test_flag_and_suite_key(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("methods: fastv\nbench: gqa\nbudgets: [0.50, 0.25]\n")
    assert parse(["--suite", str(suite)])[1].budgets == ("0.5", "0.25")
    suite.write_text("methods: fastv\nbench: gqa\nbudgets: [72, 36]\n")
    assert parse(["--suite", str(suite)])[1].budgets == ("72", "36")


def test_a_run_has_the_rows_and_does_not_record_the_list(tmp_path: Path) -> None:
    out = tmp_path / "run"
    how = {"methods": ("fastv", "blind"), "bench": ("gqa",), "controls": True}
    assert run(out, FakeRun(), budgets=("0.75", "0.5"), **how) == 0
    both = [f"{n} kv={kv}" for kv in (0.75, 0.5) for n in ("random", "uniform")]  # and two more
    labels = [row["label"] for row in read_rows(out / "cells.csv")]
    assert labels[:4] == ["dense", "fastv kv=0.75", "fastv kv=0.5", "blind"]
    assert {*both} < {*labels} and len(labels) == 4 + 2 * 4
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert "budgets" not in settings
    again = FakeRun()
    written = tuple(label.replace(" ", ":") for label in labels)
    assert run(out, again, methods=written, bench=("gqa",)) == 0  # listed, it is the same run
    assert again.computed == []


@pytest.mark.usefixtures("uncounted")
def test_costs_only_and_python(tmp_path: Path) -> None:
    words = ["--methods", "fastv", "--budgets", "0.75,0.5", "--costs-only"]
    recorded = Costs(parse(words)[1], words).resolve(tmp_path / "costs")
    assert recorded["methods"] == ["dense", "fastv:kv=0.75", "fastv:kv=0.5"]
    frame = ms.costs("tiny-llava", "fastv", budgets=[0.75, 0.5])
    assert [*dict.fromkeys(frame.label)] == ["dense", "fastv kv=0.75", "fastv kv=0.5"]
