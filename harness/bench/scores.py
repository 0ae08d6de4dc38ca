"""From lmms-eval's results to metrics with per-sample scores.

Upstream's ``process_results`` and aggregations are taken as they are, with two exceptions
(:data:`REPLACED`). A sample's score is its value under the metric's own aggregation: the plain
number where that is a mean, the aggregation of this one sample alone where the value is a
structure (pope, mme, seedbench, refcoco, ...), the aggregation of all rotations of a question
where they count together (mmbench), what :mod:`harness.bench.aggregations` reads where an
aggregation cannot be asked so.
"""

from __future__ import annotations

import inspect
import json
import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from harness.bench.aggregations import APART, Apart
from harness.common.errors import CellError
from harness.store.tables import SOMETIMES

EXACT = 1e-9
ROUNDED = 1e-5  # some upstream aggregations round to five decimals
SUBMISSION = "submission"  # the metric whose aggregation writes a file for a server
ROTATIONS = 1_000_000  # mmbench: rotations of question q have the indices q, q + this, ...
# Ratios of counts and pair scores: no mean of samples, also where the numbers happen to agree.
NO_MEANS = (
    "pope_precision",
    "pope_recall",
    "pope_f1_score",
    "pope_yes_ratio",
    "mme_perception_score",
    "mme_cognition_score",
)


def _share_of_yes(values: Sequence[Mapping[str, Any]]) -> float:
    """Share of all answers that are "yes", as POPE's and LLaVA's own scripts count it."""
    return sum(value["prediction"] == "yes" for value in values) / len(values)


def _mean_score(values: Sequence[Mapping[str, Any]]) -> float:
    return math.fsum(value["score"] for value in values) / len(values)


# The only places where a value of upstream's is not taken. Its yes ratio counts the right answers
# instead of the model's, so it is one half for every model. Its OCRBench divides by the bench's
# 1,000 documents however many were asked: the same number on all of them, and no accuracy on fewer.
REPLACED = {"pope_yes_ratio": _share_of_yes, "ocrbench_accuracy": _mean_score}


@dataclass(frozen=True)
class Metric:
    """One metric of one task.

    ``scores``: doc_id -> score. ``is_mean``: their mean is the value, so intervals and paired
    tests on them speak about the value. Where it is False (F1, MME's pair score) the scores of
    the headline metric are the samples' plain correctness, and other metrics have none.
    ``not_scored`` says why there is no value (NaN) and no score, ``judge`` which language model
    scored, ``judge_temperature`` how warm it was asked.
    """

    task: str
    metric: str
    value: float
    higher_is_better: bool = True
    scores: dict[str, float] = field(default_factory=dict, repr=False)
    is_mean: bool = True
    not_scored: str = ""
    judge: str = ""
    judge_temperature: str = ""

    def entry(self, headline: bool) -> dict[str, Any]:
        """The metric as it is stored beside the samples (JSON-able)."""
        names = ("task", "metric", "value", "higher_is_better", "is_mean")
        about = {name: getattr(self, name) for name in names}
        about["value"] = None if self.not_scored else self.value
        more = {name: said for name in SOMETIMES if (said := getattr(self, name))}
        return {**about, "headline": headline, **more, "scores": dict(self.scores)}


def numeric(results: Mapping[str, Any], tasks: Mapping[str, Any]) -> bool:
    """Whether any task gave a number."""
    return any(_values(results["results"].get(part, {}), task) for part, task in tasks.items())


def extract(
    results: Mapping[str, Any], tasks: Mapping[str, Any], headline: str, name: str
) -> list[Metric]:
    """The metrics in an ``evaluate`` result dict, headline first, then in the task's order.

    ``tasks``: task name -> lmms-eval task object. ``headline`` "" takes the first metric. Of
    several tasks run together under ``name``, the headline is pooled over all documents.
    Raises CellError when a declared mean is not the mean of its samples, or there is no metric.
    """
    found: list[Metric] = []
    grouped = len(tasks) > 1
    for part, task in tasks.items():
        samples = results["samples"].get(part, [])
        for metric, filter_name, value in _values(results["results"].get(part, {}), task):
            rows = _of_filter(samples, task, filter_name)
            label = metric if len(_filters(task)) == 1 else f"{metric},{filter_name}"
            if metric in REPLACED:
                value = REPLACED[metric]([row[metric] for row in rows])
            scores = _scores(rows, metric, task, part if grouped else "")
            found.append(_metric(part, label, metric, value, scores, task, headline))
    if not found:
        raise CellError("the task gave no numeric metric")
    wanted = headline or found[0].metric
    names = [m.metric for m in found]
    if wanted not in names:
        raise CellError(f"the task has no metric '{wanted}', only {', '.join(names)}")
    told = {m.task for m in found if m.metric == wanted}
    mute = [p for p, task in tasks.items() if wanted in task.aggregation() and p not in told]
    if mute:
        raise CellError(f"{', '.join(mute)}: no number for {wanted}, so {name} has none")
    ordered = sorted(found, key=lambda m: m.metric != wanted)
    pooled = [_pooled([m for m in found if m.metric == wanted], name)] if grouped else []
    return pooled + ordered


def _pooled(parts: list[Metric], name: str) -> Metric:
    """One metric over the documents of several tasks, each document counting once."""
    if not all(part.is_mean and part.scores for part in parts):
        raise CellError(f"{name}: {parts[0].metric} cannot be pooled over its tasks: name them")
    scores = {doc: score for part in parts for doc, score in part.scores.items()}
    value = math.fsum(scores.values()) / len(scores)
    return Metric(name, parts[0].metric, value, parts[0].higher_is_better, scores)


def _metric(
    task_name: str,
    label: str,
    metric: str,
    value: float,
    scores: dict[str, float],
    task: Any,
    headline: str,
) -> Metric:
    plain = _is_plain_mean(task, metric)
    mean = math.fsum(scores.values()) / len(scores) if scores else math.nan
    apart = _apart(task, metric)
    averaged = metric not in NO_MEANS and (apart is None or apart.mean)
    step = EXACT if plain else max(ROUNDED, apart.step if apart else 0.0) + EXACT
    is_mean = averaged and math.isclose(mean, value, rel_tol=0, abs_tol=step)
    if plain and not is_mean:
        raise CellError(f"{task_name} {label}: the samples' mean is {mean}, the metric {value}")
    higher = bool(task.higher_is_better().get(metric, True))
    keep = is_mean or label == headline
    return Metric(task_name, label, value, higher, scores if keep else {}, is_mean)


def _values(result: Mapping[str, Any], task: Any) -> list[tuple[str, str, float]]:
    """(metric, filter, value) for every numeric entry that is not a standard error."""
    found = []
    for key, value in result.items():
        metric, comma, filter_name = key.partition(",")
        apart = _apart(task, metric)
        if value is None and apart is not None and apart.none_is_zero and metric != SUBMISSION:
            value = 0.0
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if comma and number and "_stderr" not in metric and math.isfinite(value):
            found.append((metric, filter_name, float(value)))
    return found


def _apart(task: Any, metric: str) -> Apart | None:
    return APART.get(getattr(task.aggregation().get(metric), "__name__", ""))


def _filters(task: Any) -> list[str]:
    return [str(f.name) for f in getattr(task, "_filters", [])] or ["none"]


def _of_filter(samples: Sequence[Any], task: Any, filter_name: str) -> Sequence[Any]:
    """Logged samples come filter by filter, each time all documents."""
    filters = _filters(task)
    size = len(samples) // len(filters)
    place = filters.index(filter_name) if filter_name in filters else 0
    return samples[place * size : (place + 1) * size]


def _is_plain_mean(task: Any, metric: str) -> bool:
    aggregation = task.aggregation().get(metric)
    return getattr(aggregation, "__module__", "") == "lmms_eval.api.metrics" and (
        getattr(aggregation, "__name__", "") == "mean"
    )


def _scores(rows: Sequence[Any], metric: str, task: Any, group: str) -> dict[str, float]:
    """doc_id -> score, for the samples this metric speaks about."""
    aggregate, apart = task.aggregation()[metric], _apart(task, metric)
    writes = "args" in inspect.signature(aggregate).parameters
    units: dict[Any, list[Any]] = {}
    for row in rows:
        if metric in row:  # the human part of chartqa, say, has no augmented score
            units.setdefault(_unit(row[metric], row["doc_id"]), []).append(row)
    scores = {}
    for members in units.values():
        values = [row[metric] for row in members]
        score = apart.score(values[0]) if apart else _score(values, aggregate, writes)
        if score is not None and math.isfinite(score):
            scores[doc_key(members[0]["doc_id"], group)] = score
    return scores


def _unit(value: Any, doc_id: Any) -> Any:
    """What counts as one question: a document, or all rotations of one."""
    if isinstance(value, dict) and "L2-category" in value and "index" in value:
        return int(value["index"]) % ROTATIONS
    return doc_id


def _score(values: list[Any], aggregate: Any, writes: bool) -> float | None:
    if len(values) == 1 and isinstance(values[0], (bool, int, float)):
        return float(values[0])
    try:
        alone = _written(values, aggregate) if writes else aggregate(values)
    except Exception:  # an aggregation that needs other samples too (mme wants pairs)
        alone = values[0].get("score") if isinstance(values[0], dict) else None
    return float(alone) if isinstance(alone, (bool, int, float)) else None


def _written(values: list[Any], aggregate: Any) -> Any:
    """An aggregation that writes files, in a folder of its own: some read theirs back."""
    with tempfile.TemporaryDirectory() as scratch:
        return aggregate(values, args=SimpleNamespace(output_path=scratch))


def doc_key(doc_id: Any, task: str = "") -> str:
    """A document's name in our tables; with its task where several tasks run together."""
    return f"{task}/{doc_id}" if task else str(doc_id)


def lacks_answer(sample: Mapping[str, Any], task: Any) -> bool:
    """Whether the fields that a task takes its right answer from are there and empty (None)."""
    given, doc = task.config.doc_to_target, sample.get("doc") or {}
    if not isinstance(given, str):
        return False
    found = [doc[name] for name in {given, "answer", "answers"} if name in doc]
    return bool(found) and all(value is None for value in found)


def target_text(sample: Mapping[str, Any], task: Any) -> str:
    """What the right answer was, for the table of samples.

    Some tasks name a document field that does not exist and so log the literal word "answer";
    the most common of the document's answers is taken then.
    """
    target = sample.get("target")
    doc = sample.get("doc") or {}
    given = task.config.doc_to_target
    if getattr(task, "OUTPUT_TYPE", "") == "multiple_choice" and type(target) is int:
        choices = task.doc_to_choice(doc)
        return str(choices[target]) if 0 <= target < len(choices) else ""
    if isinstance(given, str) and target == given and given not in doc and doc.get("answers"):
        target = doc["answers"]
    if isinstance(target, (list, tuple)) and not all(isinstance(t, (str, dict)) for t in target):
        return json.dumps(list(target), default=str)  # one answer of several parts: a box
    if isinstance(target, (list, tuple)):
        texts = [str(t.get("answer", t)) if isinstance(t, dict) else str(t) for t in target]
        return Counter(texts).most_common(1)[0][0] if texts else ""
    return "" if target is None else str(target)
