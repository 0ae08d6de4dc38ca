"""CSV files whatever stands in them: every text comes back, what is damaged is said, never lost."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.common.errors import StoreError
from harness.store.csvfile import append_row, read_rows, repair, write_csv
from reports.csvio import Spec, read_table
from reports.diff import compare
from reports.rundata import load_run
from reports.sheet import csv_text
from tests.fakes import DOCUMENTS, FakeRun, run
from tests.fixtures.bad_input import line_of
from tests.fixtures.runs import write_run

COLUMNS = ("doc_id", "prediction")
ODD = "\r\n\v\f\x1a\x1c\x85\u2028\u2029\ufeff\0\ud800\udcff \",'\t;ä𝄞"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from(ODD) | st.characters(exclude_categories=())), min_size=1))
@example(["a\rb", "\r", "\r\n", '"', "x" * 200_000])
def test_every_text_comes_back_through_both_readers(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "samples.csv"
    rows = [{"doc_id": str(i), "prediction": text} for i, text in enumerate(texts)]
    write_csv(path, COLUMNS, rows[:1])
    for row in rows[1:]:
        append_row(path, COLUMNS, row)
    # What UTF-8 or a CSV cannot hold is marked as lost, in the length it had.
    wanted = ["".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)
              for text in texts]  # fmt: skip
    assert [row["prediction"] for row in read_rows(path)] == wanted
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert frame["prediction"].tolist() == wanted
    assert path.read_bytes().decode() == csv_text(
        [COLUMNS, *([str(i), text] for i, text in enumerate(wanted))]
    )
    notices: list[str] = []
    spec = Spec("samples.csv", COLUMNS, (), ("doc_id",), COLUMNS)
    assert read_table(path, spec, notices)["doc_id"].tolist() == [r["doc_id"] for r in rows]
    assert notices == []


@pytest.mark.parametrize("cut", ["inside a word", "behind a line end inside quotes"])
def test_a_row_cut_off_by_a_kill_is_left_out_and_removed(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "cells.csv"
    whole = [{"doc_id": "0", "prediction": "two\nlines"}, {"doc_id": "1", "prediction": "b"}]
    write_csv(path, COLUMNS, whole)
    before = path.read_bytes()
    with path.open("ab") as file:
        file.write(b"2,ha" if cut == "inside a word" else b'2,"one\n')
    assert read_rows(path) == whole
    assert repair(path) is True
    assert path.read_bytes() == before
    assert repair(path) is False


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"1,b,c", "row 3 has 3 fields instead of 2"),
        (b"1", "row 3 has 1 fields instead of 2"),
        (b'1,"b"c', "row 3 is no CSV"),
        (b"1,b\rc", "row 3 is no CSV"),
    ],
)
def test_a_row_of_another_shape_is_an_error_that_names_it(
    tmp_path: Path, damage: bytes, said: str
) -> None:
    path = tmp_path / "samples.csv"
    path.write_bytes(b"doc_id,prediction\n0,a\n" + damage + b"\n2,c\n")
    for reader in (read_rows, repair):
        with pytest.raises(StoreError) as caught:
            reader(path)
        assert str(caught.value) == f"{path} is damaged: {said}"


def test_a_damaged_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out) == 0
    with (out / "cells.csv").open("a", encoding="utf-8") as file:
        file.write("one,two\n")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "cells.csv is damaged: row 8 has 2 fields" in line_of(lambda: run(out))
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_long_and_odd_answers_are_counted_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    parts = FakeRun(prediction="yes\r" + "long " * 40_000)
    assert run(out, parts, bench=("gqa",)) == 0
    (out / "accuracy.csv").unlink()
    assert run(out, parts, bench=("gqa",)) == 0
    table = pd.read_csv(out / "accuracy.csv")
    assert set(table.n) == {DOCUMENTS}
    for cell_id in table.cell_id:
        assert len(pd.read_csv(out / "samples" / f"{cell_id}.csv")) == DOCUMENTS


def pack(path: Path) -> None:
    """Leave the file in its packed form only."""
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()


def test_packed_tables_are_read_as_they_are(tmp_path: Path) -> None:
    choices = {"methods": ("dense", "gamma"), "benches": ("gqa",), "failed": ()}
    a, b = (write_run(tmp_path / name, **choices) for name in "ab")  # type: ignore[arg-type]
    plain, compared = load_run(a), compare(a, b)
    for name in ("cells.csv", "accuracy.csv", "cost.csv", "routing.csv"):
        pack(a / name)
    packed = load_run(a)
    assert packed.notices == plain.notices == []
    for name in ("cells", "accuracy", "cost", "routing"):
        pd.testing.assert_frame_equal(getattr(packed, name), getattr(plain, name))
    assert compare(a, b).rows == compared.rows
    assert compared.rows[0].cost_ratio == 1.0
    (a / "cost.csv.gz").write_bytes((a / "cost.csv.gz").read_bytes()[:-20])
    assert [said.partition(":")[0] for said in load_run(a).notices] == ["cost.csv.gz"]
