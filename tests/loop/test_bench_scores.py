"""Every bench on a few documents in upstream's schema, its scores as worked out by hand."""

from __future__ import annotations

import importlib
import inspect
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import methods
from harness.bench.benches import resolve_bench
from harness.bench.catalog import BENCHES
from harness.bench.judge import Judge
from harness.bench.loop import CellResult, evaluate
from harness.bench.outcome import ANSWERS, NEEDS_JUDGE, read_answers
from harness.bench.tasks_index import read_task
from harness.common.errors import UsageError
from tests.fixtures import scripted
from tests.fixtures.bench_rows import FIXTURES, Fixture, dataset_of
from tests.judge_tools import endpoint

REAL = [name for name, spec in BENCHES.items() if not spec.drawn]
KEYS = ("OPENAI_API_KEY", "OPENAI_API_URL", "AZURE_API_KEY", "API_TYPE", "MODEL_VERSION")


def test_every_bench_has_a_fixture() -> None:
    assert set(FIXTURES) == set(REAL)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripted answers, no key, and no task module that read another test's environment."""
    monkeypatch.setattr("harness.bench.generation.Generator", scripted.ScriptedGenerator)
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in sys.modules if name.startswith("lmms_eval.tasks.")]:
        monkeypatch.delitem(sys.modules, name)
    if importlib.util.find_spec("Levenshtein") is None:
        stand_in = ModuleType("Levenshtein")
        stand_in.distance = edits  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "Levenshtein", stand_in)
        monkeypatch.setattr("harness.bench.benches.lacking", lambda path: [])


def edits(a: str, b: str) -> int:
    """Letters to put in, take out or change, by recursion's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, above = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def here(name: str) -> None:
    """Skip a bench whose task an old release of lmms-eval was packed without: 0.7.2 and before."""
    release = tuple(map(int, metadata.version("lmms-eval").split(".")[:3]))
    try:
        resolve_bench(name, "hub")
    except UsageError as error:
        if release < (0, 7, 3) and "which is not there" in str(error):
            pytest.skip(f"lmms-eval's wheel lacks a file of {name}")
        raise


def run(
    name: str, fixture: Fixture, root: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[CellResult, scripted.Asked, list[Any]]:
    here(name)
    fixture.write(root)
    asked = scripted.Asked()
    monkeypatch.setattr(scripted.ScriptedGenerator, "said", fixture.said)
    monkeypatch.setattr(scripted.ScriptedGenerator, "asked", asked)
    bench = resolve_bench(name, str(root))
    session: Any = scripted.ScriptedSession()
    quiet = {"progress": False, "pictured": lambda position: False}
    result = evaluate(session, methods.parse("dense"), bench, **quiet, **options)
    if not fixture.judge:
        return result, asked, []
    with endpoint(saying(fixture.judge)) as judge:
        result = judged(result, bench, Judge(judge.url, "stand-in", root))
    return result, asked, judge.asked


def saying(replies: Mapping[str, str]) -> Callable[[Any], str]:
    """The reply of the first key that stands in a prompt's last 400 characters."""

    def say(prompt: Any) -> str:
        text = prompt if isinstance(prompt, str) else prompt[-1]["text"]
        return next(reply for key, reply in replies.items() if key in text[-400:])

    return say


def judged(result: CellResult, bench: Any, judge: Judge) -> CellResult:
    """What a judge makes of the answers of a cell, which had no score before."""
    from harness.bench.rescore import rescore

    assert result.headline.not_scored == NEEDS_JUDGE
    assert all(sample.score is None for sample in result.samples)
    answers = read_answers(result.files[ANSWERS].decode(), ANSWERS)
    metrics = rescore(bench, answers, None, 0, judge)
    scores = metrics[0].scores
    samples = [replace(one, score=scores.get(one.doc_id)) for one in result.samples]
    return replace(result, metrics=tuple(metrics), samples=tuple(samples))


@pytest.mark.parametrize("name", REAL)
def test_scores(name: str, alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = FIXTURES[name]
    result, asked, prompts = run(name, fixture, tmp_path, monkeypatch)
    assert result.headline.metric == BENCHES[name].metric
    assert [s.prediction for s in result.samples] == list(fixture.said)
    assert [s.score for s in result.samples] == pytest.approx(list(fixture.scores))
    assert result.headline.value == pytest.approx(fixture.value)
    assert result.headline.is_mean == (name not in ("mme", "mmstar"))
    found = {m.metric: m.value for m in result.metrics}
    assert {metric: found[metric] for metric in fixture.also} == pytest.approx(dict(fixture.also))
    images = list(fixture.images) or [1] * len(fixture.said)
    if name == "blink":  # the order of a tag's tasks is that of the files on this disk
        images, asked.images = sorted(images), sorted(asked.images)
    assert asked.images == images
    if fixture.targets:
        assert [s.target for s in result.samples] == list(fixture.targets)
    assert bool(prompts) == bool(fixture.judge) == BENCHES[name].judged


SCORED_BY_CODE = [
    name for name in REAL if not BENCHES[name].judged and name not in ("gqa", "ai2d", "blink")
]


@pytest.mark.parametrize("name", SCORED_BY_CODE)
def test_scores_are_those_of_upstreams_functions(name: str, tmp_path: Path) -> None:
    """lmms-eval's own functions, imported and applied to the rows one by one."""
    here(name)
    spec, fixture = BENCHES[name], FIXTURES[name]
    file = resolve_bench(name, "hub").file
    task = read_task(file.path)
    if isinstance(fixture.tables[0].columns, dict) and not fixture.tables[0].columns:
        documents = [{**row, "question_id": i} for i, row in enumerate(fixture.tables[0].rows)]
    else:
        documents = dataset_of(fixture.tables[0])
    if "process_docs" in task:
        documents = _function(file, task["process_docs"])(documents)
    metric = next(m for m in task["metric_list"] if m["metric"] == spec.metric)
    if "process_results" not in task:
        from lmms_eval.api.metrics import anls

        assert metric["metric"] == "anls"
        scores = [
            anls(doc["answers"], [said])["anls"]
            for doc, said in zip(documents, fixture.said, strict=True)
        ]
        assert scores == pytest.approx(list(fixture.scores))
        return
    process = _function(file, task["process_results"])
    rows = [process(doc, [said]) for doc, said in zip(documents, fixture.said, strict=True)]
    values = [row[spec.metric] for row in rows if spec.metric in row]
    if metric["aggregation"] == "mean":
        value = sum(values) / len(values)
    else:
        aggregate = _function(file, metric["aggregation"])
        takes_args = "args" in inspect.signature(aggregate).parameters
        more = {"args": SimpleNamespace(output_path=str(tmp_path))} if takes_args else {}
        value = aggregate(values, **more)
    if name == "ocrbench":
        assert value == 2 / 1000  # of the bench's thousand, however few were asked
        value = sum(v["score"] for v in values) / len(values)
    assert value == pytest.approx(fixture.value)


def _function(file: Any, name: str) -> Any:
    folder = file.path.parent.name
    module, _, function = str(name).rpartition(".")
    return getattr(importlib.import_module(f"lmms_eval.tasks.{folder}.{module}"), function)


def test_answers_are_scored_the_same_again(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scoring that changes documents, or counts on from cell to cell, leaves nothing behind."""
    for name in ("textvqa", "vqav2", "ocrbench"):
        first, second = (
            run(name, FIXTURES[name], tmp_path / name, monkeypatch)[0] for _ in range(2)
        )
        assert first.headline == second.headline
        assert [s.target for s in first.samples] == [s.target for s in second.samples]


def test_letters_that_mmmu_draws_follow_the_seed(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer without a letter gets one at random: the same for the same seed."""
    fixture = FIXTURES["mmmu"]
    fixture = replace(fixture, said=["none", "none", "3.14", "none"])
    for seed in range(3):
        random.seed(seed)
        drawn = [random.choice("ABC") for _ in range(3)]
        right = [float(a == b) for a, b in zip(drawn, "BAC", strict=True)]
        folder = tmp_path / str(seed)
        result, _, _ = run("mmmu", fixture, folder, monkeypatch, seed=seed)
        assert [s.score for s in result.samples] == [*right[:2], 1.0, right[2]]


def test_all_wrong_is_zero_with_a_judge(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MathVista's aggregation gives None for none right, which is a 0 and no missing metric."""
    fixture = replace(FIXTURES["mathvista"], said=["5 cm", "4 cm", "1", "2", "3"], judge={"x": "y"})
    result, _, prompts = run("mathvista", fixture, tmp_path, monkeypatch)
    assert result.headline.value == 0 and result.headline.is_mean and prompts == []


def test_a_mean_over_abilities_is_none_over_documents(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where both agree: the statistics of a row must not depend on its answers."""
    fixture = replace(FIXTURES["mmstar"], said=["B", "B", "B"])
    headline = run("mmstar", fixture, tmp_path, monkeypatch)[0].headline
    assert headline.value == 1 and not headline.is_mean and len(headline.scores) == 3
