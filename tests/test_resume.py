"""Resuming a run: after nothing, an interrupt, a kill, a failure, a torn line, other settings."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.store.csvfile import read_rows, repair
from harness.store.folder import check_out, read_run_json
from harness.store.rundir import Store
from tests.fakes import DOCUMENTS, FakeRun, derived, run


def test_a_second_run_computes_nothing_and_loads_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out)
    before, cells = derived(out), (out / "cells.csv").read_bytes()
    again = FakeRun()
    assert run(out, again) == 0
    assert again.computed == []
    assert again.loads == 0
    assert derived(out) == before
    assert (out / "cells.csv").read_bytes() == cells


def test_an_interrupted_run_resumes_inside_the_cell_to_the_same_bytes(tmp_path: Path) -> None:
    def stop(method: str, doc: int) -> None:
        if method == "fastv" and doc == 10:
            raise KeyboardInterrupt

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole)
    assert run(cut, FakeRun(on_answer=stop)) == 130
    assert pd.read_csv(cut / "cells.csv").method.tolist() == ["dense"]
    rest = FakeRun()
    assert run(cut, rest) == 0
    assert rest.answered == 5 * DOCUMENTS - 11
    assert derived(cut) == derived(whole)
    assert len(json.loads((cut / "run.json").read_text())["resumed"]) == 1


def test_a_failed_cell_is_tried_again_and_then_replaced(tmp_path: Path) -> None:
    out = tmp_path / "run"
    broken = FakeRun(fail={"fastv": ValueError("no such luck")})
    assert run(out, broken) == 3
    rows = read_rows(out / "cells.csv")
    assert [r["status"] for r in rows] == ["done", "failed", "done"] * 2
    assert rows[1]["error"] == "ValueError: no such luck"
    assert rows[1]["n"] == ""
    assert "fastv" not in (out / "accuracy.csv").read_text()
    assert "no such luck" in next((out / "logs").iterdir()).read_text()
    assert run(out) == 0
    rows = read_rows(out / "cells.csv")
    assert [r["status"] for r in rows] == ["done"] * 6
    assert len({r["cell_id"] for r in rows}) == 6
    whole = tmp_path / "whole"
    run(whole)
    assert derived(out) == derived(whole)
    assert [r["cell_id"] for r in rows] == [r["cell_id"] for r in read_rows(whole / "cells.csv")]


def test_out_of_memory_halves_are_another_cell_but_not_computed_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, FakeRun(batch_that_fits=2), batch_size=8) == 0
    rows = read_rows(out / "cells.csv")
    assert {r["batch_size"] for r in rows} == {"2"}
    assert all(r["cell_id"] != r["requested_id"] for r in rows)
    again = FakeRun()
    assert run(out, again, batch_size=8) == 0
    assert again.computed == []


def test_lost_samples_are_computed_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out)
    before = derived(out)
    lost = read_rows(out / "cells.csv")[2]["cell_id"]
    (out / "samples" / f"{lost}.csv").unlink()
    again = FakeRun()
    assert run(out, again) == 0
    assert again.computed == ["random gqa"]
    assert derived(out) == before
    assert len(read_rows(out / "cells.csv")) == 6


SCRIPT = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from tests.fakes import FakeRun, run
    sys.exit(run(Path(sys.argv[1]), FakeRun(pause=0.002)))
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """kill -9, several times: every file stays readable, the end is that of an undisturbed run."""
    whole, out = tmp_path / "whole", tmp_path / "killed"
    run(whole)
    script = textwrap.dedent(SCRIPT.format(root=str(ROOT)))
    kills = 0
    for delay in (0.02, 0.11, None):
        process = subprocess.Popen([sys.executable, "-c", script, str(out)], cwd=ROOT)
        if delay is not None:
            _wait_for_work(out, process)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        code = process.wait(timeout=60)
        kills += code == -signal.SIGKILL
        for path in out.rglob("*.csv"):
            assert len(pd.read_csv(path).columns) > 5
    assert code == 0
    assert kills >= 2
    assert derived(out) == derived(whole)
    ids = [row["cell_id"] for row in read_rows(out / "cells.csv")]
    assert len(ids) == len(set(ids)) == 6
    assert not list(out.rglob("*.tmp*"))


def _wait_for_work(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Until this process has begun to answer (its log grows), or has ended."""
    before = _work_done(out)
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        if _work_done(out) != before:
            return
        time.sleep(0.005)


def _work_done(out: Path) -> tuple[int, int]:
    logs = [p.stat().st_size for p in out.glob("partial/*/answers.jsonl")]
    return len(list(out.glob("samples/*.csv"))), sum(logs)


# --- other settings, other users ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"limit": 5}, "--limit 5"),
        ({"seed": 3}, "--seed 3"),
        ({"batch_size": 4}, "--batch-size 4"),
        ({"methods": ("fastv:k=3", "random")}, "--methods dense,fastv:k=3,random"),
        ({"bench": ("gqa",)}, "--bench gqa"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    out = tmp_path / "run"
    run(out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="was made with") as caught:
        run(out, **changes)
    assert named in str(caught.value)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


def test_the_same_settings_written_differently_are_the_same(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out)
    again = FakeRun()
    assert run(out, again, methods=("dense", "fastv:k=2", "random"), verbose=True, quiet=False) == 0
    assert again.computed == []


@pytest.mark.parametrize(
    ("part", "file"), [("weight_hashes", "model.safetensors"), ("setting_hashes", "config.json")]
)
def test_changed_model_files_are_refused(tmp_path: Path, part: str, file: str) -> None:
    out = tmp_path / "run"
    run(out)
    other = FakeRun()
    setattr(other.model, part, {file: "bb"})
    with pytest.raises(UsageError, match=f"{file} of fake-model changed"):
        run(out, other)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="holds other files"):
        run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_and_a_crash_before_the_first_file_are_fine(tmp_path: Path) -> None:
    (tmp_path / "run.lock").touch()
    (tmp_path / "run.json.tmp-123").write_text("{")
    assert check_out(tmp_path, {}) is False
    assert run(tmp_path) == 0
    assert not list(tmp_path.glob("*.tmp*"))


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(UsageError, match="another run is writing"):
        run(tmp_path)
    assert run(tmp_path) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no schema_version"),
        ('{"schema_version": 99}', "this program knows 1"),
    ],
)
def test_a_run_json_that_cannot_be_trusted(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_run_json(tmp_path)


def test_a_torn_last_line_is_left_out_then_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    run(out)
    before = derived(out)
    path = out / "cells.csv"
    content = path.read_bytes()
    path.write_bytes(content[:-40])  # the last cell's row is cut in the middle
    assert len(read_rows(path)) == 5
    again = FakeRun()
    assert run(out, again) == 0
    assert again.computed == ["random pope"]
    assert derived(out) == before
    warnings = [line for line in capsys.readouterr().err.splitlines() if "cut off" in line]
    assert len(warnings) == 1
    assert repair(path) is False
