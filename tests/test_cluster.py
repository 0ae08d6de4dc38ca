"""--cluster: shares as tasks of a cluster, merged; what one loses the others do not."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.command.cli import parse
from harness.common.errors import UsageError
from harness.jobs import cluster
from harness.options.cluster import parse_cluster
from harness.options.runtime import Runtime
from harness.options.settings import Settings
from harness.store.csvfile import read_rows
from tests.fakes import FakeRun, derived, run, settings

FEW: dict[str, Any] = {"limit": 4, "bench": ("gqa",)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ray:4", "unknown kind of cluster 'ray': choose from local, slurm"),
        ("slrum:time=1h", "did you mean 'slurm'?"),
        ("local", "does not say how many tasks: local:2"),
        ("local:gpus=1:2", "'gpus=1' has no meaning with local"),
        ("local:0", "ends with the number of tasks: a whole number of at least 1, not '0'"),
        ("slurm:partition=a:4", "does not say for how long: add time=4h"),
        ("slurm:partion=a:time=1h", "unknown key 'partion': did you mean 'partition'?"),
        ("slurm:time=04:00:00:4", "time is minutes, or 90min, 4h, 2d, not '04'"),
        ("slurm:time=soon", "time is minutes, or 90min, 4h, 2d, not 'soon'"),
        ("slurm:time=1h:gpus=two", "gpus is a whole number of at least 1, not 'two'"),
        ("slurm:time=1h:mem=", "'mem=' in 'slurm:time=1h:mem=' is not key=value"),
        ("slurm:time=1h:time=2h", "time stands twice"),
    ],
)
def test_bad_specs_are_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"^--cluster: ") as error:
        parse(["--methods", "fastv", "--bench", "gqa", "--cluster", text])
    assert says in str(error.value)


def test_a_spec_asks_for_what_it_says() -> None:
    found = parse_cluster("slurm:partition=gpu:gpus=1:mem=64GB:time=4h:parallel=3:16")
    assert (found.tasks, parse_cluster(found.spec)) == (16, found)
    assert found.parameters == {
        "slurm_partition": "gpu", "gpus_per_node": 1, "mem_gb": 64, "timeout_min": 240,
        "slurm_array_parallelism": 3,
    }  # fmt: skip
    assert parse_cluster("slurm:time=90").parameters == {"timeout_min": 90}


def test_without_the_extra_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"pip install 'modsuite\[cluster\]'"):
        start(tmp_path / "run", FakeRun(), "local:2")
    assert not (tmp_path / "run").exists()
    words = ["--methods", "mqt", "--bench", "gqa", "--out", str(tmp_path / "run")]
    with pytest.raises(UsageError, match="--shard and --cluster exclude each other"):
        parse([*words, "--cluster", "local:2", "--shard", "1/2"])


def start(out: Path, job: FakeRun, spec: str, **changes: Any) -> int:
    job.settings = dataclasses.replace(settings(out, **FEW), cluster=spec, **changes)
    job.argv = ["--out", str(out), "--cluster", spec]
    return cluster.run_cluster(job)


@dataclass
class Fate:
    """What happens to a task that has answered the second document of a method."""

    method: str

    def __call__(self, method: str, doc: int) -> None:
        if method == self.method and doc == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_task_is_reported_and_the_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr("reports.build.build_report", lambda out: out / "report.html")
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert run(whole, **FEW) == 0
    assert start(out, FakeRun(on_answer=Fate("random")), "local:2") == 3
    said = capsys.readouterr().err
    assert "task 2/2 ended without a result" in said and "the same command goes on" in said
    assert "of 3 cells 1 missing (random on gqa)" in said and "--shard" not in said
    assert [row["method"] for row in read_rows(out / "cells.csv")] == ["dense", "fastv"]
    assert start(out, FakeRun(), "local:2") == 0
    assert derived(out) == derived(whole)
    about = json.loads((out / "run.json").read_text())
    assert "shard" not in about["settings"] and not (out / "shares").exists()
    assert start(out, FakeRun(), "local:1") == 0  # nothing is left, in whatever cut
    assert run(out, **FEW) == 0  # the run of one process
    with pytest.raises(UsageError, match="was made with --seed 0, now it is --seed 1"):
        start(out, FakeRun(), "local:2", seed=1)


class Loaded(FakeRun):
    """A run whose stand-in says how many threads it was told to have."""

    def runtime(self, source: Any) -> Runtime:
        return Runtime("cpu", "float32", "sdpa", threads_of(self.settings))


def threads_of(asked: Settings) -> int:
    return asked.threads if isinstance(asked.threads, int) else 77


def test_local_tasks_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr("reports.build.build_report", lambda out: out / "report.html")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert start(tmp_path / "run", Loaded(), "local:1") == 0
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["settings"]["threads"] == 3


# A scheduler of four commands: an array's tasks begin at once, on this machine.
COMMANDS = {
    "sbatch": r"""#!{python}
import os, re, subprocess, sys
first, last = re.search(r"--array=(\d+)-(\d+)", open(sys.argv[-1]).read()).groups()
for n in range(int(first), int(last) + 1):
    about = dict(SLURM_JOB_ID=str(701 + n), SLURM_ARRAY_JOB_ID="700", SLURM_ARRAY_TASK_ID=str(n),
                 SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0", SLURM_NTASKS="1",
                 SLURM_JOB_NUM_NODES="1", SLURM_JOB_NODELIST="localhost")
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # else it is waited for
    subprocess.Popen(["bash", sys.argv[-1]], env=os.environ | about, **quiet)
print("Submitted batch job 700")
""",
    "srun": """#!/bin/bash
while [[ "$1" == -* ]]; do [[ "$1" == --unbuffered ]] && shift || shift 2; done
exec "$@"
""",
    "sacct": """#!/bin/bash
echo "JobID|State|NodeList"
for n in 0 1; do
    [[ -e "$TASKS/700_${n}_0_result.pkl" ]] && state=COMPLETED || state=RUNNING
    echo "700_$n|$state|localhost"
done
""",
    "scancel": "#!/bin/bash\n",
}


@pytest.mark.slow
def test_an_array_is_submitted_waited_for_and_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against stand-ins for the scheduler's commands: there is no SLURM here."""
    pytest.importorskip("submitit")
    place, out, whole = tmp_path / "bin", tmp_path / "run", tmp_path / "whole"
    place.mkdir()
    for name, text in COMMANDS.items():
        (place / name).write_text(text.replace("{python}", sys.executable))
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("reports.build.build_report", lambda out: out / "report.html")
    monkeypatch.setenv("TASKS", str(out / "cluster"))
    monkeypatch.setitem(cluster.LOOK, "slurm", 0.5)
    assert start(out, FakeRun(), "slurm:partition=gpu:gpus=1:mem=8GB:time=4h:parallel=1:2") == 0
    script = (out / "cluster" / "700_submission.sh").read_text()
    for line in ("--array=0-1%1", "--partition=gpu", "--gpus-per-node=1", "--mem=8GB"):
        assert f"#SBATCH {line}\n" in script
    assert "#SBATCH --time=240\n" in script
    assert run(whole, **FEW) == 0
    assert derived(out) == derived(whole)


def test_without_a_scheduler_slurm_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"--cluster: .*srun"):
        start(tmp_path / "run", FakeRun(), "slurm:time=1h:2")
