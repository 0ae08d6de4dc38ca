"""Signals: whichever comes, whenever it comes, the command ends with 130 and one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.common.roots import ROOT
from harness.common.stops import stoppable

# The signal comes while the named module is looked for: from the first import to the planning.
STOPPED = """
import os, runpy, sys

class At:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, At())
sys.argv = ["run_suite.py", *{argv!r}]
runpy.run_path("run_suite.py", run_name="__main__")
"""
ARGV = ["--methods", "random", "--bench", "pope", "--limit", "1", "--quiet"]


def stopped(
    name: str, number: int, argv: list[str], ignored: bool = False
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", STOPPED.format(name=name, number=int(number), argv=argv)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        # A shell's background children ignore Ctrl-C, and nohup's a closed terminal.
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("harness.command.cli", signal.SIGTERM),
        ("harness.options.settings", signal.SIGHUP),
        ("methods", signal.SIGINT),
        ("numpy._core._multiarray_umath", signal.SIGTERM),
        ("torch.nn", signal.SIGHUP),
        ("harness.model.loading", signal.SIGTERM),
        ("harness.bench.benches", signal.SIGINT),
        ("harness.bench.loop", signal.SIGTERM),
    ],
)
def test_a_signal_at_any_moment(name: str, number: int, tmp_path: Path) -> None:
    argv = [*ARGV, "--out", str(tmp_path / "run")]
    done = stopped(name, number, argv)
    again = "python run_suite.py " + " ".join(argv)
    assert done.stderr == f"run_suite.py: interrupted; resume with: {again}\n"
    assert (done.returncode, done.stdout) == (130, "")


def test_nohup_is_obeyed() -> None:
    done = stopped("harness.options.settings", signal.SIGHUP, ["--list", "suites"], ignored=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "first-light" in done.stdout


def test_an_error_that_a_signal_caused_is_an_interrupt() -> None:
    def interrupted_import() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:  # as an extension module's start does
            raise ImportError("initialization failed") from None

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(KeyboardInterrupt), stoppable():
        interrupted_import()
    with pytest.raises(ValueError, match="its own"), stoppable():  # the next is not blamed on it
        raise ValueError("its own")
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)] == before


def test_a_forked_worker_just_ends() -> None:
    with stoppable():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
