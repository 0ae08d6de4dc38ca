"""Suites that repeat a published table: run where all is here, else shown as printed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from harness.command.cli import main, parse
from harness.common.errors import UsageError
from harness.common.roots import DATA
from harness.cost.published import load_table, table_names
from harness.jobs import athand
from harness.jobs.printed import Printed, Repeated, as_printed, counted_table, look_up, repeat, said
from harness.options.settings import Settings
from harness.options.suites import suite_names
from harness.readouts.reference import reference
from tests.fakes import FakeReferees
from tests.fixtures.hub_data import GQA, write_gqa
from tests.test_reference import PAPERS

SMALL = ("--model", "tiny-llava", "--data", "mini")


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a cache, and without a network."""
    from huggingface_hub import constants

    empty = tmp_path / "empty"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(empty))
    monkeypatch.setattr(athand, "_snapshot", lambda repo: False)
    monkeypatch.setattr(athand.hubdata, "_hub_cache", lambda dataset: None)
    monkeypatch.setattr(athand.hubdata, "prepared", lambda dataset, config: None)
    monkeypatch.setattr(athand.hubdata, "hub_revision", lambda dataset: pytest.fail("network"))


def asked(name: str, *more: str) -> Settings:
    return parse(["--suite", name, *more])[1]


def test_every_table_of_both_papers_is_a_suite() -> None:
    assert len(PAPERS) == 16 and set(PAPERS) <= set(suite_names())


@pytest.mark.parametrize("name", PAPERS)
def test_without_weights_the_table_stands_as_printed(name: str) -> None:
    """Every number of it, and a list of what is missing with how to get it."""
    settings = asked(name)
    job = repeat(settings, [])
    assert isinstance(job, Printed)
    told = "\n".join(said(job.needs))
    assert f"hf download {settings.model}" in told
    assert told.count("--repo-type dataset") == len(settings.bench)
    file = io.StringIO()
    Console(width=400, file=file).print(as_printed(reference()[name], []))
    shown = file.getvalue().partition("──")[2]  # below the heads
    for row in reference()[name].rows:
        line = next(x for x in shown.splitlines() if x.strip().startswith(row.label + " "))
        columns = reference()[name].columns
        pairs = [v for v, c in zip(row.values, columns, strict=True) if "skip-" not in c.name]
        words = line.strip().removeprefix(row.label).split()
        assert [float(word) for word in words] == [value for value in pairs if value is not None]


def test_only_a_models_own_weights_are_asked_for() -> None:
    told = "\n".join(look_up(asked("pmod-table1")).missing)
    assert "hf download MCG-NJU/p-MoD-LLaVA-v1.5-7B" in told
    needs = look_up(asked("pmod-table1", "--model", "llava-hf/llava-v1.6-vicuna-7b-hf"))
    assert "hf download MCG-NJU/p-MoD-LLaVA-NeXT-7B" in "\n".join(needs.missing)
    needs = look_up(asked("pmod-table11"))
    assert needs.left_out == (
        "gamma: nobody gave out its weights on llava-hf/llava-1.5-7b-hf: "
        "pass --checkpoint gamma=PATH",
    )
    assert needs.settings.methods == ("dense", "pmod")
    needs = look_up(asked("pmod-table11", "--checkpoint", "gamma=nowhere"))
    assert not needs.left_out and "--checkpoint gamma=FOLDER" in "\n".join(needs.missing)


@pytest.mark.parametrize("name", PAPERS)
def test_on_the_shipped_model_every_suite_runs(name: str) -> None:
    """Benches without mini data are left out, and said."""
    if not (DATA / "assets" / "tiny-llava").is_dir():
        pytest.skip("the mini model is not here")
    settings = asked(name, *SMALL, "--limit", "50")
    if name == "pmod-table9":  # no boxes among the mini data
        needs = look_up(settings)
        assert needs.missing[0].startswith("nothing of it can be run here: refcoco")
        return
    job = repeat(settings, [])
    assert isinstance(job, Repeated)
    assert job.settings.bench and job.settings.methods[0] == "dense"
    left = {line.partition(": ")[0] for line in job.needs.left_out}
    frames = {"freevideollm kv=0.537 relevance=words"} if name == "pmod-table10" else set()
    assert left | {*job.settings.bench} == {*settings.bench} | frames


def test_how_the_suites_ask() -> None:
    """As the table's source did."""
    for name in PAPERS:
        assert str(asked(name).asking) == reference()[name].protocol, name
    assert "mmvet" in asked("gamma-table5").bench


def test_weights_and_data_of_ones_own_are_found(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    data = tmp_path / "data"
    write_gqa(data, ["red", "no"])
    own = ("--model", str(model), "--data", str(data), "--bench", "gqa", "--methods", "fastv")
    job = repeat(asked("pmod-table5", *own), [])
    assert isinstance(job, Repeated) and not job.needs.left_out
    more = look_up(asked("pmod-table5", *own[:-4], "--bench", "gqa,pope", "--methods", "fastv"))
    (line,) = more.missing
    assert "the data of pope" in line and str(data) in line and GQA not in line


def test_what_cannot_be_run_is_not_submitted(tmp_path: Path) -> None:
    settings = asked("pmod-table1", "--shard", "1/2", "--out", str(tmp_path / "out"))
    with pytest.raises(UsageError, match="--shard: nothing can be run: the weights of llava-hf"):
        repeat(settings, [])
    with pytest.raises(UsageError, match="--slice: nothing can be run"):
        repeat(asked("pmod-table1", "--slice", "hard"), [])


def test_a_suite_of_an_unknown_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("printed: pmod-table12\nmethods: dense\nbench: gqa\n")
    assert main(["--suite", str(suite)]) == 2
    assert "unknown table 'pmod-table12': did you mean 'pmod-table" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(set(PAPERS) & set(table_names())))
def test_rows_of_costs_and_scores_have_one_name(name: str) -> None:
    """Else a cost would stand beside no score; two rows are of costs alone."""
    scores = {row.label for row in reference()[name].rows}
    costs = {row.row for row in load_table(name).rows}
    alone = {"FastV, counted as its neighbours", "p-MoD, shift 0.3, released threshold"}
    assert costs - scores <= alone and scores - costs == set()


def test_rows_that_the_ledger_can_count() -> None:
    """Known sizes, stated parameters, and no router whose choices need weights."""
    found = {row.row for row in counted_table(reference()["gamma-table5"]).rows}
    assert found == {"LLaVA-1.5-7B", "LLaVA-HR-7B", "LLaVA-HR-13B"}
    assert [row.method for row in counted_table(reference()["pmod-table9"]).rows] == [
        "dense", "fastv:k=2:r=0.5", "pmod",
    ]  # fmt: skip


def test_a_printed_table_is_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is answered, the exit code is 0, and files and report have it all."""
    monkeypatch.setattr("harness.cost.referees.referees_for", lambda shape: FakeReferees())
    out = tmp_path / "run"
    assert main(["--suite", "pmod-table11", "--out", str(out), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "Nothing was run. Missing here:" in printed and "1482.8" in printed
    frame = pd.read_csv(out / "reference.csv")
    assert len(frame) == 48 and frame["ours"].isna().all() and frame["inside"].isna().all()
    assert set(frame["reason"]) == {"not run: weights or data are missing here"}
    costs = pd.read_csv(out / "published.csv").set_index(["row", "quantity"])["one_rule"]
    assert costs["p-MoD", "tflops"] == pytest.approx(4.802, abs=6e-4)
    assert costs["p-MoD", "kv"] == pytest.approx(53.69, abs=6e-3)
    about = json.loads((out / "run.json").read_text())["published"]
    assert about["name"] == "pmod-table11" and len(about["missing"]) == 17
    report = (out / "report.md").read_text()
    part = report.partition("## Beside the paper: Table 11")[2].partition("\n## ")[0]
    assert "1482.8" in part and "How to get it" in part and "4.80" in part
    assert not (out / "accuracy.csv").exists()
    again = tmp_path / "again"
    assert main(["--plots-only", str(out), "--out", str(again), "--quiet"]) == 0
    assert part in (again / "report.md").read_text()
