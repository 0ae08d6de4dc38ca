"""Places that cannot be read or written: one line, the contract's exit code, nothing lost."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.jobs.benchmarks import Benchmarks
from harness.store.csvfile import read_rows
from tests.fakes import FakeRun, FakeSource, run


class RealBenches(FakeRun):
    bench = Benchmarks.bench


def test_an_unknown_bench(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown bench 'gqua': did you mean 'gqa'\?"):
        run(tmp_path / "run", RealBenches(), bench=("gqua",))
    assert not (tmp_path / "run").exists()


def test_a_dataset_that_is_not_here_is_named(tmp_path: Path) -> None:
    parts = RealBenches()
    parts.model = FakeSource(mini=False)
    with pytest.raises(UsageError, match=r"gqa needs the dataset .*GQA") as caught:
        run(tmp_path / "run", parts, bench=("gqa",), data="hub")
    assert "hf download" in str(caught.value)
    assert not (tmp_path / "run").exists()


# --- the run directory --------------------------------------------------------------------------


def test_out_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match=r"--out: .*is a file"):
            run(out)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a place nobody can write to")
def test_out_that_cannot_be_written() -> None:
    parts = FakeRun()
    with pytest.raises(UsageError, match="--out: cannot write"):
        run(Path("/proc/self/run"), parts)
    assert parts.computed == []


FULL_DISK = """
    import resource, sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from tests.fakes import FakeRun, run
    import harness.readouts.derive, harness.jobs.benchmarks, scipy.stats
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    sys.exit(run(Path({out!r}), FakeRun()))
"""


def test_a_disk_that_fills_up_ends_the_run_with_one_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = FULL_DISK.format(root=str(ROOT), limit=12_000, out=str(out))
    done = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 3
    assert len(lines) == 1, done.stderr
    assert "File too large" in lines[0]
    assert "resume with: python run_suite.py" in lines[0]
    for row in read_rows(out / "cells.csv"):  # whatever was finished before is whole
        assert (out / "samples" / f"{row['cell_id']}.csv").is_file()
    assert run(out) == 0
