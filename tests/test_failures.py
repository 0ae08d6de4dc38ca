"""What goes wrong while a run is going on: one cell, the report, an interrupt."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.common.errors import CellError, UsageError
from harness.common.roots import ROOT
from harness.jobs.runner import run as run_job
from harness.store.csvfile import read_rows
from reports.build import build_report
from tests.fakes import FakeRun, run, settings
from tests.tiers import some


def test_nan_logits_fail_the_cell_and_only_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = CellError("method fastv: NaN logits in sample gqa/3 at answer token 1")
    assert run(tmp_path / "run", FakeRun(fail={"fastv": error})) == 3
    rows = {(r["method"], r["bench"]): r for r in read_rows(tmp_path / "run/cells.csv")}
    assert rows["fastv", "gqa"]["status"] == "failed"
    assert rows["fastv", "gqa"]["error"] == str(error)
    assert rows["random", "gqa"]["status"] == "done"
    said = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert len(said) == 2  # a line for each bench, though the run is quiet


def test_what_is_wrong_with_samples_stands_in_the_row_and_the_report(tmp_path: Path) -> None:
    class Damaged(FakeRun):
        def evaluate(self, *args: Any, **options: Any) -> Any:
            assert options["allow"] == ("over-length",)
            note = "truncated images, their rest grey: 2 in 24 samples"
            found = super().evaluate(*args, **options)
            return replace(found, over_length=3, truncated_images=2, notes=(note,))

    out = tmp_path / "run"
    assert run(out, Damaged(), allow=("over-length",)) == 0
    rows = read_rows(out / "cells.csv")
    assert {(r["over_length"], r["truncated_images"]) for r in rows} == {("3", "2")}
    build_report(out)
    assert "truncated images, their rest grey: 2 in 24" in (out / "report.md").read_text()
    # Escaped, so that Markdown makes no address of it.
    assert r"documents\@ff (gqa and pope)" in (out / "report.md").read_text()
    with pytest.raises(UsageError, match="--allow over-length"):  # another run
        run(out, Damaged())


def test_a_failing_dense_cell_leaves_the_others_without_a_reference(tmp_path: Path) -> None:
    assert run(tmp_path / "run", FakeRun(fail={"dense": RuntimeError("boom")})) == 3
    rows = read_rows(tmp_path / "run/accuracy.csv")
    assert {r["method"] for r in rows} == {"fastv", "random"}
    assert {r["delta"] + r["verdict"] + r["dense_value"] for r in rows} == {""}


def test_a_report_that_cannot_be_drawn_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class NoReport(FakeRun):
        def report(self, run_dir: Path) -> Path:
            raise ValueError("no ink")

    assert run(tmp_path / "run", NoReport()) == 3
    assert "--plots-only" in capsys.readouterr().err
    assert len(read_rows(tmp_path / "run/cells.csv")) == 6


@pytest.mark.parametrize(
    "number", some([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], signal.SIGINT)
)
def test_ctrl_c_prints_the_resume_command(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from tests.fakes import FakeRun, run
        sys.exit(run(Path({str(out)!r}), FakeRun(pause=0.02)))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Started in the background, a shell's children ignore Ctrl-C; this one must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 30
    while not list(out.glob("partial/*/answers.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines() == [
        f"run_suite.py: interrupted; resume with: python run_suite.py --out {out}"
    ]
    assert run(out) == 0


def test_the_default_folder_is_named_in_the_resume_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(method: str, doc: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    wish = dataclasses.replace(settings(tmp_path), out=None)
    argv = ["--methods", "fastv,random", "--bench", "gqa,pope"]
    job = FakeRun(on_answer=stop)
    job.settings, job.argv = wish, argv
    assert run_job(job) == 130
    (made,) = (tmp_path / "runs").iterdir()
    said = capsys.readouterr().err.strip()
    assert said.endswith(f"python run_suite.py {' '.join(argv)} --out runs/{made.name}")
