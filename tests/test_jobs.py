"""--jobs N: several processes make the run that one makes, whatever becomes of one of them.

The processes are real, the model is a stand-in.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.command.cli import main, parse
from harness.common import ranks, threads
from harness.common.errors import CellError, UsageError
from harness.jobs.devices import environments
from harness.jobs.worker import IMAGES_LOCK
from harness.options.runtime import Runtime
from harness.options.settings import Settings
from harness.store.csvfile import read_rows
from harness.store.rundir import Store
from tests.fakes import DERIVED, FakeRun, derived, run

TIMES = ("seconds", "finished_at", "threads")  # a process with a stand-in has no torch
FEW: dict[str, Any] = {"limit": 4}


@dataclass
class Fate:
    """What happens to a process that has answered the third document of a method's cell."""

    notes: Path
    dies_once: str = ""
    dies: str = ""
    stops_the_parent: str = ""

    def __call__(self, method: str, doc: int) -> None:
        if doc < 2:
            return
        with (self.notes / method).open("a") as file:
            file.write(f"{os.getpid()}\n")
        tries = len((self.notes / method).read_text().splitlines())
        if method == self.dies or (method == self.dies_once and tries == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if method == self.stops_the_parent:
            os.kill(os.getppid(), signal.SIGINT)
            signal.pause()


def rows(out: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_rows(out / "cells.csv")]


def cell_files(out: Path) -> dict[str, bytes]:
    places = [p for name in ("samples", "records", "routing") for p in (out / name).rglob("*")]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in places if p.is_file()}


def test_the_bytes_of_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    fail = {"random": CellError("broken")}
    assert run(one, FakeRun(fail=fail), **FEW) == 3
    job = FakeRun(fail=fail)
    assert run(two, job, jobs=2, quiet=False, **FEW) == 3
    assert job.loads == 0 and job.computed == []
    assert (rows(two), derived(two), cell_files(two)) == (rows(one), derived(one), cell_files(one))
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    said = capsys.readouterr().err
    assert "/6] fastv on pope: exact_match" in said and "random on pope failed: broken" in said
    assert run(two, FakeRun(), **FEW) == 0  # goes on as any run does
    assert run(one, FakeRun(), **FEW) == 0
    assert derived(two) == derived(one)


def test_a_killed_process_is_replaced_and_its_cell_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, notes = tmp_path / "one", tmp_path / "two", tmp_path / "notes"
    notes.mkdir()
    methods = ("fastv", "random")
    job = FakeRun(on_answer=Fate(notes, dies_once="fastv", dies="random"))
    assert run(two, job, jobs=2, methods=methods, bench=("gqa",), **FEW) == 3
    said = capsys.readouterr().err
    assert "was killed by signal 9; fastv on gqa is taken over" in said
    failed = [r for r in rows(two) if r["status"] == "failed"]
    assert [r["method"] for r in failed] == ["random"]
    assert "its process ended 2 times" in failed[0]["error"] and "signal 9" in failed[0]["error"]
    tried = (notes / "random").read_text().split()
    assert len(tried) == len(set(tried)) == 2
    assert not multiprocessing.active_children()
    assert run(two, methods=methods, bench=("gqa",), **FEW) == 0
    assert run(one, methods=methods, bench=("gqa",), **FEW) == 0
    assert derived(two) == derived(one)


def test_what_a_killed_parent_leaves_is_removed(tmp_path: Path) -> None:
    (tmp_path / IMAGES_LOCK).touch()
    with Store(tmp_path):
        assert not (tmp_path / IMAGES_LOCK).exists()


def test_an_interrupt_ends_all_and_the_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, notes = tmp_path / "one", tmp_path / "two", tmp_path / "notes"
    notes.mkdir()
    job = FakeRun(on_answer=Fate(notes, stops_the_parent="random"))
    assert run(two, job, jobs=2, bench=("gqa",), **FEW) == 130
    said = capsys.readouterr().err
    assert "interrupted; resume with: " in said and "Traceback" not in said
    assert not multiprocessing.active_children()
    assert run(two, bench=("gqa",), **FEW) == 0
    assert run(one, bench=("gqa",), **FEW) == 0
    assert derived(two) == derived(one) and len(derived(one)) == len(DERIVED)


class Unfit(FakeRun):
    """A run whose model cannot be loaded."""

    def load(self, show: Any) -> Any:
        raise UsageError("--model: it does not fit")


def test_what_a_process_refuses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--model: it does not fit"):
        run(tmp_path / "run", Unfit(), jobs=2, **FEW)
    assert not (tmp_path / "run").exists()
    assert not multiprocessing.active_children()


# --- devices ----------------------------------------------------------------------------------
def test_processors_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads.choose(4096, count) for count in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # as the user says
    assert threads.choose(4096, 4) == 3


def test_one_process_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    gpu = Runtime("cuda", "bfloat16", "sdpa")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments(Settings(), gpu, 2)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a,7")
    found = [e["CUDA_VISIBLE_DEVICES"] for e in environments(Settings(), gpu, 3)]
    assert found == ["4", "GPU-a", "7"]
    with pytest.raises(UsageError, match="4 processes on 3 visible cuda devices: at most one"):
        environments(Settings(), gpu, 4)
    with pytest.raises(UsageError, match="--device cuda:1 is one device; give --device cuda"):
        environments(Settings(device="cuda:1"), gpu, 2)


def test_bad_numbers_and_ranks_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--methods", "fastv", "--bench", "gqa"]
    for text in ("0", "-1", "two"):
        with pytest.raises(UsageError, match=r"^--jobs: expected a whole number"):
            parse([*words, f"--jobs={text}"])
    for text in ("0", "1", "-1", "nan", "inf", "soon"):
        with pytest.raises(UsageError, match=r"^--rank-timeout: expected seconds, at least 2"):
            parse([*words, f"--rank-timeout={text}"])
    monkeypatch.setattr(ranks, "_claimed", [ranks.Rank(0, 2, 0, 2, "127.0.0.1", 1)])
    for more in (["--jobs", "2"], ["--cluster", "local:2"]):
        assert main([*words, *more]) == 2
        said = capsys.readouterr().err
        assert f"{more[0]} runs in one process: start it without torchrun" in said
