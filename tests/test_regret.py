"""`--analyse regret`: held, scored, written down, resumed, derived, drawn, refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.bench import rescoring
from harness.bench.conversation import Talker
from harness.bench.request import GenerationKwargs, Request
from harness.command.cli import main, parse
from harness.common.errors import CellError, UsageError
from harness.jobs import regret
from harness.jobs.benchmarks import Benchmarks
from harness.jobs.regret import LeftOut, Regret, _images, paired_by_image
from harness.jobs.runner import run as run_job
from harness.options.settings import Settings
from harness.readouts.regret import derive_regret, write_regret
from harness.statistics.stats import paired
from harness.store import columns
from harness.store.columns.regret import CONVERSATIONS, REGRET
from harness.store.csvfile import write_csv
from harness.store.rundir import Store
from methods.fastv import FastV
from reports import build_report
from tests.fakes import FakeReferees, without_report

ARGV = ["--methods", "fastv:kv=0.33,random:kv=0.33", "--bench", "gqa", "--limit", "4"]
ARGV += ["--batch-size", "4", "--analyse", "regret", "--analyse-samples", "4", "--quiet"]


class Shipped(Benchmarks):
    """Ordinary runs without the counters of FLOPs."""

    def counters(self) -> Any:
        return FakeReferees()


def go(out: Path) -> int:
    job = Shipped(Settings(), [])
    argv = [*ARGV, "--out", str(out)]
    job.settings, job.argv = parse(argv)[1], argv
    return run_job(job)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def counted(patch: pytest.MonkeyPatch, before: Callable[[Any], None] = lambda label: None) -> list:
    """Labels of the methods whose conversations are held, one entry each."""
    held: list[str] = []
    hold = Talker.hold

    def noted(self: Any, *args: Any) -> Any:
        before(self.label)
        held.append(self.label)
        return hold(self, *args)

    patch.setattr(Talker, "hold", noted)
    return held


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped, in which then one method failed and another could not go on."""
    out = tmp_path_factory.mktemp("runs") / "regret"

    def stops(label: str) -> None:
        if label != "dense":
            raise KeyboardInterrupt

    def fails(label: str) -> None:
        if label.startswith("random"):
            raise CellError("out of luck")

    with pytest.MonkeyPatch.context() as patch:
        held = counted(patch, stops)
        assert go(out) == 130
    assert held == ["dense"] * 4 and not (out / "regret.csv").exists()
    with pytest.MonkeyPatch.context() as patch:
        held = counted(patch, fails)
        patch.setattr(FastV, "one_turn", "it forgets")
        assert go(out) == 3
    assert held == []
    said = {r["method"]: (r["status"], r["error"]) for r in rows_of(out / "regret.csv")}
    assert said == {
        "dense": ("done", ""), "fastv": ("left out", "it forgets"),
        "random": ("failed", "out of luck"),
    }  # fmt: skip
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "failed: out of luck" in html and "left out: it forgets" in html
    with pytest.MonkeyPatch.context() as patch:
        held = counted(patch)
        without_report(patch)
        assert go(out) == 0
    assert held == ["fastv kv=0.33"] * 4 + ["random kv=0.33"] * 4
    return out


def test_every_document_is_asked_first_once_and_second_once(finished: Path) -> None:
    rows = rows_of(finished / "regret_samples.csv")
    assert list(rows[0]) == list(CONVERSATIONS) and len(rows) == 12
    for cell in {row["cell_id"] for row in rows}:
        mine = [row for row in rows if row["cell_id"] == cell]
        assert {r["doc_id"] for r in mine} == {r["first_doc"] for r in mine} == set("0123")
        mirrored = {(r["first_doc"], r["doc_id"]): r["order"] for r in mine}
        assert all(mirrored[two, one] != order for (one, two), order in mirrored.items())
        alone = {r["first_doc"]: r["first_score"] for r in mine}
        assert all(r["alone_score"] == alone[r["doc_id"]] for r in mine)
        images = {s["doc_id"]: s["image_id"] for s in rows_of(finished / f"samples/{cell}.csv")}
        assert all(images[r["first_doc"]] == images[r["doc_id"]] == r["image_id"] for r in mine)


def test_answers_are_scored_as_the_run_scores_them(finished: Path) -> None:
    """A first turn is the run's own question, so answer and score are the run's own too."""
    for row in rows_of(finished / "regret_samples.csv"):
        mine = rows_of(finished / f"samples/{row['cell_id']}.csv")
        sample = {s["doc_id"]: s for s in mine}
        assert row["first_answer"] == sample[row["first_doc"]]["prediction"]
        assert row["first_score"] == sample[row["first_doc"]]["score"]
        for name in ("kept", "fresh"):  # GQA: the same word, whatever its case
            same = row[f"{name}_answer"].lower() == sample[row["doc_id"]]["target"].lower()
            assert float(row[f"{name}_score"]) == float(same)


def test_dense_and_what_is_blind_to_the_question_have_no_regret(finished: Path) -> None:
    found = [r for r in rows_of(finished / "regret.csv") if r["order"] == "both"]
    assert [r["method"] for r in found] == ["dense", "fastv", "random"]
    for row in found:
        assert (row["status"], row["data"], row["batch_size"]) == ("done", "mini", "1")
        assert (row["n"], row["images"]) == ("4", "2")
        regret = float(row["turn2_fresh"]) - float(row["turn2_kept"])
        assert float(row["regret"]) == pytest.approx(regret)
        if row["method"] != "fastv":
            assert regret == 0 and row["same_answers"] == "4"
        if row["method"] != "dense":
            assert float(row["kv_ratio"]) == pytest.approx(0.33, abs=0.01)
    assert found[0]["p_adjusted"] == "" and found[1]["p_adjusted"] != ""


def test_what_is_done_is_kept_and_tables_and_pages_need_no_model(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / "regret.csv").read_bytes()
    held = counted(monkeypatch)
    assert go(finished) == 0 and held == []
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    derive_regret(copy)
    assert (copy / "regret.csv").read_bytes() == before
    assert main(["--plots-only", str(finished), "--out", str(tmp_path / "page"), "--quiet"]) == 0
    page = (tmp_path / "page/report.md").read_text(encoding="utf-8")
    assert "A second question on the kept cache" in page and "gqa (mini)" in page
    assert "trained on single questions" in page
    assert (tmp_path / "page/figures/regret.svg").is_file()
    settings = json.loads((finished / "run.json").read_text())["settings"]
    assert settings["analyse"] == ["regret"] and settings["analyse_samples"] == 4


# --- numbers
CELLS = {"d": "dense", "f": "fastv", "r": "random", "x": "gamma"}
# image, first, kept, fresh of four conversations of one method
TURNS = [("a", 1, 0, 1), ("a", 1, 1, 1), ("b", 0, 0, 1), ("b", 1, 1, 0)]


def written(folder: Path) -> Path:
    (folder / "run.json").write_text(
        json.dumps({"schema_version": 1, "seed": 3, "cells": [*CELLS]}), encoding="utf-8"
    )
    about = {"model": "m", "params": "{}", "bench": "gqa", "data": "mini", "status": "done"}
    cells = [about | {"cell_id": c, "method": m, "label": m} for c, m in CELLS.items()]
    write_csv(folder / "cells.csv", columns.CELLS, cells)
    rows = [
        {
            "cell_id": cell, "stamp": "s", "order": "earlier" if i % 2 else "later", "bench": "gqa",
            "metric": "exact_match", "image_id": image, "first_doc": str(i), "doc_id": str(3 - i),
            "first_score": first, "alone_score": 1, "kept_score": kept, "fresh_score": fresh,
            "kept_answer": f"{kept}", "fresh_answer": f"{fresh}", "n_question": 5 + i,
            "kv_ratio": 0.5, "kv_ratio_fresh": 0.25,
        }
        for cell in "dfr"
        for i, (image, first, kept, fresh) in enumerate(TURNS)
    ]  # fmt: skip
    write_csv(folder / "regret_samples.csv", CONVERSATIONS, rows)
    return folder


def test_the_numbers_are_those_of_the_conversations(tmp_path: Path) -> None:
    write_regret(written(tmp_path), [*CELLS], {"x": ("left out", "it cannot")})
    rows = rows_of(tmp_path / "regret.csv")
    assert list(rows[0]) == list(REGRET)
    assert [r["order"] for r in rows] == ["both", "earlier", "later"] * 3 + ["both"]
    row = next(r for r in rows if r["cell_id"] == "f")
    shares = ("turn1", "turn2_kept", "turn2_fresh", "turn2_alone", "regret")
    assert [float(row[name]) for name in shares] == [0.75, 0.5, 0.75, 1, 0.25]
    # Of three right first turns two second ones are right on the cache, and two from scratch.
    assert float(row["both_right"]) == float(row["both_right_fresh"]) == pytest.approx(2 / 3)
    assert (row["right_first"], row["same_answers"]) == ("3", "1")
    assert (float(row["n_question"]), float(row["kv_ratio"])) == (6.5, 0.5)
    ours = paired([1, 1, 1, 0], [0, 1, 0, 1], ["a", "a", "b", "b"], 3)
    assert ours is not None
    assert [float(row[n]) for n in ("ci_low", "ci_high", "p_value")] == [
        ours.delta.low, ours.delta.high, ours.p_value,
    ]  # fmt: skip
    adjusted = {r["cell_id"]: r["p_adjusted"] for r in rows if r["order"] == "both"}
    assert adjusted["d"] == "" and float(adjusted["f"]) == min(1, 2 * ours.p_value)
    assert (rows[-1]["status"], rows[-1]["error"], rows[-1]["n"]) == ("left out", "it cannot", "")
    before = (tmp_path / "regret.csv").read_bytes()
    derive_regret(tmp_path)
    assert (tmp_path / "regret.csv").read_bytes() == before


def test_intervals_draw_the_clusters_of_own_data(tmp_path: Path) -> None:
    path = written(tmp_path) / "regret_samples.csv"
    rows = [r | {"cluster": "" if r["cell_id"] == "r" else "one"} for r in rows_of(path)]
    write_csv(path, CONVERSATIONS, rows)
    write_regret(tmp_path, [*CELLS], {})
    found = {r["cell_id"]: r for r in rows_of(tmp_path / "regret.csv") if r["order"] == "both"}
    for cell, bounds in (("f", False), ("r", True)):  # a single cluster has no interval
        assert bool(found[cell]["ci_low"]) == bounds and found[cell]["images"] == "2"


def test_rows_name_the_documents_and_clusters_of_own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    how, names = GenerationKwargs(4), {"0": "mine", "1": "yours"}
    first, second = (Request(i, "t", str(i), "?", how, None) for i in range(2))
    bench = SimpleNamespace(name="q", names=names, clusters={"yours": "family"})
    cell = SimpleNamespace(bench=bench)
    said = SimpleNamespace(text="a", kv=None, n_prompt=3)
    held = [SimpleNamespace(first=said, kept=said, fresh=said, n_question=1)]
    metric = SimpleNamespace(metric="score", scores={"0": 1.0, "1": 0.5})
    monkeypatch.setattr(rescoring, "score", lambda *_: metric)
    monkeypatch.setattr(Regret, "_stamp", lambda *_: "s")
    job = Regret.__new__(Regret)
    job.grid = SimpleNamespace(settings=Settings())  # type: ignore[assignment]
    job._grouped = {"q": False}
    orders = [("earlier", "i", first, second)]
    (row,) = job._rows(cell, "c", orders, held, None)  # type: ignore[arg-type]
    assert (row["first_doc"], row["doc_id"], row["cluster"]) == ("mine", "yours", "family")
    assert (row["first_score"], row["kept_score"]) == (1.0, 0.5)


@pytest.mark.usefixtures("undrawn")
def test_a_bench_without_pairs_is_left_out_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing at all was held then, which is no success."""
    monkeypatch.setattr(regret, "paired_by_image", lambda *_: [])
    job, argv = Shipped(Settings(), []), [*ARGV[2:-1], "--out", str(tmp_path / "run")]
    job.settings, job.argv = parse(["--methods", "dense", *argv])[1], argv
    assert run_job(job) == 3
    (row,) = rows_of(tmp_path / "run/regret.csv")
    assert row["status"] == "left out" and "share an image" in row["error"]
    assert "is left out: no two questions" in capsys.readouterr().err


def test_a_damaged_table_is_said_and_the_rest_is_drawn(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    text = (copy / "regret.csv").read_text(encoding="utf-8").replace(",order,", ",orders,")
    (copy / "regret.csv").write_text(text, encoding="utf-8")
    page = build_report(copy).read_text(encoding="utf-8")
    assert "regret.csv: left out, it has no column order." in page
    assert "A second question on the kept cache" not in page


# --- pairs and wishes
def test_neighbouring_questions_of_an_image_are_paired_and_repeated_ones_are_not() -> None:
    texts = {"0": "who", "1": "what", "2": "who", "3": "where", "4": "when", "5": "who", "6": "?"}
    images = dict.fromkeys("01234", "a") | {"5": "b", "6": ""}
    how = GenerationKwargs(4)
    requests = {d: Request(i, "t", d, texts[d], how, None) for i, d in enumerate(texts)}
    pairs = paired_by_image(requests, images)
    found = [(p.image_id, p.earlier.doc_id, p.later.doc_id) for p in pairs]
    assert found == [("a", "0", "1"), ("a", "3", "4")]


def stored(store: Store, cell: str, image: str, **metric: Any) -> None:
    """A finished cell of gqa whose one document is about ``image``."""
    headline = {"headline": True, "metric": "m", "scores": {"0": 1.0}, **metric}
    store.write_samples(cell, [{"doc_id": "0", "image_id": image}])
    store.write_metrics(cell, [headline])
    store.write_routing(cell, [])
    store.records_gz(cell).parent.mkdir(exist_ok=True)
    store.records_gz(cell).write_bytes(b"")
    row = dict.fromkeys(columns.CELLS, "") | {"cell_id": cell, "requested_id": cell}
    store.record(row | {"bench": "gqa", "status": "done"})


def test_images_are_those_of_the_cells_that_the_run_asks_for(tmp_path: Path) -> None:
    """Cells of edited data stay in the files of a run, under the same bench."""
    with Store(tmp_path) as store:
        stored(store, "former", "old")
        stored(store, "now", "new")
        assert _images(store, {"now", "not yet"}) == {"0": "new"}
        with pytest.raises(LeftOut, match="no cell of it is done"):
            _images(store, {"not yet"})


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ({"judge": "gpt"}, "a judge scores its answers"),
        ({"scores": {}}, "nothing here scores"),
        ({"higher_is_better": False}, "less is better"),
    ],
)
def test_a_bench_whose_scores_are_no_measure_of_regret_is_left_out(
    tmp_path: Path, metric: dict[str, Any], says: str
) -> None:
    with Store(tmp_path) as store:
        stored(store, "now", "new", **metric)
        with pytest.raises(LeftOut, match=says):
            _images(store, {"now"})


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--analyse", "plan,regret"], "made from arank or damage"),
        (["--analyse", "regret", "--analyse-samples", "1"], "must be at least 2"),
        (["--analyse", "regrets"], "regret"),
    ],
)
def test_wrong_wishes_are_one_line(more: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(["--methods", "dense", "--bench", "gqa", *more])
    assert says in str(caught.value) and "\n" not in str(caught.value)
