"""Published scores: transcribed right, and held against ours only where they are the same."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

import methods
from harness.bench.catalog import BENCHES
from harness.common.errors import UsageError
from harness.jobs import resolve
from harness.jobs.derive import run_derive
from harness.options.settings import Settings
from harness.readouts import beside
from harness.readouts.beside import reference_rows
from harness.readouts.reference import FILE, Table, load, published_models, reference
from harness.store.cells import params_json
from reports.build import build_report
from tests.fakes import FakeBench, FakeRun, FakeSource, run

MODEL = "llava-hf/llava-1.5-7b-hf"
NEXT = "llava-hf/llava-v1.6-vicuna-7b-hf"
PAPERS = [*(f"pmod-table{i}" for i in range(1, 12)), *(f"gamma-table{i}" for i in range(1, 6))]


# --- what was copied ------------------------------------------------------------------------------
def closing(table: Table, skipped: bool) -> dict[str, float]:
    """Printed mean minus the mean of the row's own numbers, each as a share of its full scale."""
    mean = "skip-mean" if skipped else "mean"
    found = {}
    for row in table.rows:
        values = dict(zip((c.name for c in table.columns), row.values, strict=True))
        parts = [
            100 * value / column.full
            for column, value in zip(table.columns, row.values, strict=True)
            if column.is_bench and column.name.startswith("skip-") is skipped and value is not None
        ]
        printed = values.get(mean)
        if printed is not None and parts:
            found[row.label] = printed - sum(parts) / len(parts)
    return found


@pytest.mark.parametrize("name", PAPERS)
def test_printed_means_close(name: str) -> None:
    """A mistyped number moves the mean of its row; rounding hides half of the last digit."""
    away = {"LLaVolta"} if name == "pmod-table5" else set()  # 62.075 is printed as 62.0
    for skipped in (False, True):
        for label, difference in closing(reference()[name], skipped).items():
            assert (abs(difference) > 0.0501) is (label in away), (label, difference)


def test_the_means_that_close_are_many() -> None:
    closed = [x for name in PAPERS for s in (0, 1) for x in closing(reference()[name], bool(s))]
    assert len(closed) == 85  # 32 of p-MoD, 53 of γ-MoD with its skip shares


def test_what_stands_in_two_tables_is_the_same() -> None:
    """p-MoD prints its own rows up to eight times; γ-MoD's MMMU of LLaVA-HR differs, as printed."""
    for paper in ("pmod", "gamma"):
        seen: dict[tuple[str, str, str], set[float]] = defaultdict(set)
        for name in (one for one in PAPERS if one.startswith(paper)):
            for one in reference()[name].printed():
                if one.row.spec and one.column.is_bench:
                    seen[one.row.model.key, one.row.spec, one.column.name].add(one.value)
        twice = {key for key, values in seen.items() if len(values) > 1}
        known = {(f"llava-hr-{size}", "dense", "mmmu") for size in ("7b", "13b")}
        assert twice == (known if paper == "gamma" else set())


@pytest.mark.parametrize(
    ("table", "row", "column", "value"),
    [
        ("pmod-table1", "LLaVA-1.5-7B", "docvqa", 28.1),
        ("pmod-table9", "p-MoD", "refcoco+", 70.94),
        ("pmod-table8", "MQT", "chartqa", 54.6),
        ("pmod-table10", "PruMerge", "chartqa", 44.6),
        ("pmod-table11", "γ-MoD", "mme-p", 1377.0),
        ("gamma-table3", "γ-MoD-0.5-LLaVA-7B", "skip-gqa", 60.9),
        ("gamma-table5", "MoE-LLaVA, 5B", "mmvet", 34.3),
        ("restore-llava-1.5", "DivPrune, 64 tokens", "seed-all", 53.7),
        ("angelslim-qwen2.5-vl", "DART, 10 % of the image's tokens", "mme-p", 1451),
    ],
)
def test_single_numbers(table: str, row: str, column: str, value: float) -> None:
    found = {(one.row.label, one.column.name): one.value for one in reference()[table].printed()}
    assert found[row, column] == value


def test_what_is_named_exists() -> None:
    """Our methods with their parameters, and benches of ours by our names."""
    ours = {"mmstar", "ocrbench", "hallusion", "mathvista", "mvbench", "egoschema", "videomme"}
    ours |= {"longvideobench", "mlvu", *BENCHES}
    for table in reference().values():
        assert {c.bench for c in table.columns if c.is_bench} <= ours
        for row in table.rows:
            assert not row.spec or methods.parse(row.spec).name == row.method
    assert set(PAPERS) <= set(reference())
    for of_model in published_models().released.values():
        assert all(methods.parse(name).trained for name in of_model)


GOOD = {
    "columns": "{gqa: {bench: gqa, metric: exact_match}}",
    "reasons": "{base: of its own}",
    "tables": "{one: {source: s, table: t, title: x, protocol: paper, model: llava-1.5-7b, "
    "columns: gqa, rows: [{row: a, spec: dense, values: 1.5}]}}",
}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tables", "rows", "unknown key 'rowss'"),
        ("protocol: paper", "protocol: lmms", "one: unknown protocol 'lmms'"),
        ("columns: gqa", "columns: gqq", "unknown column 'gqq': did you mean 'gqa'?"),
        ("model: llava-1.5-7b", "model: llava-1.5-8b", "unknown model 'llava-1.5-8b'"),
        ("values: 1.5", "values: 1.5/2", "one, a: 2 values for 1 columns"),
        ("values: 1.5", "values: 1.x", "'1.x' is not numbers"),
        ("spec: dense", "spec: dense, method: dense", "either spec or method"),
        ("values: 1.5", "budget: x", "either values or budgets"),
        ("values: 1.5", "values: 1.5, unlike: basis", "unknown reason 'basis'"),
        ("rows: [", "rows: [{row: a, spec: blind, values: 1}, ", "the row 'a' stands twice"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    content = {k.replace(old, "rowss") if new == "rows" else k: v for k, v in GOOD.items()}
    text = "\n".join(f"{key}: {value.replace(old, new)}" for key, value in content.items())
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        load(path, published_models().known)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(f"{key}: {value}" for key, value in GOOD.items()), encoding="utf-8")
    (one,) = load(path, published_models().known)["one"].printed()
    assert (one.value, one.row.model.key, one.column.metric) == (1.5, "llava-1.5-7b", "exact_match")
    assert FILE.is_file()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (MODEL, ("llava-1.5-7b", True)),
        ("liuhaotian/llava-v1.5-7b", ("llava-1.5-7b", True)),
        ("/a/models--llava-hf--llava-1.5-7b-hf/snapshots/0a1b", ("llava-1.5-7b", True)),
        ("/data/llava-1.5-7b-hf", ("llava-1.5-7b", False)),
        ("/data/llava-1.5-7b-hf/mine", (None, False)),
        ("tiny-llava", (None, False)),
    ],
)
def test_a_model_by_its_name(name: str, found: tuple[str | None, bool]) -> None:
    model, by_id = published_models().of(name)
    assert (model and model.key, by_id) == found


# --- ours beside theirs ---------------------------------------------------------------------------
def rows(
    spec: str = "dense",
    bench: str = "gqa",
    metric: str = "exact_match",
    score: tuple[Any, Any, Any] = (0.61, 0.60, 0.62),
    settings: dict[str, Any] | None = None,
    **cell: Any,
) -> list[dict[str, Any]]:
    """reference.csv of one cell."""
    method = methods.parse(spec)
    about = {
        "cell_id": "c",
        "model": MODEL,
        "bench": bench,
        "method": method.name,
        "params": params_json(method.params()),
        "label": method.label,
        "data": "hub",
        "protocol": "lmms-eval-llava",
        "n": "100",
        **cell,
    }
    value, low, high = score
    line = {"cell_id": "c", "metric": metric, "value": value, "ci_low": low, "ci_high": high}
    return reference_rows([{**line, "n": 100}], [about], settings or {})


def printed(found: list[dict[str, Any]], table: str, label: str, bench: str = "gqa") -> Any:
    wanted = (table, label, bench)
    return next(r for r in found if (r["table"], r["label"], r["bench"]) == wanted)


@trials(deadline=None, max_examples=40)
@given(
    st.floats(0, 1), st.floats(0, 0.3), st.floats(0, 0.3), st.sampled_from(["dense", "fastv:k=3"])
)
def test_inside_is_what_it_says(value: float, below: float, above: float, spec: str) -> None:
    """Hand rule: theirs in percent between the ends of ours, ends included."""
    low, high = value - below, value + above
    label = "LLaVA-1.5-7B" if spec == "dense" else "FastV, K=3, R=50 %"
    row = printed(rows(spec, score=(value, low, high)), "fastv-readme", label)
    theirs = 62.0 if spec == "dense" else 60.4
    assert row["inside"] == (1 if low * 100 <= theirs <= high * 100 else 0)
    assert row["ours"] == pytest.approx(100 * value)
    assert row["difference"] == pytest.approx(100 * value - theirs)
    assert row["value"] == theirs and row["reason"] == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "mini"}, "mini data"),
        ({"data": "local"}, "data of this machine's own"),
        ({"data": "hub+local"}, "data of this machine's own"),
        ({"protocol": "llava-1.5"}, "protocol: ours llava-1.5, theirs lmms-eval-llava"),
        ({"metric": "f1"}, "another metric: ours has f1"),
        ({"settings": {"limit": 100}}, "only the first 100 documents"),
        ({"settings": {"checkpoint": {"dense": "mine"}}}, "--checkpoint dense"),
        ({"params": '{"k": 4}'}, "other parameters"),
        ({"method": "random", "params": "{}"}, "not among our methods"),
    ],
)
def test_another_thing_is_never_compared(change: dict[str, Any], said: str) -> None:
    row = printed(rows(**change), "pmod-table1", "LLaVA-1.5-7B")
    assert said in row["reason"]
    assert not {"ours", "ci_low", "ci_high", "inside", "difference"} & set(row)
    assert row["value"] == 61.9


def test_a_run_of_fewer_documents_than_its_limit_is_whole() -> None:
    assert printed(rows(settings={"limit": 101}), "pmod-table1", "LLaVA-1.5-7B")["inside"] == 1


def test_theirs_in_other_words_is_shown_without_ours() -> None:
    found = rows("visionzip:tokens=192", protocol="llava-1.5")
    other = printed(found, "visionzip-llava-1.5", "VisionZip, 192 tokens")
    assert other["reason"] == "protocol: ours llava-1.5, theirs of its own or not stated"
    found = rows(bench="pope", metric="pope_accuracy")
    assert "another metric" in printed(found, "pmod-table1", "LLaVA-1.5-7B", "pope")["reason"]
    found = rows("fastv:k=2:r=0.5", model=NEXT)
    assert printed(found, "pmod-table5", "FastV")["reason"].startswith("the paper trained its own")
    assert "inside" not in printed(found, "pmod-table5", "FastV")
    found = rows("scope:keep=64", protocol="llava-1.5")
    assert "other parameters" in printed(found, "scope-llava-1.5", "SCOPE, 64 tokens")["reason"]


def test_no_interval_is_no_verdict() -> None:
    found = rows(bench="mme", metric="mme_perception_score", score=(1500.0, "", ""))
    row = printed(found, "pmod-table2", "LLaVA-1.5-7B", "mme")
    assert (row["ours"], row["reason"]) == (1500.0, "our metric has no interval")
    assert row["difference"] == pytest.approx(-6.8) and "inside" not in row


def test_trained_weights_must_be_the_published_ones() -> None:
    for wish, ok in (("MCG-NJU/p-MoD-LLaVA-v1.5-7B", True), ("runs/mine", False), (None, False)):
        checkpoint = {"pmod": wish} if wish else {}
        row = printed(
            rows("pmod", settings={"checkpoint": checkpoint}), "pmod-table1", "p-MoD-LLaVA-1.5"
        )
        assert ("inside" in row) is ok
        assert ok or row["reason"] == "our weights of pmod are not known to be the published ones"


def test_a_folder_is_compared_and_says_so() -> None:
    row = printed(rows(model="/data/llava-1.5-7b-hf"), "pmod-table1", "LLaVA-1.5-7B")
    assert row["inside"] == 1 and "folder's name only" in row["reason"]


def test_a_repeated_table_stands_whole_and_first() -> None:
    found = rows(model="tiny-llava", data="mini", settings={"printed": "pmod-table1"})
    assert {row["table"] for row in found} == {"pmod-table1"}
    assert len(found) == len(list(reference()["pmod-table1"].printed())) == 44
    reasons = {row["reason"] for row in found}
    assert reasons == {"another model: ours is tiny-llava on mini data", "no score of a bench"}
    found = rows(settings={"printed": "pmod-table11"})
    assert [row["table"] for row in found[:48]] == ["pmod-table11"] * 48
    assert {row["bench"] for row in found[48:]} == {"gqa"}
    assert rows(model="tiny-llava") == []


def test_a_repeated_table_takes_the_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def checkpoint(method: Any, wish: str | None, source: Any) -> Path:
        asked.append(wish)
        return Path("weights")

    monkeypatch.setattr(resolve, "checkpoint", checkpoint)
    named = methods.parse_list("dense,pmod")
    for model in (MODEL, "tiny-llava"):
        for settings in (Settings(printed="pmod-table1"), Settings()):
            resolve.find_checkpoints(settings, list(named), SimpleNamespace(model_id=model))
    ids = [wish for wish in asked if wish]
    assert ids == ["MCG-NJU/p-MoD-LLaVA-v1.5-7B"]


# --- in a run -------------------------------------------------------------------------------------
class Real(FakeRun):
    """Made-up answers of a published model on what passes for real data."""

    def __init__(self) -> None:
        super().__init__()
        self.model = FakeSource(model_id=MODEL, mini=False)

    def bench(self, name: str, source: Any) -> Any:
        return FakeBench(name, data="hub")


@pytest.fixture(scope="module")
def alike() -> Iterator[None]:
    """What was asked by lmms-eval's LLaVA wrapper, asked as the made-up runs are."""
    other = {"lmms-eval-llava": "lmms-eval"}
    tables = {
        name: replace(one, protocol=other.get(one.protocol, one.protocol))
        for name, one in reference().items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beside, "reference", lambda: tables)
        yield


@pytest.fixture(scope="module")
def finished(alike: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(out, Real(), methods=("fastv:k=3",), bench=("gqa",)) == 0
    return out


def test_a_run_writes_it_and_derive_writes_it_again(finished: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    before = (out / "reference.csv").read_bytes()
    frame = pd.read_csv(out / "reference.csv")
    ours = frame[frame["ours"].notna()]
    assert set(ours["label"]) == {"LLaVA-1.5-7B", "FastV, K=3, R=50 %"}
    scores = pd.read_csv(out / "accuracy.csv").set_index(["method", "metric"])
    dense = scores.loc["dense", "exact_match"]
    row = ours[ours["method"] == "dense"].iloc[0]
    assert row["ours"] == pytest.approx(100 * dense.value)
    assert row["inside"] == int(100 * dense.ci_low <= row["value"] <= 100 * dense.ci_high)
    (out / "reference.csv").write_text("damaged\n")
    assert run_derive(str(out), quiet=True) == 0
    assert (out / "reference.csv").read_bytes() == before


def test_the_report_shows_both(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    build_report(finished, out)
    told = (out / "report.md").read_text()
    part = told.partition("## Published scores beside ours")[2].partition("\n## ")[0]
    assert "can be held against our intervals" in part
    (line,) = [x for x in part.splitlines() if x.startswith("| gqa | FastV, K=3")]
    assert "| 60.4 |" in line and "lmms-eval" in line and ("inside" in line or "outside" in line)
    assert "## Further published scores" in told
    assert "CDPruner" in (out / "report.html").read_text()


def test_a_run_of_another_model_has_none(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, bench=("gqa",), methods=("random",)) == 0
    assert not (out / "reference.csv").exists()
