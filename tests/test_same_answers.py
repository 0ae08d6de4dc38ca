"""Rows whose answers are dense's, and what n can show: a run's columns, its report's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.bench.loop import Sample
from harness.readouts.summary import ending
from harness.store.csvfile import read_rows
from reports import build_report, sentences
from reports.rundata import load_run
from reports.summary import summarise
from reports.tables import cells, overview
from tests.fakes import DOCUMENTS, FakeRun, run

CHANGED = 5  # answers of uniform that say the same with other words, so that no score differs


class Alike(FakeRun):
    """fastv answers as dense everywhere; uniform scores as dense, in other words on 5 documents."""

    def _samples(self, method: Any, bench: Any, **options: Any) -> Sequence[Sample]:
        found = super()._samples(method, bench, **options)
        if method.name in ("fastv", "uniform"):
            found = [replace(s, score=float(i % 3 > 0)) for i, s in enumerate(found)]
        if method.name == "uniform":
            found = [replace(s, prediction="Yes.") if i < CHANGED else s
                     for i, s in enumerate(found)]  # fmt: skip
        if method.name == "dense":
            found = [replace(s, score=float(i % 3 > 0)) for i, s in enumerate(found)]
        return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "alike"
    assert run(out, Alike(), methods=("fastv", "uniform", "random")) == 0
    build_report(out)
    return out


def test_columns_count_the_same_texts_and_the_documents_it_takes(path: Path) -> None:
    rows = {(r["method"], r["bench"], r["metric"]): r for r in read_rows(path / "accuracy.csv")}
    for (method, _, metric), row in rows.items():
        expected = {"dense": "", "uniform": str(DOCUMENTS - CHANGED)}.get(method, str(DOCUMENTS))
        assert row["same_answers"] == expected
        # Two documents an image in the fakes: 299 images; a metric without tests has no such n.
        tested = method != "dense" and metric == "exact_match"
        assert row["smallest_n"] == ("598" if tested else "")
    assert rows["fastv", "gqa", "exact_match"]["verdict"] == "inconclusive"


def test_the_report_says_same_answers_in_place_of_a_verdict(path: Path) -> None:
    summary = summarise(load_run(path))
    every = cells(summary)
    place = [c.title for c in every.columns].index("Verdict")
    words = {row[0].main.split()[0]: row[place].main for row in every.rows}
    assert words["fastv"] == f"same answers ({DOCUMENTS})"
    assert words["uniform"] == "inconclusive"
    assert words["random"] != words["fastv"]  # the same text, scored otherwise
    assert (
        "The same answers as dense in every document: fastv on gqa and pope."
        in sentences.findings(summary)
    )
    closing = ending(path)
    assert closing is not None
    columns = {str(column.header): column for column in closing.table(None).columns}
    names = [str(cell).split("\n")[0] for cell in columns["method"].cells]
    shown = dict(zip(names, columns["gqa mini, %\n(Δ to dense)"].cells, strict=True))
    assert str(shown["fastv"]).endswith("(0.0 same answers)")
    assert str(shown["uniform"]).endswith("(0.0 open)")


def test_the_tables_say_from_which_n_on_non_inferior_can_be_had(path: Path) -> None:
    said = (
        "A method that scores as dense on every document can be non-inferior from n = 598 on gqa "
        f"and pope on. Fewer here: gqa ({DOCUMENTS}) and pope ({DOCUMENTS})."
    )
    summary = summarise(load_run(path))
    assert overview(summary).note == cells(summary).note == said
    assert said in (path / "report.md").read_text(encoding="utf-8")
