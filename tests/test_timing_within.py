"""``--with-throughput``: a run on benchmarks that is timed as well. No time is asserted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.command.cli import main, parse
from harness.jobs import within
from harness.jobs.benchmarks import Benchmarks
from harness.options.settings import Settings
from harness.timing import workrun
from tests.fakes import FakeRun, without_counters, without_report
from tests.fakes import run as run_fakes

LITTLE = ["--repeats", "6", "--warmup", "1", "--min-seconds", "0", "--quiet", "--device", "cpu"]
WORK = "bench=gqa:n_out=2:batch=1"


def command(out: Path, *more: str) -> list[str]:
    base = ["--methods", "pmod", "--bench", "gqa", "--limit", "1", "--batch-size", "1"]
    return [*base, "--with-throughput", "--n-out", "2", *LITTLE, "--out", str(out), *more]


pytestmark = pytest.mark.usefixtures("uncounted")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All answers are there; the times were stopped before the first was written."""
    out = tmp_path_factory.mktemp("runs") / "cut"

    def stop(*args: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        without_counters(patch)
        patch.setattr(workrun, "measure", stop)
        assert main(command(out)) == 130
    return out


@pytest.fixture(scope="module")
def done(interrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    shutil.copytree(interrupted, out)
    with pytest.MonkeyPatch.context() as patch:
        without_counters(patch)
        without_report(patch)
        patch.setattr("harness.jobs.benchmarks.run_cell", lambda *a: pytest.fail("repeated"))
        patch.setattr(within, "busy_now", lambda: "busy machine: 1.9 of 2 cores in use")
        assert main(command(out)) == 0
    return out


def test_an_interrupt_keeps_the_answers_and_the_times_go_on(interrupted: Path, done: Path) -> None:
    before = pd.read_csv(interrupted / "cells.csv")
    assert before.bench.tolist() == ["gqa"] * 2
    assert not (interrupted / "throughput.csv").exists()
    after = pd.read_csv(done / "cells.csv")
    assert after.cell_id.tolist()[:2] == before.cell_id.tolist()
    assert after.bench.tolist() == ["gqa"] * 2 + [WORK] * 2
    assert (after.status == "done").all()
    assert after.cell_id.is_unique
    assert after.data.tolist() == ["mini"] * 4
    for name in ("accuracy.csv", "cost.csv"):
        assert (done / name).read_bytes() == (interrupted / name).read_bytes()


def test_the_times_are_of_the_same_methods_weights_and_conditions(done: Path) -> None:
    cells = pd.read_csv(done / "cells.csv")
    table = pd.read_csv(done / "throughput.csv")
    columns = ["method", "params", "label", "dtype", "attn", "batch_size", "device"]
    answers, times = cells[cells.bench == "gqa"], cells[cells.bench == WORK]
    assert answers[columns].values.tolist() == times[columns].values.tolist()
    assert set(table.bench) == {"gqa"}
    assert set(table.workload) == {WORK}
    about = json.loads((done / "run.json").read_text())
    assert about["settings"]["workload"] == [WORK]
    assert about["settings"]["repeats"] == 6
    assert about["settings"]["limit"] == 1
    assert about["timing"]["device_name"] == table.device[0]
    assert about["checkpoints"].keys() >= {"pmod"}


@pytest.mark.usefixtures("undrawn")
def test_nothing_is_left_to_do_the_third_time(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = (done / "throughput.csv").read_bytes()
    monkeypatch.setattr(Benchmarks, "load", lambda *a: pytest.fail("nothing was left"))
    assert main(command(done)) == 0
    assert (done / "throughput.csv").read_bytes() == table


def test_the_report_joins_times_to_accuracy(done: Path, paint: Callable[..., None]) -> None:
    paint("waterfall")
    assert main(["--plots-only", str(done)]) == 0
    page = (done / "report.md").read_text()
    head, overview = page.split("## Methods, best first")
    overview, times = (part.split("\n## ")[0] for part in
                       (overview, page.split("## Speed-up over dense")[1]))  # fmt: skip
    assert "Speed-up<br>gqa, 2 new, batch 1, end to end" in overview
    table = pd.read_csv(done / "throughput.csv").set_index(["label", "phase"])
    row = next(line for line in overview.splitlines() if line.startswith("| pmod"))
    assert f"{table.loc[('pmod', 'end_to_end'), 'speedup_vs_dense']:.2f}×" in row
    row = next(line for line in times.splitlines() if line.startswith("| pmod"))
    ms = table.loc[("pmod", "end_to_end"), "median_ms"]
    assert f"{ms:.{0 if ms >= 1000 else 1}f} ms" in row
    assert f"of {table.loc[('pmod', 'prefill'), 'flops_ratio']:.2f}×" in row
    assert WORK not in overview  # a workload is no bench
    assert "2 of 2 cells done. Measured times of 1 method" in head
    assert "busy machine: 1.9 of 2 cores in use" in head
    assert "Rounds asked for | 6" in head
    assert "busy" in (done / "figures" / "waterfall.svg").read_text()  # the watermark
    for title in ("Phase by phase", "Where the time goes", "Every cell"):
        assert f"## {title}" in page


def test_a_failed_time_is_exit_code_3_and_the_report_says_it(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    honest = workrun.PHASES.record

    def record(plan: Any, bench: Any, entry: Any, prompts: Any) -> None:
        if entry.cell.method.name == "pmod":
            raise MemoryError
        honest(plan, bench, entry, prompts)

    monkeypatch.setattr(workrun, "PHASES", dataclasses.replace(workrun.PHASES, record=record))
    assert main(command(out)) == 3
    assert f"pmod on {WORK} failed: out of memory at batch 1" in capsys.readouterr().err
    cells = pd.read_csv(out / "cells.csv")
    assert cells[cells.status == "failed"].bench.tolist() == [WORK]
    page = (out / "report.md").read_text()
    assert "## Failed and missing times" in page
    assert "out of memory at batch 1" in page
    assert "2 of 2 cells done." in page
    assert "1 of 2 cells done, 1 failed." in page


def test_a_hook_left_on_the_model_stops_the_times(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    honest = within.release

    def leave(loaded: Any) -> None:
        honest(loaded)
        layer = loaded.model.model.language_model.layers[0]
        layer.register_forward_hook(Settings.recorded)  # any function of the harness

    monkeypatch.setattr(within, "release", leave)
    assert main(command(out)) == 3
    assert "nothing was timed: a hook of ours is left on model" in capsys.readouterr().err
    assert "a hook of ours" in (out / "report.md").read_text()


def test_times_of_another_device_do_not_join(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(within, "device_name", lambda wish: "Other GPU")
    assert main(command(done)) == 2
    assert "times of two devices do not mix" in capsys.readouterr().err


def test_workloads_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def time_all(plan: Any, bench: Any, todo: Any, *rest: Any) -> bool:
        asked.extend(work.spec for work in todo)
        return False

    monkeypatch.setattr(within, "time_all", time_all)
    base = ["--methods", "dense", "--bench", "gqa", "--limit", "1", "--with-throughput", *LITTLE]
    work = "n_text=9:n_out=2:batch=2"
    assert main([*base, "--workload", work, "--out", str(tmp_path / "run")]) == 0
    assert asked == [work]
    assert "Nothing has been timed (yet)." in (tmp_path / "run" / "report.md").read_text()


def test_an_ordinary_run_records_and_resumes_as_before(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run_fakes(out, FakeRun()) == 0
    recorded = json.loads((out / "run.json").read_text())["settings"]
    assert not {"with_throughput", "workload", "repeats", "n_out", "throughput"} & set(recorded)
    _, settings = parse(["--methods", "pmod", "--bench", "gqa", "--with-throughput"])
    more = set(settings.recorded()) - set(Settings().recorded())
    timed = {"workload", "repeats", "warmup", "min_seconds", "max_seconds", "n_out"}
    assert more == {"with_throughput", *timed}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--throughput"], "--with-throughput and --throughput exclude each other"),
        (["--costs-only"], "--with-throughput and --costs-only exclude each other"),
        (["--list", "methods"], "has no meaning with --list"),
        (["--random-weights"], "--random-weights has no meaning with a run on benchmarks"),
        (["--layers", "2"], "--layers has no meaning with a run on benchmarks"),
        (["--n-text", "5"], "--n-text has no meaning with a run on benchmarks"),
        (["--workload", "batch=2"], "--n-out has no meaning beside --workload"),
        (["--repeats", "5"], "at least 6"),
        (["--n-out", str(10**9)], "no batch fits"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    more: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(out, *more)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not out.exists()


def test_a_study_is_not_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--suite", "ablate-pmod-norm", "--with-throughput"]) == 2
    assert "--with-throughput has no meaning with a study" in capsys.readouterr().err
    suite = tmp_path / "timed.yaml"
    suite.write_text("methods: pmod\nbench: gqa\nwith_throughput: true\nrepeats: 40\n")
    assert parse(["--suite", str(suite)])[1].with_throughput


# --- the device's state, from a reader that pretends ------------------------------------------
def test_a_busy_and_throttled_gpu_is_said_everywhere(
    interrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    paint: Callable[..., None],
) -> None:
    from harness.timing.device import Reading

    class Reader:
        there = True

        def __init__(self, bus_id: str | None) -> None:
            pass

        def read(self) -> Reading:
            return Reading(sm_mhz=900.0, celsius=91.0, slowed=("heat",))

        def others(self) -> int:
            return 2

    monkeypatch.setattr(within, "Watch", Reader)
    monkeypatch.setattr(within, "busy_now", lambda: "")
    paint("waterfall")
    out = tmp_path / "run"
    shutil.copytree(interrupted, out)
    assert main(command(out)) == 0
    notes = pd.read_csv(out / "throughput.csv").notes
    assert notes.str.contains("busy device: 2 other processes on it").all()
    assert notes.str.contains("throttled device: heat").all()
    page = (out / "report.md").read_text()
    assert "busy device: 2 other processes on it" in page
    assert "throttled device: heat" in page
    assert "Device state | recorded by NVML" in page
    assert "busy" in (out / "figures" / "waterfall.svg").read_text()


def test_others_work_is_told_from_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.timing import device

    monkeypatch.setattr(device, "cores", lambda: 4)
    ticks = iter([(100.0, 1000.0), (150.0, 1100.0), (150.0, 1100.0), (155.0, 1200.0)])
    monkeypatch.setattr(device, "_core_seconds", lambda: next(ticks))
    assert device.busy_now(0) == "busy machine: 2.0 of 4 cores in use before the start"
    assert device.busy_now(0) == ""
    monkeypatch.setattr(device, "_core_seconds", lambda: None)
    assert device.busy_now(0) == ""
