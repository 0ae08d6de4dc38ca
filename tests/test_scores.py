"""Per-sample scores under upstream's own scoring and aggregation functions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.bench.guard import Scoring
from harness.bench.outcome import outcome
from harness.bench.scores import extract, target_text
from harness.common.errors import CellError
from harness.common.torchvision_ops import declare_missing_ops


class Task:
    """As much of an lmms-eval task as the extraction looks at."""

    def __init__(self, aggregations: dict[str, Any], filters: tuple[str, ...] = ("none",)) -> None:
        self._aggregations = aggregations
        self._filters = [SimpleNamespace(name=name) for name in filters]
        self.config = SimpleNamespace(doc_to_target="answer")

    def aggregation(self) -> dict[str, Any]:
        return self._aggregations

    def higher_is_better(self) -> dict[str, bool]:
        return dict.fromkeys(self._aggregations, True)


@pytest.fixture(scope="module")
def upstream() -> Callable[[str], Any]:
    declare_missing_ops()
    return lambda name: importlib.import_module(f"lmms_eval.{name}")


def results_of(task: Task, rows: list[dict[str, Any]], name: str = "t") -> dict[str, Any]:
    """What lmms-eval returns for these scored rows."""
    values: dict[str, Any] = {"alias": name}
    for label in task._filters:
        for metric, aggregate in task.aggregation().items():
            items = [row[metric] for row in rows if metric in row]
            if items:
                values[f"{metric},{label.name}"] = aggregate(items)
                values[f"{metric}_stderr,{label.name}"] = "N/A"
                values[f"{metric}_stderr_clt,{label.name}"] = 0.25
    samples = [{"doc_id": i, **row} for _ in task._filters for i, row in enumerate(rows)]
    return {"results": {name: values}, "samples": {name: samples}}


def test_plain_mean(upstream: Any) -> None:
    mean = upstream("api.metrics").mean
    task = Task({"exact_match": mean})
    results = results_of(task, [{"exact_match": v} for v in (1.0, 0.3, True, 0)])
    (metric,) = extract(results, {"t": task}, "", "t")
    assert metric.scores == {"0": 1.0, "1": 0.3, "2": 1.0, "3": 0.0} and metric.is_mean
    results["results"]["t"]["exact_match,none"] = 0.9
    with pytest.raises(CellError, match=r"mean is 0\.575, the metric 0\.9"):
        extract(results, {"t": task}, "", "t")


def test_pope(upstream: Any) -> None:
    pope = upstream("tasks.pope.utils")
    names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    task = Task({f"pope_{n}": getattr(pope, f"pope_aggregate_{n}") for n in names})
    told = [("yes", "yes"), ("yes", "no"), ("no", "no"), ("Yes.", "yes"), ("no", "yes")]
    rows = [
        pope.pope_process_results({"question_id": i, "answer": gold}, [said])
        for i, (said, gold) in enumerate(told)
    ]
    metrics = {m.metric: m for m in extract(results_of(task, rows), {"t": task}, "", "t")}
    assert next(iter(metrics)) == "pope_accuracy"
    assert metrics["pope_accuracy"].value == pytest.approx(2 / 5)
    # "Yes." is not "yes" to this scorer.
    assert list(metrics["pope_accuracy"].scores.values()) == [1, 0, 1, 0, 0]
    assert metrics["pope_precision"].value == pytest.approx(1 / 2)
    assert not metrics["pope_precision"].is_mean and metrics["pope_precision"].scores == {}
    chosen = extract(results_of(task, rows), {"t": task}, "pope_f1_score", "t")
    assert chosen[0].metric == "pope_f1_score" and not chosen[0].is_mean
    assert set(chosen[0].scores) == set("01234")


def test_every_pope_metric_follows_the_answers(upstream: Any) -> None:
    """Upstream's yes ratio counts the right answers: one half also for who never says yes."""
    pope = upstream("tasks.pope.utils")
    names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    task = Task({f"pope_{n}": getattr(pope, f"pope_aggregate_{n}") for n in names})
    gold = ["yes", "no"] * 3

    def values(told: list[str]) -> dict[str, float]:
        rows = [
            pope.pope_process_results({"question_id": i, "answer": right}, [said])
            for i, (said, right) in enumerate(zip(told, gold, strict=True))
        ]
        metrics = extract(results_of(task, rows), {"t": task}, "", "t")
        return {m.metric: m.value for m in metrics}

    never, always = values(["no"] * 6), values(["yes"] * 6)
    assert (never["pope_yes_ratio"], always["pope_yes_ratio"]) == (0, 1)
    some = values(["yes", "no", "yes", "no", "perhaps", "No."])
    assert some["pope_yes_ratio"] == pytest.approx(2 / 6)
    assert all(len({v[name] for v in (never, always, some)}) > 1 for name in never)


def test_mme_pairs(upstream: Any) -> None:
    mme = upstream("tasks.mme.utils")
    names = ("mme_perception_score", "mme_cognition_score")
    task = Task(dict.fromkeys(names, mme.mme_aggregate_results))
    rows = [
        mme.mme_process_results(
            {"question_id": q, "category": category, "answer": "Yes"}, ["yes" if right else "no"]
        )
        for q, category, pair in (
            ("a", "existence", (1, 1)),
            ("b", "existence", (1, 0)),
            ("c", "code_reasoning", (0, 0)),
        )
        for right in pair
    ]
    first, second = extract(results_of(task, rows), {"t": task}, "mme_perception_score", "t")
    assert first.value == (200 + 50) / 2 and not first.is_mean
    assert list(first.scores.values()) == [1, 1, 1, 0]  # correctness of perception questions only
    assert second.value == 0 and second.scores == {}


def test_structures_whose_mean_is_the_value(upstream: Any) -> None:
    seed = upstream("tasks.seedbench.utils")
    names = ("seed_image", "seed_video", "seed_all")
    task = Task(dict.fromkeys(names, seed.seed_aggregation_result))
    rows = [
        seed.seed_process_result({"answer": "A", "data_type": kind, "question_id": i}, [said])
        for i, (kind, said) in enumerate((("image", "A."), ("video", "B"), ("image", "c")))
    ]
    metrics = {m.metric: m for m in extract(results_of(task, rows), {"t": task}, "seed_image", "t")}
    assert metrics["seed_image"].scores == {"0": 1.0, "2": 0.0} and metrics["seed_image"].is_mean
    assert metrics["seed_all"].value == pytest.approx(1 / 3) and metrics["seed_all"].is_mean

    box = upstream("tasks.refcoco.utils_rec")
    accuracy, overlap_of = box.refcoco_bbox_rec_acc05, box.refcoco_bbox_rec_iou
    task = Task({"refcoco_ACC@0.5": accuracy, "refcoco_IoU": overlap_of})
    rows = [
        box.refcoco_bbox_rec_process_result(
            {"question_id": i, "answer": "dog", "bbox": [0.0, 0.0, 0.5, 1.0]}, [said]
        )
        for i, said in enumerate(("[0, 0, 0.5, 0.9]", "[0.4, 0, 1, 1]", "no box"))
    ]
    metrics = {m.metric: m for m in extract(results_of(task, rows), {"t": task}, "", "t")}
    assert list(metrics["refcoco_ACC@0.5"].scores.values()) == [1, 0, 0]
    overlap = list(metrics["refcoco_IoU"].scores.values())
    assert metrics["refcoco_IoU"].is_mean and overlap == pytest.approx([0.9, 0.1, 0])


def test_mmbench_counts_a_question_when_every_rotation_is_right(
    upstream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bench = upstream("tasks.mmbench.en_utils")
    aggregate = bench.mmbench_aggregate_dev_results_static
    task = Task({"gpt_eval_score": aggregate})
    about = {"question": "?", "hint": "", "source": "s", "split": "dev", "category": "c"}
    choices = {"A": "red", "B": "blue", "C": "nan", "D": "nan", "E": "nan", "L2-category": "l"}
    told = [
        (1, "A", "A"),
        (2, "A", "A"),
        (3, "B", "A"),
        (1_000_001, "B", "B"),
        (1_000_002, "B", "A"),
    ]
    rows = [
        bench.mmbench_process_results({"index": i, "answer": gold, **about, **choices}, [said])
        for i, gold, said in told
    ]
    values = [row["gpt_eval_score"] for row in rows]
    value = aggregate(values, SimpleNamespace(output_path=str(tmp_path)))
    results = {
        "results": {"t": {"gpt_eval_score,none": value}},
        "samples": {"t": [{"doc_id": i, **row} for i, row in enumerate(rows)]},
    }
    (metric,) = extract(results, {"t": task}, "", "t")
    assert metric.value == pytest.approx(100 / 3) and metric.is_mean
    assert metric.scores == {"0": 100.0, "1": 0.0, "2": 0.0}
    assert [p.name for p in tmp_path.iterdir()] == ["submissions"]  # that of our own call only


def test_rounded_aggregation(upstream: Any) -> None:
    mmmu = upstream("tasks.mmmu.utils")
    task = Task({"mmmu_acc": mmmu.mmmu_aggregate_results})
    rows = [
        {"mmmu_acc": {"id": f"v_{s}_{i}", "subdomain": s, "question_type": "multiple-choice",
                      "answer": "A", "parsed_pred": [p]}}
        for i, (s, p) in enumerate((("Art", "A"), ("Math", "B"), ("Math", "A")))
    ]  # fmt: skip
    (metric,) = extract(results_of(task, rows), {"t": task}, "", "t")
    assert metric.value == 0.66667 and metric.is_mean and list(metric.scores.values()) == [1, 0, 1]


def test_answer_filters_are_told_apart(upstream: Any) -> None:
    mean = upstream("api.metrics").mean
    task = Task({"exact_match": mean}, filters=("strict", "lenient"))
    results = results_of(task, [{"exact_match": 0.0}, {"exact_match": 1.0}])
    for sample in results["samples"]["t"][2:]:
        sample["exact_match"] = 1.0
    results["results"]["t"]["exact_match,lenient"] = 1.0
    metrics = {m.metric: m for m in extract(results, {"t": task}, "", "t")}
    assert metrics["exact_match,strict"].scores == {"0": 0.0, "1": 1.0}
    assert metrics["exact_match,lenient"].scores == {"0": 1.0, "1": 1.0}


def test_several_tasks_are_pooled(upstream: Any) -> None:
    mean = upstream("api.metrics").mean
    task = Task({"exact_match": mean})
    a = results_of(task, [{"exact_match": 1.0}], "a")
    b = results_of(task, [{"exact_match": 0.0}] * 3, "b")
    both = {part: {**a[part], **b[part]} for part in ("results", "samples")}
    metrics = extract(both, {"a": task, "b": task}, "", "group")
    assert [(m.task, m.value) for m in metrics] == [("group", 0.25), ("a", 1.0), ("b", 0.0)]
    assert metrics[0].scores == {"a/0": 1.0, "b/0": 0.0, "b/1": 0.0, "b/2": 0.0}


def test_missing_metrics(upstream: Any) -> None:
    task = Task({"exact_match": upstream("api.metrics").mean})
    results = results_of(task, [{"exact_match": 1.0}])
    with pytest.raises(CellError, match="no metric 'anls', only exact_match"):
        extract(results, {"t": task}, "anls", "t")
    results["results"]["t"] = {"alias": "t", "submission,none": None}
    with pytest.raises(CellError, match="no numeric metric"):
        extract(results, {"t": task}, "", "t")


def test_what_is_scored_gives_nothing_to_hand_in(upstream: Any, tmp_path: Path) -> None:
    task = Task({"exact_match": upstream("api.metrics").mean, "submission": lambda items: None})
    results = results_of(task, [{"exact_match": 1.0, "submission": {}}])
    results["n-samples"] = {"t": {"effective": 1, "original": 3}}
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / "mine.json").write_text("[]")
    bench = SimpleNamespace(task="t", metric="exact_match", judged=False)
    found = outcome(results, {"t": task}, bench, Scoring(), tmp_path, {})
    assert [metric.value for metric in found.metrics] == [1.0]
    assert not found.files and not found.notes


def test_target_text() -> None:
    task = Task({})
    assert target_text({"target": "dog", "doc": {"answer": "dog"}}, task) == "dog"
    assert target_text({"target": "answer", "doc": {"answers": ["a", "b", "b"]}}, task) == "b"
    answers = [{"answer": "x"}, {"answer": "y"}, {"answer": "y"}]
    assert target_text({"target": "answer", "doc": {"answers": answers}}, task) == "y"
    assert target_text({"target": ["p", "q"], "doc": {}}, task) == "p"
    assert target_text({"target": 3, "doc": {}}, task) == "3"
    box = {"target": [0.25, 0.5, 0.25, 1.0], "doc": {}}  # one answer, not four to choose from
    assert target_text(box, task) == "[0.25, 0.5, 0.25, 1.0]"
    assert target_text({"target": None}, task) == ""
