"""--reuse: what is answered elsewhere is not answered again; the other run is only read."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.command.cli import parse
from harness.common.errors import UsageError
from harness.store.csvfile import read_rows
from harness.store.rundir import Store
from tests.fakes import DOCUMENTS, FakeRun, derived, run


def files(path: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {
        p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A finished run: dense, fastv and random on gqa and pope, with the image of a sample."""
    out = tmp_path / "published"
    assert run(out) == 0
    return out


def fresh(out: Path, job: FakeRun, reuse: Path | tuple[Path, ...], **changes: Any) -> int:
    sources = reuse if isinstance(reuse, tuple) else (reuse,)
    return run(out, job, reuse=tuple(map(str, sources)), **changes)


def test_one_method_more_costs_one_method(
    tmp_path: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out, job = files(old), tmp_path / "mine", FakeRun()
    methods = ("fastv", "random", "uniform")
    assert fresh(out, job, old, methods=methods, quiet=False) == 0
    assert job.computed == ["uniform gqa", "uniform pope"]
    assert files(old) == before
    assert f"--reuse: 6 of 8 cells taken from {old}" in capsys.readouterr().err
    whole = tmp_path / "whole"
    assert run(whole, methods=methods) == 0
    assert derived(out) == derived(whole)
    rows = read_rows(out / "cells.csv")
    assert {(r["method"], r["reused_from"]) for r in rows} == {
        ("dense", "published"), ("fastv", "published"), ("random", "published"), ("uniform", ""),
    }  # fmt: skip
    taken = [row for row in rows if row["reused_from"]]
    for row in taken:  # all files of a cell
        cell = row["cell_id"]
        for name, digest in before.items():
            if cell in name:
                assert files(out)[name] == digest
    about = json.loads((out / "run.json").read_text())
    assert about["reused"]["published"]["cells"] == [r["requested_id"] for r in taken]
    assert "reuse" not in about["settings"]


def test_nothing_left_to_answer_loads_nothing(tmp_path: Path, old: Path) -> None:
    out, job = tmp_path / "again", FakeRun()
    assert fresh(out, job, old) == 0
    assert (job.computed, job.loads) == ([], 0)
    assert derived(out) == derived(old)
    about, before = (json.loads((p / "run.json").read_text()) for p in (out, old))
    different = {name for name in {*about, *before} if about.get(name) != before.get(name)}
    assert different <= {"argv", "created_at", "reused"}
    again = FakeRun()  # resumed without the flag: it is a run like any other
    assert run(out, again) == 0
    assert (again.computed, again.loads) == ([], 0)
    assert json.loads((out / "run.json").read_text())["reused"] == about["reused"]


def test_damaged_and_half_cells_are_answered_here(
    tmp_path: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = {(r["method"], r["bench"]): r["cell_id"] for r in read_rows(old / "cells.csv")}
    store = Store(old)
    records = store.records_gz(done["fastv", "gqa"])
    records.write_bytes(records.read_bytes()[:-9])
    store.samples_csv(done["random", "pope"]).unlink()
    samples = store.samples_csv(done["dense", "pope"])
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:-1]))
    before, out, job = files(old), tmp_path / "mine", FakeRun()
    assert fresh(out, job, old, quiet=False) == 0
    assert job.computed == ["fastv gqa", "dense pope", "random pope"]
    said = capsys.readouterr().err
    assert "--reuse: 3 of 6 cells taken" in said
    assert "1 lacks files there; damaged there, so not taken: fastv on gqa (" in said
    assert files(old) == before
    whole = tmp_path / "whole"
    run(whole)
    assert derived(out) == derived(whole)


def test_a_damaged_cell_of_this_run_is_taken_from_the_other(tmp_path: Path, old: Path) -> None:
    out = tmp_path / "mine"
    shutil.copytree(old, out)
    cell = read_rows(out / "cells.csv")[1]["cell_id"]
    Store(out).samples_csv(cell).write_text("doc_id,score\n")
    job = FakeRun()
    assert fresh(out, job, old) == 0
    assert (job.computed, job.loads) == ([], 0)
    assert derived(out) == derived(old)


def test_an_interrupted_run_resumes(tmp_path: Path, old: Path) -> None:
    def stop(method: str, doc: int) -> None:
        if doc == 10:
            raise KeyboardInterrupt

    out, methods = tmp_path / "mine", ("fastv", "random", "uniform")
    assert fresh(out, FakeRun(on_answer=stop), old, methods=methods) == 130
    rest = FakeRun()
    assert run(out, rest, methods=methods) == 0
    assert rest.answered == 2 * DOCUMENTS - 11
    whole = tmp_path / "whole"
    run(whole, methods=methods)
    assert derived(out) == derived(whole)
    assert len(read_rows(out / "cells.csv")) == 8


def test_a_crash_while_copying_leaves_a_run_that_resumes(
    tmp_path: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, record, count = tmp_path / "mine", Store.record, [0]

    def failing(store: Store, row: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        record(store, row)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "record", failing)
        assert fresh(out, FakeRun(), old) == 130
    assert len(read_rows(out / "cells.csv")) == 2
    job = FakeRun()
    assert fresh(out, job, old) == 0
    assert (job.computed, job.loads) == ([], 0)
    assert derived(out) == derived(old)
    reused = json.loads((out / "run.json").read_text())["reused"]["published"]["cells"]
    assert len(reused) == len({*reused}) == 6


def test_several_runs_the_first_one_that_has_a_cell(tmp_path: Path, old: Path) -> None:
    other, out = tmp_path / "other" / "published", tmp_path / "mine"
    assert run(other, methods=("random", "uniform")) == 0
    job = FakeRun()
    assert fresh(out, job, (old, other), methods=("fastv", "random", "uniform")) == 0
    assert (job.computed, job.loads) == ([], 0)
    found = {r["method"]: r["reused_from"] for r in read_rows(out / "cells.csv")}
    assert found == {
        "dense": "published", "fastv": "published", "random": "published",
        "uniform": "other/published",
    }  # fmt: skip


def test_a_run_without_a_common_cell_is_said_and_left(
    tmp_path: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, job = tmp_path / "mine", FakeRun()
    assert fresh(out, job, old, limit=5, seed=3, quiet=False) == 0
    assert len(job.computed) == 6
    said = capsys.readouterr().err
    assert f"{old} has no cell of this run: its limit (None), seed (0) differ" in said
    assert "reused" not in json.loads((out / "run.json").read_text())
    assert all(row["reused_from"] == "" for row in read_rows(out / "cells.csv"))


def test_what_is_no_run(tmp_path: Path, old: Path) -> None:
    (tmp_path / "folder").mkdir()
    for target, said in (("nowhere", "there is no run"), ("folder", "not a run directory")):
        with pytest.raises(UsageError, match=said):
            fresh(tmp_path / "mine", FakeRun(), tmp_path / target)
    with pytest.raises(UsageError, match="this run itself"):
        fresh(old, FakeRun(), old)
    assert not (tmp_path / "mine").exists()


def test_the_flag_may_be_repeated(old: Path) -> None:
    words = ["--methods", "fastv", "--bench", "gqa"]
    assert parse([*words, "--reuse", "a,b", "--reuse", "c"])[1].reuse == ("a", "b", "c")
