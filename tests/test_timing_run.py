"""``--throughput`` from the command line to the files, on tiny models. No time is asserted."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from harness.command.cli import main
from harness.common.console import Console
from harness.common.progress import Progressing
from harness.families.catalog import shape_from_config
from harness.jobs import throughput as run_module
from harness.store import columns
from harness.timing import grid as grid_module
from harness.timing import workrun
from tests import tiny
from tests.fakes import without_report

LITTLE = ["--repeats", "6", "--warmup", "1", "--min-seconds", "0", "--quiet", "--device", "cpu"]
SHAPE = {"n_text": 9, "n_image": 16, "n_out": 3, "batch": 2}
WORK = ":".join(f"{key}={value}" for key, value in SHAPE.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with nothing but a config: weights are drawn."""
    path = tmp_path_factory.mktemp("models") / "small"
    path.mkdir()
    config = tiny.tiny_llava().config.to_dict()
    config["text_config"]["num_key_value_heads"] = 4
    (path / "config.json").write_text(json.dumps(config))
    return path


def command(folder: Path, out: Path, *more: str) -> list[str]:
    base = ["--throughput", "--random-weights", "--model", str(folder), *LITTLE]
    methods = [] if "--methods" in more else ["--methods", "pmod,fastv:k=2"]
    return [*base, *methods, "--out", str(out), *more]


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "timed"
    with pytest.MonkeyPatch.context() as patch:
        without_report(patch)
        assert main(command(folder, out, "--workload", WORK)) == 0
    return out


def test_the_csv_has_the_contract_s_columns_and_every_phase(done: Path) -> None:
    table = pd.read_csv(done / "throughput.csv")
    assert table.columns.tolist() == list(columns.THROUGHPUT)
    assert table.label.unique().tolist() == ["dense", "pmod", "fastv"]
    for label, rows in table.groupby("label"):
        phases = ["vision", "prefill", "decode", "end_to_end"]
        assert rows.phase.tolist() == phases + ["selection"] * (label != "dense")
    assert (table.median_ms > 0).all()
    assert table.peak_mib.isna().all()  # not measured on a CPU
    timed = table[table.phase != "selection"]
    assert (timed[list(SHAPE)] == pd.Series(SHAPE)).all(axis=None)
    assert (timed.agreement == 1).all()
    assert timed.device.nunique() == 1
    assert timed.device[0] != "cpu"  # its real name
    conditions = json.loads((done / "run.json").read_text())
    assert conditions["device_name"] == timed.device[0]
    assert conditions["weights"] == "random"
    assert conditions["settings"]["workload"] == [WORK]
    assert timed.notes.str.contains("repeats 6, the protocol asks for 30").all()


def test_ratios_flops_and_bytes_come_out_of_the_files(done: Path, folder: Path) -> None:
    table = pd.read_csv(done / "throughput.csv").set_index(["label", "phase"])
    cells = pd.read_csv(done / "cells.csv").set_index("label").cell_id
    raw = {label: pd.read_csv(done / "rounds" / f"{cell}.csv") for label, cell in cells.items()}
    row = table.loc["fastv", "prefill"]
    times = {name: raw[name].query("phase == 'prefill'").ms for name in ("dense", "fastv")}
    assert row.median_ms == pytest.approx(times["fastv"].median())
    gain = times["dense"].median() / times["fastv"].median()
    assert row.speedup_vs_dense == pytest.approx(gain)
    assert row.speedup_ci_low <= gain <= row.speedup_ci_high
    shape = shape_from_config(json.loads((folder / "config.json").read_text()), "small")

    def prefill(counts: list[int]) -> float:
        pairs = 2 * shape.attention_width * sum(n * n for n in counts)
        return 2 * shape.layer_weights * sum(counts) + pairs + 2 * shape.head_weights

    # One row of scores over 25 tokens is timed, so it counts: a query, all keys, their products.
    keys, width = shape.kv_heads * shape.head_dim, shape.attention_width
    row_of_scores = 2 * (shape.hidden * (width + 25 * keys) + width * 25)
    less = prefill([25] * 4) / (prefill([25, 25, 17, 17]) + row_of_scores)
    assert row.flops_ratio == pytest.approx(less)
    assert row.realisation == pytest.approx(gain / less)
    assert row.realisation_ci_low == pytest.approx(row.speedup_ci_low / less)
    assert row.realisation_ci_high == pytest.approx(row.speedup_ci_high / less)
    assert table.loc["dense", "prefill"].tflops * 1e12 == pytest.approx(prefill([25] * 4))
    entries = 2 * (25 + 25 + 17 + 17 + 4 * 2)  # rows; two of three new tokens are fed
    assert row.kv_mib * 2**20 == entries * shape.kv_bytes_per_entry(4)


@pytest.mark.usefixtures("undrawn")
def test_a_finished_run_is_kept_and_a_killed_one_goes_on(
    folder: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = (done / "throughput.csv").read_text()
    monkeypatch.setattr(run_module, "build", lambda *a: pytest.fail("nothing was left to time"))
    assert main(command(folder, done, "--workload", WORK)) == 0
    assert (done / "throughput.csv").read_text() == table
    monkeypatch.undo()
    without_report(monkeypatch)
    rows = (done / "cells.csv").read_text().splitlines()
    (done / "cells.csv").write_text("\n".join(rows[:-1]) + "\n")  # killed before the last commit
    older = pd.read_csv(done / "throughput.csv", dtype=str, keep_default_na=False)
    older = older.drop(columns=older.columns[-1])  # of a version with fewer columns
    older.to_csv(done / "throughput.csv", index=False)
    with (done / "throughput.csv").open("a") as file:
        file.write("half a li")
    assert main(command(folder, done, "--workload", WORK)) == 0
    again = pd.read_csv(done / "throughput.csv")
    assert not again.duplicated(["cell_id", "phase"]).any()
    before = pd.read_csv(pd.io.common.StringIO(table))
    for label in ("dense", "pmod"):  # what was committed is not timed again
        kept = again[again.label == label].median_ms.tolist()
        assert kept == before[before.label == label].median_ms.tolist()
    assert again[again.label == "fastv"].shape == before[before.label == "fastv"].shape


def test_two_devices_never_share_a_run(
    folder: Path, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grid_module, "cpu_name", lambda: "Other CPU")
    before = (done / "run.json").read_bytes()
    assert main(command(folder, done, "--workload", WORK)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "this is Other CPU" in line
    assert "times of two devices do not mix" in line
    assert (done / "run.json").read_bytes() == before


def fail_with(monkeypatch: pytest.MonkeyPatch, errors: dict[str, BaseException]) -> None:
    honest = workrun.answer

    def answer(bench: Any, subject: Any, prompt: Any, n_out: int) -> Any:
        if subject.method.name in errors:
            raise errors[subject.method.name]
        return honest(bench, subject, prompt, n_out)

    monkeypatch.setattr(workrun, "answer", answer)


@pytest.mark.usefixtures("undrawn")
def test_when_dense_fails_every_row_says_why(
    folder: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, {"dense": RuntimeError("boom")})
    out = tmp_path / "run"
    assert main(command(folder, out, "--workload", WORK)) == 3
    cells = pd.read_csv(out / "cells.csv").set_index("label")
    assert cells.status.tolist() == ["failed"] * 3
    assert cells.error["dense"] == "RuntimeError: boom"
    for label in ("pmod", "fastv"):
        assert cells.error[label].endswith("dense could not be run: RuntimeError: boom")
    # Where dense was timed before, a later failure of it does not take its row away.
    shutil.copytree(done, tmp_path / "again")
    rows = (done / "cells.csv").read_text().splitlines()
    (tmp_path / "again/cells.csv").write_text("\n".join(rows[:-1]) + "\n")
    assert main(command(folder, tmp_path / "again", "--workload", WORK)) == 3
    cells = pd.read_csv(tmp_path / "again/cells.csv").set_index("label")
    assert cells.status.to_dict() == {"dense": "done", "pmod": "done", "fastv": "failed"}
    assert "RuntimeError: boom" in cells.error["fastv"]


@pytest.mark.usefixtures("undrawn")
def test_a_method_that_ends_the_process_fails_its_row_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, {"pmod": SystemExit(0)})
    out = tmp_path / "run"
    assert main(command(folder, out, "--workload", WORK)) == 3
    cells = pd.read_csv(out / "cells.csv").set_index("label")
    assert cells.status.to_dict() == {"pmod": "failed", "dense": "done", "fastv": "done"}
    assert cells.error["pmod"] == "SystemExit: 0"


def test_a_wrong_batch_fails_its_cell_and_no_other(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    honest = workrun.answer

    def changed(bench: Any, subject: Any, prompt: Any, n_out: int) -> Any:
        found = honest(bench, subject, prompt, n_out)
        if subject.method.name == "fastv":
            found.ids[0, 0] = int(found.logits[0, 0].argmin())
        return found

    monkeypatch.setattr(workrun, "answer", changed)
    out = tmp_path / "run"
    assert main(command(folder, out, "--workload", WORK)) == 3
    assert "fastv: batch 2 gives other answers than batch 1" in capsys.readouterr().err
    cells = pd.read_csv(out / "cells.csv").set_index("label")
    assert cells.status.to_dict() == {"dense": "done", "pmod": "done", "fastv": "failed"}
    assert set(pd.read_csv(out / "throughput.csv").label) == {"dense", "pmod"}
    assert "other answers than batch 1" in (out / "report.md").read_text()
    monkeypatch.undo()
    without_report(monkeypatch)
    assert main(command(folder, out, "--workload", WORK)) == 0  # mended: only that one is timed
    assert set(pd.read_csv(out / "throughput.csv").label) == {"dense", "pmod", "fastv"}


@pytest.mark.usefixtures("undrawn")
def test_eager_gets_a_second_dense_row(folder: Path, tmp_path: Path) -> None:
    argv = command(folder, tmp_path / "run", "--workload", "n_text=9:n_out=1", "--attn", "eager")
    assert main(argv) == 0
    table = pd.read_csv(tmp_path / "run" / "throughput.csv").set_index(["label", "phase"])
    assert table.loc[("dense (sdpa)", "prefill"), "attn"] == "sdpa"
    best = table.loc[("dense (sdpa)", "prefill"), "median_ms"]
    own = table.loc[("pmod", "prefill")]
    assert own.attn == "eager"
    assert own.speedup_vs_best == pytest.approx(best / own.median_ms)
    assert "decode" not in table.index.get_level_values("phase")


@pytest.mark.usefixtures("undrawn")
def test_real_documents_with_trained_weights(tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = ["--throughput", "--methods", "pmod", "--bench", "gqa", "--n-out", "2", "--limit", "2"]
    assert main([*argv, *LITTLE, "--out", str(out)]) == 0
    table = pd.read_csv(out / "throughput.csv").set_index(["label", "phase"])
    assert table.loc[("dense", "preprocess"), "median_ms"] > 0
    assert table.loc[("pmod", "end_to_end"), "workload"] == "bench=gqa:n_out=2:batch=1"
    assert table.loc[("pmod", "prefill"), "n_image"] == 144
    assert table.loc[("pmod", "prefill"), "flops_ratio"] > 1.3
    assert json.loads((out / "run.json").read_text())["mini"] is True


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--workload", "n_imag=4"], "did you mean 'n_image'"),
        (["--workload", "n_image=17"], "the nearest is 16"),
        (["--repeats", "5"], "too few for a 95 % interval"),
        (["--bench", "gqa"], "leave out --random-weights"),
        (["--workload", "bench=gqa"], "leave out --random-weights"),
        (["--workload", f"n_out={'9' * 5000}"], "at most 12 digits"),
        (["--methods", "fastv:k=9"], "k=9 needs"),
        (["--batch-size", "auto"], "a time belongs to one batch size"),
        (["--width", "100"], "a multiple of 64"),
        (["--workload", "batch=2", "--n-text", "5"], "no meaning beside --workload"),
        (["--workload", f"n_text=50:batch={10**9}"], "would fit"),
        (["--min-seconds", "-1"], "expected a number of seconds"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    more: list[str], says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(folder, out, *more)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not out.exists()


def test_timing_flags_belong_to_throughput(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--methods", "pmod", "--bench", "gqa", "--workload", "batch=2"]) == 2
    assert "--workload has no meaning with a run on benchmarks" in capsys.readouterr().err
    assert main(["--throughput", "--methods", "pmod", "--layers", "2"]) == 2
    assert "--layers has no meaning without --random-weights" in capsys.readouterr().err
    suite = tmp_path / "times.yaml"
    suite.write_text("throughput: true\nmethods: pmod\nworkload: [batch=2, 'n_text=9']\n")
    from harness.command.cli import parse

    _, settings = parse(["--suite", str(suite)])
    assert settings.workload == ("n_text=58:n_out=32:batch=2", "n_text=9:n_out=32:batch=1")


def test_what_is_done_beside_the_rounds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    def run_workload(*args: Any) -> list[Any]:
        on_round, on_stage = args[-2:]
        on_stage("warming up pmod")
        said.append(show.status())
        on_stage("")
        on_round(2, 6)
        said.append(show.status())
        return []

    monkeypatch.setattr(workrun, "run_workload", run_workload)
    monkeypatch.setattr(run_module, "notes_before", lambda *a: [])
    grid: Any = SimpleNamespace(settings=SimpleNamespace(repeats=6))
    nothing: Any = None
    show = Progressing(console=Console(file=io.StringIO()))
    todo: Any = [SimpleNamespace(spec="n_out=3")]
    assert not run_module.time_all(grid, nothing, todo, nothing, nothing, nothing, "", show)
    assert said[0].startswith("[1/1] n_out=3: warming up pmod")
    assert said[1].startswith("[1/1] n_out=3: 2 of 6")
