"""Threads of a model on a CPU: chosen by a rule, asleep while they wait, fixed for a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.command.cli import parse
from harness.common import processor, threads
from harness.common.errors import UsageError
from harness.jobs.resolve import runtime_of
from harness.options.settings import Settings
from harness.store.csvfile import read_rows
from tests.fakes import FakeRun, run

OURS = (*threads.SET, "OMP_NUM_THREADS")
QUIET = {name: value for name, value in os.environ.items() if name not in OURS}


def in_python(code: str, **env: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=QUIET | env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_modsuite_lets_threads_sleep_and_loads_no_torch() -> None:
    code = "import modsuite, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    assert in_python(code) == "passive False"


@pytest.mark.parametrize("name", threads.SET)
def test_what_the_user_says_of_waiting_is_left_alone(name: str) -> None:
    code = f"import modsuite, os; print({{n: os.environ.get(n) for n in {threads.SET}}})"
    expected = dict.fromkeys(threads.SET) | {name: "7"}
    assert in_python(code, **{name: "7"}) == str(expected)


@pytest.mark.parametrize(
    ("hidden", "cores", "waiting", "asked", "expected"),
    [
        (288, 2, "passive", "", 2),
        (288, 64, "passive", "", 2),  # more would have nothing to do
        (288, 64, "", "", 1),  # they would spin
        (64, 8, "passive", "", 1),
        (4096, 16, "passive", "", 16),
        (4096, 16, "", "", 16),
        (4096, 16, "passive", "3", 3),
        (288, 2, "passive", "4,2", 4),  # OpenMP's list of nesting levels
        (288, 2, "passive", "no number", 2),
    ],
)
def test_auto(
    hidden: int, cores: int, waiting: str, asked: str, expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in threads.SET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", waiting)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(threads, "cores", lambda: cores)
    assert threads.choose(hidden) == expected


def test_a_run_directory_keeps_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = Settings(device="cpu", out=str(tmp_path))

    def recorded(**made: object) -> None:
        about = {"schema_version": 1, "settings": made}
        (tmp_path / "run.json").write_text(json.dumps(about))

    with threads.kept():
        assert runtime_of(settings, True, 288).threads == 1  # nothing is there yet
        recorded(threads=3)
        assert runtime_of(settings, True, 288).threads == torch.get_num_threads() == 3
        assert runtime_of(replace(settings, threads=1), True, 288).threads == 1  # refused later
        recorded(seed=0)  # from before threads were recorded
        assert runtime_of(settings, True, 288).threads is None
        assert torch.get_num_threads() == 1


def test_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.jobs.resolve.cores", lambda: 2)
    with pytest.raises(UsageError, match="--threads: 3 asked for, this process may use 2 cores"):
        runtime_of(Settings(device="cpu", threads=3), True, 288)


@pytest.mark.parametrize("wrong", ["0", "many", "1.5", "100000"])
def test_bad_numbers_are_one_line(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"^--threads: expected"):
        parse(["--methods", "fastv", "--bench", "gqa", "--threads", wrong])


def test_threads_stand_beside_every_cell(tmp_path: Path) -> None:
    import torch

    assert run(tmp_path / "run") == 0
    rows = read_rows(tmp_path / "run" / "cells.csv")
    assert {row["threads"] for row in rows} == {str(torch.get_num_threads())}
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["threads"] == torch.get_num_threads()


def test_answers_come_in_batches_unless_asked_otherwise(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, FakeRun(), batch_size=None) == 0
    assert {row["batch_size"] for row in read_rows(out / "cells.csv")} == {"8"}
    said = "--methods fastv --bench gqa --throughput", "--methods fastv --costs-only"
    assert [parse(words.split())[1].batch for words in said] == [1, 1]


@pytest.mark.parametrize(
    ("flags", "dtype", "slow"),
    [
        ("avx2 fma", "bfloat16", True),
        ("avx2 avx512_bf16", "bfloat16", False),
        ("avx2 avx512_bf16", "float16", True),
        ("asimd bf16", "bfloat16", False),
        ("avx2", "float32", False),
        ("", "bfloat16", False),  # a system that does not tell
    ],
)
def test_half_precision_without_hardware_is_said(
    flags: str, dtype: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "flags", lambda: frozenset(flags.split()))
    assert bool(processor.lacks(dtype)) is slow
