"""What the command does under a launcher: refusals, one line, and torchrun itself (slow)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.command.cli import main
from harness.common import ranks
from harness.common.errors import UsageError
from harness.common.roots import ROOT
from tests.test_ranks import answers, cells

import torch  # isort: skip  behind the fixtures, which prepare torchvision


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is the first of two processes."""
    monkeypatch.setattr(ranks, "_claimed", [ranks.Rank(0, 2, 0, 2, "127.0.0.1", 1)])


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--throughput --methods fastv --workload n_text=5", "--throughput"),
        ("--costs-only --methods fastv", "--costs-only"),
        ("--methods fastv --bench gqa --with-throughput", "--with-throughput"),
        ("--methods fastv --bench gqa --analyse arank", "--analyse"),
        ("--methods fastv --bench gqa --device-map auto", "--device-map"),
        ("--list methods", "--list"),
        ("--derive somewhere", "--derive"),
        ("pack somewhere --to elsewhere", "pack"),
    ],
)
def test_what_several_processes_do_not_do_is_refused(
    words: str, what: str, first: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"run_suite.py: {what} runs in one process: start it without torchrun")


def test_each_process_takes_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.model.loading import pick_device

    def become(local: int, here: int, devices: int) -> None:
        monkeypatch.setattr(ranks, "_claimed", [ranks.Rank(local, here, local, here)])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)

    become(1, 2, 2)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="cuda:0 is one device, and 2 processes run"):
        pick_device("cuda:0")
    become(2, 4, 2)
    with pytest.raises(UsageError, match=r"4 processes and 2 CUDA devices .*--nproc-per-node 2"):
        pick_device("auto")
    become(1, 2, 1)  # its launcher shows each process one device
    assert pick_device("auto") == torch.device("cuda:0")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_torchrun_gives_the_bytes_of_one_process(tmp_path: Path) -> None:
    words = ["--methods", "fastv,pmod", "--bench", "gqa", "--limit", "10", "--batch-size", "2"]
    words += ["--quiet", "--out"]
    environment = {k: v for k, v in os.environ.items() if k not in ranks.WORDS}
    environment |= {"OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for start, out in (
        ([sys.executable], "1"),
        ([*launch, "2"], "2"),
        ([*launch, "3"], "3"),
    ):
        command = [*start, "run_suite.py", *words, str(tmp_path / out)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=600)
    for out in ("2", "3"):
        assert answers(tmp_path / out) == answers(tmp_path / "1")
        assert cells(tmp_path / out) == cells(tmp_path / "1")


def test_threads_are_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun sets where nobody has chosen is no choice; another number is."""
    from harness.common import threads

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads.choose(4096) == 1
    monkeypatch.setattr(ranks, "_claimed", [ranks.Rank(0, 2, 0, 2)])
    assert threads.choose(4096) == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.choose(4096) == 3
