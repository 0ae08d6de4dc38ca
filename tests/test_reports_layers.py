"""The report's section on layer redundancy, drawn from CSV files alone."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from reports import build_report
from tests.fixtures.runs import write_run
from tests.test_reports import Page
from tests.tiers import some

DEPTH = 12
ARANK = ("model", "bench", "variant", "layer", "n_samples", "arank", "arank_std", "ci_low")
ARANK += ("ci_high", "dense", "tokens_mean", "data", "seconds")
DAMAGE = ("model", "bench", "probe", "layer", "n_samples", "dense_accuracy", "accuracy", "drop")
DAMAGE += ("drop_ci_low", "drop_ci_high", "nll_increase", "nll_ci_low", "nll_ci_high", "data")
CORRELATION = ("model", "kind", "bench", "x", "y", "n_layers", "n_samples", "rho", "ci_low")
CORRELATION += ("ci_high", "p_value", "documents_low", "documents_high")
PLANS = ("model", "bench", "plan", "source", "spec", "kv_budget", "kv_planned", "kv_measured", "n")
PLANS += ("accuracy", "ci_low", "ci_high", "dense_accuracy", "delta_dense", "delta_dense_ci_low")
PLANS += ("delta_dense_ci_high", "reference", "delta", "delta_ci_low", "delta_ci_high", "p_value")
PLANS += ("p_adjusted", "retention", "made_on", "data")


def write(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write_layers(run: Path) -> None:
    """Four small files of three benches (one of them all), two sizes, two probes."""
    write(
        run / "arank.csv", ARANK,
        [
            ("m", b, v, i, n, 100 + i, 2.5, 99 + i, 101 + i, int(i > 7), 170, "mini", 3.5)
            for b in ("gqa", "textvqa", "all")
            for v in ("logits", "probs")
            for n in ((100,) if b == "all" else (5, 50))
            for i in range(DEPTH)
        ],
    )  # fmt: skip
    write(
        run / "damage.csv", DAMAGE,
        [
            ("m", b, p, i, 50, 0.8, 0.8 - i / 100, i / 100, 0, 0.2, i / 10, 0, 2, "mini")
            for b in ("gqa", "textvqa", "all")
            for p in ("skip-layer", "half-image")
            for i in range(DEPTH)
        ],
    )  # fmt: skip
    kinds = [
        ("with damage", "all", "probs", "skip-layer drop"),
        ("between tasks", "probs", "gqa", "textvqa"),
        ("between sample sizes", "probs on gqa", "first 5", "other 40"),
    ]
    write(
        run / "layer_correlation.csv", CORRELATION,
        [("m", *kind, DEPTH, 50, 0.5, -0.1, 0.83, 0.09, 0.31, 0.62) for kind in kinds],
    )  # fmt: skip
    plans = [("prd", "p-MoD, cosine"), ("arank", "ARank (probs)")]
    write(
        run / "plans.csv", PLANS,
        [
            ("m", "all", name, source, "plan:steps=1.0+0.5", 0.5375, 0.5375, 0.5381, 200, 0.7, 0.64,
             0.76, 0.75, -0.05, -0.1, 0, "prd", -0.01, -0.05, 0.03, 0.5, 0.5, "1.0+0.075", 50,
             "mini")
            for name, source in plans
        ],
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "study", methods=("dense",))


def page_of(run: Path) -> tuple[Page, str]:
    html = build_report(run).read_text(encoding="utf-8")
    return Page(html), html


def test_figures_tables_and_conditions(run: Path) -> None:
    write_layers(run)
    page, html = page_of(run)
    assert page.ids["layers"] == 1
    assert set(page.rows) >= {"layer-plan", "layer-damage", "layer-stability", "plans"}
    for name in ("arank_probs", "arank_logits", "layer_damage"):
        for kind in ("svg", "png", "pdf", "csv"):
            assert (run / "figures" / f"{name}.{kind}").is_file()
    plan = page.rows["layer-plan"][1]
    assert "8, 9, 10, 11" in plan[3] and "0, 1, 2, 3, 4, 5, 6, 7" in plan[4]
    assert "+0.50" in page.rows["layer-damage"][1][4]
    assert "[+0.31, +0.62]" in page.rows["layer-damage"][1][6]
    assert "53.8 % / 53.8 %" in page.rows["plans"][1][3]
    assert "n = 50 documents a task" in html and ">mini<" in html
    assert "n = 50 documents, paired with dense, 95 % CI" in html


def test_a_run_without_the_files_has_no_section(run: Path) -> None:
    page, _ = page_of(run)
    assert "layers" not in page.ids and "plans" not in page.rows
    assert not list((run / "figures").glob("arank*"))


SPOILT = ("", "\0\0", "a,b\n1,2\n", "model,bench\n")
FILES = ("arank", "damage", "layer_correlation", "plans")
DAMAGED = [(name, content) for name in FILES for content in SPOILT]


@pytest.mark.parametrize("case", some(DAMAGED, *DAMAGED[::5]))
def test_a_damaged_file_costs_its_own_part_only(run: Path, case: tuple[str, str]) -> None:
    name, content = case
    write_layers(run)
    (run / f"{name}.csv").write_text(content, encoding="utf-8")
    page, _ = page_of(run)
    assert page.ids["layers"] == 1
    report = (run / "report.md").read_text(encoding="utf-8")
    notices = [line for line in report.splitlines() if "Notice" in line and name in line.replace(
        "\\_", "_")]  # fmt: skip
    assert len(notices) <= 1


def test_numbers_that_are_none_are_said_once_and_left_out(run: Path) -> None:
    write_layers(run)
    text = (run / "arank.csv").read_text(encoding="utf-8")
    (run / "arank.csv").write_text(text.replace(",103,2.5,", ",many,2.5,"), encoding="utf-8")
    _, html = page_of(run)
    assert html.count("of arank are no number") == 1


def test_deep_models_are_drawn_without_numbers(run: Path) -> None:
    rows = [
        ("m", "gqa", "probs", i, 50, 100 + i, 2.5, 99, 101, int(i < 4), 170, "hub", 3.5)
        for i in range(40)
    ]
    write(run / "arank.csv", ARANK, rows)
    page, _ = page_of(run)
    assert page.ids["layers"] == 1
    assert "layer-damage" not in page.rows
