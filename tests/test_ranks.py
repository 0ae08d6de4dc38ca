"""Several processes answer one run: one process's bytes, whatever is killed, hangs or fails."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from harness.common.errors import CellError, UsageError
from harness.common.ranks import ALONE, from_environment
from harness.store.csvfile import read_rows
from harness.store.folder import read_run_json
from tests.fakes import derived, run
from tests.ranks_tools import BATCH, SMALL, Loop, said, together

TIMES = ("seconds", "finished_at", "rank_count")


def answers(out: Path) -> dict[str, bytes]:
    """All that answers, scores and readouts stand in."""
    files = [*out.glob("samples/*"), *out.glob("records/*"), *out.glob("routing/**/*.npz")]
    return {str(f.relative_to(out)): f.read_bytes() for f in files} | derived(out)


def cells(out: Path) -> list[dict[str, str]]:
    """The rows of cells.csv without what differs from day to day."""
    return [
        {k: v for k, v in row.items() if k not in TIMES} for row in read_rows(out / "cells.csv")
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(out, Loop(), **SMALL) == 0
    return out


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_processes_gives_the_bytes_of_one(
    count: int, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert together(out, count) == [0] * count
    assert answers(out) == answers(whole)
    assert cells(out) == cells(whole)
    assert {row["rank_count"] for row in read_rows(out / "cells.csv")} == {str(count)}
    assert read_run_json(out)["ranks"] == {"count": count, "devices": ["cpu"] * count}
    assert not (out / "partial").exists()
    assert all(said(out, number) == "" for number in range(1, count))


@pytest.mark.parametrize(("victim", "then"), [(0, 1), (1, 3)])
def test_killed_in_a_batch_and_started_again(
    victim: int, then: int, whole: Path, tmp_path: Path
) -> None:
    """SIGKILL in the middle of a batch; the same command goes on, also with another number."""
    begun, answered = multiprocessing.get_context("fork").Event(), []

    def kill(label: str, documents: list[int]) -> None:
        answered.append(documents)
        if len(answered) == 3:
            begun.set()
            os.kill(os.getpid(), signal.SIGKILL)

    def wait(label: str, documents: list[int]) -> None:
        begun.wait(10)

    out = tmp_path / "run"
    before = {victim: kill, 1 - victim: wait}
    assert together(out, 2, before=before)[victim] == -signal.SIGKILL
    assert not list(out.glob("samples/*"))
    assert list(out.glob("partial/*/*"))
    codes = [run(out, Loop(), **SMALL)] if then == 1 else together(out, then)
    assert codes == [0] * then, "; ".join(said(out, number) for number in range(2))
    assert answers(out) == answers(whole)
    assert cells(out) == cells(whole)


def test_nothing_is_answered_before_there_is_a_run(whole: Path, tmp_path: Path) -> None:
    """The second process is ready first, and is killed at once: what is left is gone on with."""

    def kill(label: str, documents: list[int]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    out = tmp_path / "run"
    codes = together(out, 2, before={1: kill}, loading={0: 0.5})
    assert codes[1] == -signal.SIGKILL
    assert (out / "run.json").is_file()
    assert run(out, Loop(), **SMALL) == 0, said(out)
    assert answers(out) == answers(whole)


def test_a_process_that_hangs_ends_the_run_with_one_line(whole: Path, tmp_path: Path) -> None:
    def stop(label: str, documents: list[int]) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    out = tmp_path / "run"
    codes = together(out, 2, before={1: stop}, rank_timeout=1.0)
    assert codes[0] == 3
    (line,) = said(out).strip().splitlines()
    assert "rank 1 of 2 is gone or stopped" in line
    assert "resume with: torchrun --nproc-per-node 2" in line
    assert together(out, 2) == [0, 0]
    assert answers(out) == answers(whole)


def test_a_process_that_lives_and_gets_nowhere(tmp_path: Path) -> None:
    def sleep(label: str, documents: list[int]) -> None:
        signal.pause()

    out = tmp_path / "run"
    assert together(out, 2, before={1: sleep}, rank_timeout=1.0)[0] == 3
    assert "rank 1 of 2 is hanging: no progress for 1 s (--rank-timeout)" in said(out)


def test_a_cell_that_fails_in_one_process_fails_and_the_others_go_on(
    whole: Path, tmp_path: Path
) -> None:
    def fail(label: str, documents: list[int]) -> None:
        if label.startswith("fastv") and 7 in documents:
            raise CellError("sample 7 is no picture")

    out = tmp_path / "run"
    codes = together(out, 3, before=fail)
    assert codes[0] == 3
    rows = read_rows(out / "cells.csv")
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert {row["error"] for row in rows if row["error"]} == {"sample 7 is no picture"}
    assert together(out, 2) == [0, 0]
    assert answers(out) == answers(whole)


def test_a_fault_in_another_process_is_kept_with_its_place(tmp_path: Path) -> None:
    def fault(label: str, documents: list[int]) -> None:
        raise ValueError("no such luck")

    out = tmp_path / "run"
    assert together(out, 2, before={1: fault})[0] == 3
    rows = read_rows(out / "cells.csv")
    assert any("rank 1: ValueError: no such luck" in row["error"] for row in rows)
    assert any("no such luck" in log.read_text() for log in out.glob("logs/*.txt"))


def test_memory_that_runs_out_in_one_process_is_recorded(tmp_path: Path) -> None:
    def full(label: str, documents: list[int]) -> None:
        if len(documents) > 2:
            raise MemoryError

    out = tmp_path / "run"
    assert together(out, 2, before={1: full}) == [0, 0]
    rows = [row for row in read_rows(out / "cells.csv") if row["batch_size"] != str(BATCH)]
    assert rows
    for row in rows:
        assert row["batch_size"] == "2"
        assert row["cell_id"] != row["requested_id"]
        assert row["notes"].startswith("out of memory at batch size 4, halved to 2; 1 of 23")


def test_other_code_in_one_process_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert together(out, 2, engine={1: "other"})[0] == 2
    assert said(out).startswith("run_suite.py: rank 1 has another source code than rank 0: other")
    assert said(out, 1) == ""
    assert not out.exists()


def test_what_the_launcher_says_of_a_process() -> None:
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1234"}
    asked = {**place, "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    rank = from_environment(asked)
    assert (rank.number, rank.count, rank.local, rank.here) == (5, 8, 1, 4)
    assert from_environment({}) == from_environment({**asked, "WORLD_SIZE": "1"}) == ALONE
    for wrong in ({"RANK": "8"}, {"LOCAL_RANK": "x"}, {"MASTER_PORT": ""}, {"LOCAL_RANK": "4"}):
        with pytest.raises(UsageError, match=r"torchrun|no number"):
            from_environment({**asked, **wrong})
