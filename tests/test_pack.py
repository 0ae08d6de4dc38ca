"""`pack`: a run as a small folder whose tables, report and comparisons are those of the run."""

from __future__ import annotations

import gzip
import json
import shutil
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

import modsuite as ms
from harness.command.cli import main
from harness.store import tables
from reports.diff import compare
from reports.rundata import load_run
from reports.samples.index import Index
from tests.fakes import DERIVED, DOCUMENTS, FakeRun, derived, run

CELLS = 6  # dense, fastv and random on two benches


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(out) == 0
    return out


@pytest.fixture
def packed(finished: Path, tmp_path: Path) -> Path:
    to = tmp_path / "packed"
    assert main(["pack", str(finished), "--to", str(to)]) == 0
    return to


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_tables_made_again_from_a_pack_are_those_of_the_run(finished: Path, packed: Path) -> None:
    assert not (packed / "samples").exists() and not (packed / "records").exists()
    for name in DERIVED:
        if name != "routing.csv":  # holds what the cells noted of their tokens
            (packed / name).unlink(missing_ok=True)
    assert main(["--derive", str(packed), "--quiet"]) == 0
    assert derived(packed) == derived(finished)


def test_tables_under_gzip_stay_so(packed: Path) -> None:
    plain = (packed / "cost.csv").read_bytes()
    (packed / "cost.csv.gz").write_bytes(gzip.compress(b"old"))
    (packed / "cost.csv").unlink()
    assert main(["--derive", str(packed), "--quiet"]) == 0
    assert not (packed / "cost.csv").exists()
    assert gzip.decompress((packed / "cost.csv.gz").read_bytes()) == plain


def test_every_file_of_a_cell_comes_back_to_the_byte(finished: Path, packed: Path) -> None:
    made_again = (".readouts.json", ".tables.json")
    there = [p for p in (finished / "samples").iterdir() if not p.name.endswith(made_again)]
    assert len(there) >= 3 * CELLS
    for path in there:
        assert tables.content(packed / "samples" / path.name) == path.read_bytes()


def test_samples_are_a_table_that_others_read(finished: Path, packed: Path) -> None:
    frame = pd.read_parquet(packed / "samples.parquet")
    assert len(frame) == CELLS * DOCUMENTS
    assert frame.score.dtype == float and frame.n_image.dtype == int
    for cell, rows in frame.groupby("cell_id"):
        plain = pd.read_csv(finished / "samples" / f"{cell}.csv")
        assert rows.tflops_prefill.tolist() == plain.tflops_prefill.tolist()
    # The scores of the headline are those that the metrics hold.
    metrics = pd.read_parquet(packed / "metrics.parquet")
    head = metrics[metrics.headline].set_index("cell_id")
    means = frame.groupby("cell_id").score.mean()
    assert head.value.sort_index().tolist() == pytest.approx(means.sort_index().tolist())
    sizes = json.loads((packed / "pack.json").read_text())["bytes"]
    assert sizes == {n: len(c) for n, c in files(packed).items() if n != "pack.json"}


def test_report_and_comparison_are_those_of_the_run(
    finished: Path, packed: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert run(other, methods=("fastv", "uniform")) == 0
    plain, again = (compare(one, other) for one in (finished, packed))
    assert again.rows == plain.rows and again.versus == plain.versus
    assert [row.n for row in again.versus] == [DOCUMENTS] * 2  # random with uniform
    assert load_run(packed).notices == load_run(finished).notices
    assert main(["--plots-only", str(packed), "--out", str(tmp_path / "p")]) == 0
    assert main(["--plots-only", str(finished), "--out", str(tmp_path / "q")]) == 0
    shown, wanted = files(tmp_path / "p"), files(tmp_path / "q")
    assert shown.keys() == wanted.keys()
    slices = [name for name in wanted if name.endswith((".csv", ".tex"))]
    assert slices and all(shown[name] == wanted[name] for name in slices)


def test_python_reads_tables_wherever_they_are(packed: Path) -> None:
    made = ms.Comparison(str(packed))  # a path in words, as people write it
    wanted = made.accuracy
    content = (packed / "accuracy.csv").read_bytes()
    (packed / "accuracy.csv.gz").write_bytes(gzip.compress(content))
    (packed / "accuracy.csv").unlink()
    pd.testing.assert_frame_equal(made.accuracy, wanted)


def test_again_gives_the_same_bytes_and_keeps_the_report(finished: Path, packed: Path) -> None:
    before = files(packed)
    (packed / "report.md").write_text("mine")
    assert main(["pack", str(finished), "--to", str(packed)]) == 0
    assert files(packed) == {**before, "report.md": b"mine"}
    to = packed.with_name("of-the-pack")
    assert main(["pack", str(packed), "--to", str(to)]) == 0
    assert files(to) == before


def test_a_pack_that_was_cut_off_is_made_again(finished: Path, packed: Path) -> None:
    before = files(packed)
    (packed / "samples.parquet").unlink()
    (packed / "run.json").unlink()
    assert main(["pack", str(finished), "--to", str(packed)]) == 0
    assert files(packed) == before


def test_nothing_else_is_overwritten(
    finished: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    other = tmp_path / "other"
    assert run(other, bench=("gqa",)) == 0
    for source, to, said in (
        (finished, mine, "holds other files"),
        (finished, mine / "notes.txt", "is a file"),
        (finished, finished, "is the run itself"),
        (other, packed, "holds another run's pack"),
        (tmp_path / "absent", tmp_path / "to", "no run directory"),
    ):
        before = files(tmp_path)
        assert said in refused(capsys, "pack", source, "--to", to)
        assert files(tmp_path) == before
    assert "--to" in refused(capsys, "pack", finished)
    words = ("--methods", "fastv,random", "--bench", "gqa,pope")
    assert "is a packed run" in refused(capsys, "--out", packed, *words)


def test_what_is_missing_or_damaged_is_said(
    finished: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(finished, broken)
    next((broken / "samples").glob("*.metrics.json")).unlink()
    assert "has no samples of" in refused(capsys, "pack", broken, "--to", tmp_path / "to")
    assert not (tmp_path / "to").exists()
    (packed / "samples.parquet").write_bytes(b"PAR1 and no more")
    capsys.readouterr()
    assert main(["--derive", str(packed), "--quiet"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("samples.parquet: cannot be read (no whole file of a packed run)")
    assert refused(capsys, "pack", finished, "--to", tmp_path / "to", "--figures", "acuracy")


@pytest.mark.parametrize(
    "column", [["1", "2.0"], ["007", "1"], ["1e5", ""], ["nan", "0.5"], ["-0.0", "1e-07"], ["", ""],
               ["9" * 30, "1"], ["1_0", "2"]],
)  # fmt: skip
def test_numbers_keep_every_digit_as_it_was_written(
    finished: Path, tmp_path: Path, column: list[str]
) -> None:
    odd, to = tmp_path / "odd", tmp_path / "to"
    shutil.copytree(finished, odd)
    path = next(p for p in sorted((odd / "samples").glob("*.csv")))
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[:1, "kv_mib"] = column
    frame.to_csv(path, index=False, lineterminator="\n")
    assert main(["pack", str(odd), "--to", str(to)]) == 0
    assert tables.content(to / "samples" / path.name) == path.read_bytes()


def test_answers_of_any_text_come_back(tmp_path: Path) -> None:
    out, to = tmp_path / "run", tmp_path / "to"
    assert run(out, FakeRun(prediction='"\r\n,\u2028\v ä𝄞 ' + "long " * 9000), bench=("gqa",)) == 0
    assert main(["pack", str(out), "--to", str(to)]) == 0
    for path in (out / "samples").glob("*.csv"):
        assert tables.content(to / "samples" / path.name) == path.read_bytes()


def test_the_page_of_all_samples_shows_a_pack(finished: Path, packed: Path, tmp_path: Path) -> None:
    def answers(source: Path) -> list[tuple[object, ...]]:
        folder = tmp_path / f"index-{source.name}"
        folder.mkdir(exist_ok=True)
        index = Index(source, folder)
        index.build()
        assert index.progress.notices == []
        with closing(index.connect()) as base:
            return sorted(map(tuple, base.execute("SELECT * FROM answers")))

    shown = answers(packed)
    assert len(shown) == CELLS * DOCUMENTS
    assert shown == answers(finished)
