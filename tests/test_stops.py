"""Signals: whichever comes, whenever it comes, the command ends with 130 and one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.common.roots import ROOT
from harness.common.stops import heed, stoppable

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
        ("methods", signal.SIGINT),
        ("numpy._core._multiarray_umath", signal.SIGTERM),
        pytest.param("torch.nn", signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param("harness.model.loading", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("harness.bench.benches", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("harness.bench.loop", signal.SIGTERM, marks=pytest.mark.slow),
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


@pytest.fixture
def deaf() -> Any:
    """A stream whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


RUN = """
import sys
from pathlib import Path
from typing import Any
from tests.fakes import FakeRun, run
sys.exit(run(Path(sys.argv[1]), FakeRun({fail}), bench=("gqa",), quiet=False))
"""


@pytest.mark.parametrize(
    ("fail", "code"),
    [pytest.param("", 0, marks=pytest.mark.slow), ("{'fastv': ValueError('no')}", 3)],
)
def test_a_reader_that_goes_ends_no_run(fail: str, code: int, deaf: int, tmp_path: Path) -> None:
    words = [sys.executable, "-c", RUN.format(fail=fail), str(tmp_path / "run")]
    done = subprocess.run(words, cwd=ROOT, stdout=deaf, stderr=deaf, timeout=120)
    assert done.returncode == code
    assert (tmp_path / "run/accuracy.csv").is_file() and (tmp_path / "run/report.html").is_file()
    assert (tmp_path / "run/cells.csv").read_text().count(",done,") == (3 if code == 0 else 2)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ("--list methods", 0),
        ("--list nothing", 2),
        pytest.param(
            "--costs-only --model llava-hf/llava-1.5-7b-hf --methods fastv --out {out}",
            0,
            marks=pytest.mark.slow,
        ),
        ("--diff {one} {two}", 0),
    ],
)
def test_a_reader_that_goes_changes_no_exit_code(
    argv: str, code: int, deaf: int, tmp_path: Path
) -> None:
    from tests.fakes import run

    if "--diff" in argv:
        run(tmp_path / "one", bench=("gqa",))
        run(tmp_path / "two", bench=("gqa",), limit=9)
    places = {name: tmp_path / name for name in ("out", "one", "two")}
    given = argv.format(**places).split()
    words = [sys.executable, "run_suite.py", *given]
    done = subprocess.run(words, cwd=ROOT, stdout=deaf, stderr=deaf, timeout=120)
    assert done.returncode == code
    assert "--costs-only" not in argv or (tmp_path / "out/cost.csv").is_file()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_dropped_is_heeded() -> None:
    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            len("the handler runs before this is over")

    dropped = []

    def wait() -> None:
        with stoppable():
            del_of(Last())
            dropped.append(True)
            heed()

    heed()
    with pytest.raises(KeyboardInterrupt):
        wait()
    assert dropped
    heed()  # nothing is left of it


def del_of(thing: Any) -> None:
    """The last reference goes with the call."""
