"""Budgets asked for against what the records show: columns of accuracy.csv, the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.readouts.budgets import asked, budget_columns
from harness.readouts.summary import ending
from harness.store.csvfile import read_rows
from reports import build_report, numbering
from tests.fakes import FakeRun, run


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fakes keep half of 16 tokens from layer 1 of 4 on, whatever they are asked for: 10."""
    path = tmp_path_factory.mktemp("runs") / "budgets"
    methods = ("fastv:kv=0.5", "random:kv=0.6", "uniform:tokens=10", "divprune:tokens=6", "fastv")
    assert run(path, FakeRun(), methods=methods, bench=("gqa",)) == 0
    build_report(path)
    return path


def test_a_missed_budget_is_recorded_and_gets_no_verdict(out: Path) -> None:
    rows = {r["label"]: r for r in read_rows(out / "accuracy.csv") if r["headline"] == "1"}
    names = ("budget_asked", "budget_met", "budget_unit", "budget_within")
    found = {label: tuple(row[name] for name in names) for label, row in rows.items()}
    assert found == {
        "dense": ("", "", "", ""),
        "fastv": ("", "", "", ""),
        "fastv kv=0.5": ("0.5", "0.625", "share", "0"),  # two of 16 tokens off
        "random kv=0.6": ("0.6", "0.625", "share", "1"),  # less than one
        "uniform tokens=10": ("10.0", "10.0", "tokens", "1"),
        "divprune tokens=6": ("6.0", "10.0", "tokens", "0"),
    }
    for label, row in rows.items():
        assert bool(row["verdict"]) == (row["budget_within"] != "0" and label != "dense"), label
        assert bool(row["p_adjusted"]) == (label != "dense")


def test_the_report_says_what_was_asked_and_what_came(out: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (out / name).read_text(encoding="utf-8")
        assert "no verdict: asked 6 tokens, got 10" in text
        assert "no verdict: asked 50 %, got 62.5 %" in text
        assert "Missed the budget asked for" in text


def test_tables_and_first_screen_say_how_rows_number_their_tokens(out: Path) -> None:
    """fastv, random and uniform keep their places, divprune numbers anew; dense drops nothing."""
    lines = (out / "report.md").read_text(encoding="utf-8").splitlines()
    assert any(numbering.WARNING in line for line in lines[:20])
    assert any(line.startswith("| Position ids | original: fastv") for line in lines)
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in lines if line[:1] == "|"]
    heads = rows.count(["Method", "Positions"])
    assert heads >= 3  # changed answers, every cell, further metrics; the first table has it last
    for label, kind in (("fastv", "original"), ("divprune tokens=6", "anew")):
        assert rows.count([label, kind]) >= 3


def test_one_kind_of_numbering_needs_no_column(tmp_path: Path) -> None:
    assert run(tmp_path / "run", FakeRun(), methods=("fastv", "blind"), bench=("gqa",)) == 0
    build_report(tmp_path / "run")
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "Positions" not in text and numbering.WARNING not in text
    assert "| Position ids | original |" in text


def test_the_closing_table_says_both(out: Path) -> None:
    closing = ending(out)
    assert closing is not None
    table = closing.table(None)
    rows = {str(cells[0]): " ".join(map(str, cells[1:])) for cells in zip(
        *(column.cells for column in table.columns), strict=True)}  # fmt: skip
    assert "asked 6 tokens, got 10" in rows["divprune\ntokens=6, numbered anew"]
    assert "asked" not in rows["random\nkv=0.6"]


def test_tokens_are_those_of_one_image() -> None:
    """Two images of 100 tokens with a quarter kept, and one of 200 with an eighth: 25 each."""
    samples = [
        {"n_image": "200", "n_images": "2", "kv_ratio_vision": "0.25"},
        {"n_image": "200", "n_images": "1", "kv_ratio_vision": "0.125"},
        {"n_image": "0", "n_images": "0", "kv_ratio_vision": ""},  # a question without image
    ]
    params = '{"kv": null, "ratio": null, "tokens": 25}'
    row = budget_columns(params, samples)
    assert (row["budget_met"], row["budget_within"]) == (25.0, 1)
    assert budget_columns(params.replace("25", "27"), samples)["budget_within"] == 0
    share = budget_columns('{"kv": 0.1875}', samples)
    assert (share["budget_met"], share["budget_within"]) == (0.1875, 1)


def test_an_amount_of_the_methods_own_is_no_budget() -> None:
    assert asked('{"ratio": 0.34, "mask": "Q"}') is None  # gamma: the share that training skips
    assert asked('{"ratio": 0.4, "kv": null}') is None  # p-MoD: of its constant schedule's layers
    assert asked('{"ratio": 0.4, "kv": null, "tokens": null}') == ("share", 0.4)
