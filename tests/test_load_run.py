"""``--throughput --concurrency`` from the command line to the report, on a stand-in's clock.

A tiny model answers for real. Its time is made up: 10 µs for each position of each layer, and the
selection of FastV takes 50 µs times the square of the rows, so that it pays alone and not in a
crowd.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from harness.command.cli import main
from harness.jobs import throughput as job
from harness.options.load import Load
from harness.options.workload import parse_workload
from harness.readouts.ending import markdown
from harness.readouts.times import ending
from harness.store import columns
from harness.timing import loadrun
from harness.timing.clock import HostClock
from harness.timing.requests import make_batches
from methods.fastv import FastV
from reports import loadtext
from reports.load import Ratio
from tests import tiny

LITTLE = ["--repeats", "6", "--warmup", "1", "--min-seconds", "0", "--quiet", "--device", "cpu"]
POSITION, SELECTION = 10_000, 50_000  # ns
LAYERS = 4


class Time:
    """A clock that moves when it is told to."""

    ns = 0

    def now(self) -> int:
        return self.ns


@pytest.fixture(scope="module")
def made_up() -> Iterator[pytest.MonkeyPatch]:
    """The made-up time, in place of the real one."""
    time, patch = Time(), pytest.MonkeyPatch()
    build, decide = job.build, FastV.layer

    def built(*args: Any) -> Any:
        bench = build(*args)
        for layer in bench.model.model.language_model.layers:
            layer.register_forward_pre_hook(spend)
        return bench

    def spend(_layer: Any, args: Any) -> None:
        time.ns += POSITION * args[0].shape[0] * args[0].shape[1]

    def dear(self: Any, layer: int, seq: Any) -> Any:
        found = decide(self, layer, seq)
        if layer == self.k and not seq.generated:
            time.ns += SELECTION * seq.hidden.shape[0] ** 2
        return found

    patch.setattr(job, "build", built)
    patch.setattr(FastV, "layer", dear)
    patch.setattr(loadrun, "clock_for", lambda device: HostClock(now=time.now))
    yield patch
    patch.undo()


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
    base += ["--methods", "fastv", "--n-text", "9", "--n-out", "2", "--gpu", "24GiB"]
    return [*base, "--out", str(out), *more]


@pytest.fixture(scope="module")
def done(folder: Path, made_up: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "load"
    assert main(command(folder, out, "--concurrency", "8,1")) == 0
    return out


@pytest.fixture
def table(done: Path) -> pd.DataFrame:
    return pd.read_csv(done / "load.csv").set_index(["label", "concurrency"])


def test_every_load_has_a_row_a_method_with_its_conditions(done: Path, table: Any) -> None:
    plain = pd.read_csv(done / "load.csv")
    assert plain.columns.tolist() == list(columns.LOAD)
    assert table.index.tolist() == [("dense", 1), ("fastv", 1), ("dense", 8), ("fastv", 8)]
    assert (plain.requests == 6 * plain.concurrency).all() and (plain.repeats == 6).all()
    assert plain.workload[3] == "n_text=4-18:n_image=any:n_out=1-4:in_flight=8"
    assert plain.device.nunique() == 1 and plain.device[0] != "cpu"  # its real name
    assert (plain[["dtype", "attn", "backend"]] == ["float32", "sdpa", "batches"]).all(axis=None)
    assert plain.threads.min() >= 1
    assert table.agreement.tolist()[2:] == [1, 1] and table.agreement.isna().tolist()[:2] == [1, 1]
    # The same requests for every method.
    assert table.n_out["dense", 8] == table.n_out["fastv", 8]
    assert table.n_text["dense", 8] == table.n_text["fastv", 8]
    about = json.loads((done / "run.json").read_text())
    assert about["settings"]["concurrency"] == [1, 8]
    assert not (done / "throughput.csv").exists()


def test_times_are_those_of_the_made_up_clock(done: Path, folder: Path, table: Any) -> None:
    for count in (1, 8):
        raw = {
            label: pd.read_csv(done / "rounds" / f"{table.cell_id[label, count]}.csv")
            for label in ("dense", "fastv")
        }
        total = {k: v[v.phase == "end_to_end"].ms.sum() for k, v in raw.items()}
        rate = table.requests_per_s["dense", count]
        assert rate == pytest.approx(1e3 * 6 * count / total["dense"])
        gain = table.requests_per_s_ratio["fastv", count]
        assert gain == pytest.approx(total["dense"] / total["fastv"])
        row = table.loc["fastv", count]
        assert row.selection_ms == pytest.approx(SELECTION / 1e6 * count)
        assert row.selection_share == pytest.approx(row.selection_ms / row.request_ms)
        assert row.kept_share == 0.75  # half of the image tokens from the third of six layers on
    assert table.padding_ms["dense", 1] == table.waiting_ms["dense", 1] == 0
    assert table.padding_share["dense", 8] > 0 and table.waiting_share["dense", 8] > 0
    for _, row in table.iterrows():
        steps = ("vision", "selection", "prefill", "padding", "decode", "waiting", "rest")
        assert sum(row[f"{name}_ms"] for name in steps) == pytest.approx(row.request_ms)
        assert row.request_ms == pytest.approx(1e3 / row.requests_per_s)
        assert row.kv_mib <= row.kv_held_mib
    assert (table.fits_ratio.dropna() > 1).all() and (table.kv_ratio.dropna() < 1).all()


def test_the_reversal_is_told_with_its_cause(done: Path, table: Any) -> None:
    assert table.requests_per_s_ratio_low["fastv", 1] > 1
    assert table.requests_per_s_ratio_high["fastv", 8] < 1
    text = (done / "report.md").read_text()
    assert "Speed under load" in text
    assert "Reversed with 8 in flight: fastv serves 0." in text
    assert "although its layers process 75 % of the image tokens (with 1: 1." in text
    assert "The cause is selection: +0.40 ms [+0.40, +0.40], of +0." in text
    falls = pd.read_csv(done / "figures" / "load-waterfall.csv")
    falls = falls[falls.in_flight == 8].set_index("step").ms
    assert falls.drop("method").sum() == pytest.approx(falls["method"])
    assert falls["selection"] == falls.drop(["method", "dense"]).max()
    closing = ending(done)
    assert closing is not None
    assert "1.0" in markdown(closing.table(None)) and "in flight" in markdown(closing.table(None))
    assert any("Reversed with 8" in note for note in closing.notes)


def test_a_finished_run_is_kept_and_a_killed_one_goes_on(
    done: Path, folder: Path, made_up: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(done, out)
    before = (out / "load.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "build", lambda *a: pytest.fail("nothing was left to serve"))
        assert main(command(folder, out, "--concurrency", "1,8")) == 0
    assert (out / "load.csv").read_bytes() == before
    rows = (out / "cells.csv").read_text().splitlines()
    (out / "cells.csv").write_text("\n".join(rows[:-1]) + "\n")  # killed before the last commit
    with (out / "load.csv").open("a") as file:
        file.write("half a li")
    assert main(command(folder, out, "--concurrency", "1,8")) == 0
    again = pd.read_csv(out / "load.csv")
    assert len(again) == 4 and not again.cell_id.duplicated().any()
    assert main(["--plots-only", str(out), "--quiet"]) == 0
    assert main(command(folder, out, "--concurrency", "1,4")) == 2  # another run's settings


def test_prompts_of_a_batch_are_unequal_and_padded_to_the_longest() -> None:
    from harness.families.catalog import shape_from_config
    from harness.timing.subject import Bench

    model = tiny.tiny_llava()
    shape = shape_from_config(model.config.to_dict(), "tiny")
    bench = Bench(model, shape)
    batches = make_batches(bench, Load(parse_workload("n_text=9:n_out=3"), 5), None, "auto", 0)
    assert len({tuple(one.lengths) for one in batches}) > 1
    for one in batches:
        mask = one.prompt.inputs["attention_mask"]
        assert mask.sum(1).max() == mask.shape[1]  # the longest is not padded
        assert (mask.diff(dim=1) >= 0).all()  # the others are, on the left
        images = (one.prompt.inputs["input_ids"] == model.config.image_token_index).sum(1)
        assert images.tolist() == [16 * len(places) for places in one.images]
        assert len(one.prompt.inputs["pixel_values"]) == sum(map(len, one.images))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--concurrency", "0"], "expected whole numbers of requests in flight from 1"),
        (["--concurrency", "a"], "got 'a'"),
        (["--concurrency", "8,1,8"], "'8' stands twice"),
        (["--concurrency", "2", "--workload", "n_out=2:batch=4"], "batch=4 has no meaning"),
        (["--concurrency", "2", "--batch-size", "4"], "batch=4 has no meaning"),
        (["--concurrency", "1024", "--n-out", str(10**8)], "--concurrency: n_text=18"),
        ([], "--gpu has no meaning with --throughput without --concurrency"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    more: list[str], says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = command(folder, out)
    if "--workload" in more:
        at = argv.index("--n-text")
        argv = argv[:at] + argv[at + 4 :]
    assert main([*argv, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not out.exists()


def test_without_throughput_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--methods", "pmod", "--bench", "gqa", "--concurrency", "8"]
    assert main(argv) == 2
    assert "it belongs to --throughput" in capsys.readouterr().err
    assert main([*argv, "--with-throughput"]) == 2
    assert "it belongs to --throughput" in capsys.readouterr().err


@pytest.mark.parametrize(("others", "said"), [(1, "row 1"), (4, "4 other methods"), (0, "")])
def test_the_row_that_serves_most_is_said_not_told_apart_from_near_ones(
    others: int, said: str
) -> None:
    def entry(name: str, value: float) -> Any:
        gain = Ratio(value, value - 0.1, value + 0.1)
        return SimpleNamespace(name=name, gain=gain, ratio=lambda _: gain, requests_per_s=4.0)

    rows = [entry("best", 1.42), *(entry(f"row {i + 1}", 1.4) for i in range(others))]
    rows.append(entry("slow", 1.0))
    loads: Any = SimpleNamespace(most=4, others=lambda _: rows, base=lambda _: rows[-1])
    found = loadtext._leader(loads)
    assert found.count("not told apart") == bool(said)
    assert not said or f"; not told apart from {said} (the intervals overlap)" in found
