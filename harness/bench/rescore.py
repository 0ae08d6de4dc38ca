"""Scores of answers that are there already: lmms-eval asks, the file answers, a judge judges.

Import it after :func:`harness.common.torchvision_ops.declare_missing_ops`; it loads lmms-eval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmms_eval.api.model import lmms

from harness.bench.benches import Bench
from harness.bench.guard import Scoring, Unreachable
from harness.bench.judge import Judge, JudgeError, JudgeStopped
from harness.bench.quiet import quiet
from harness.bench.scores import Metric, extract, numeric
from harness.bench.upstream import run_lmms_eval
from harness.common.errors import CellError

Answers = Mapping[tuple[str, str], Mapping[str, str]]
UNREAD = [-1, -1]  # what upstream's comparisons make of a judge that gave no two numbers


class Replay(lmms):
    """Gives the answers of ``answers.jsonl`` to the questions that they were given to."""

    is_simple = True
    batch_size = 1

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.accelerator = None
        self.answers = answers

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The answers. Raises CellError where the questions are others than those."""
        if len(requests) != len(self.answers):
            raise CellError(f"{len(self.answers)} answers are kept, {len(requests)} asked for now")
        return [self._kept(*request.args) for request in requests]

    def _kept(self, text: str, how: Any, images: Any, doc_id: Any, task: str, split: str) -> str:
        row = self.answers.get((str(task), str(doc_id)))
        if row is None or row["prompt"] != str(text):
            raise CellError(f"{task}: document {doc_id} is asked in other words than the answer")
        return row["prediction"]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise CellError("only generated answers are judged")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise CellError("only generated answers are judged")

    def found_truncated(self) -> None:
        """Of no interest here: the pictures were looked at when the answers were given."""

    def clean(self) -> None:
        """There is no model."""


def rescore(
    bench: Bench, answers: Answers, limit: int | None, seed: int, judge: Judge
) -> list[Metric]:
    """Metrics of kept answers by a judge, the headline first.

    Raises JudgeError for a judge that does not answer, and CellError for answers that are not of
    these documents or that the task makes no number of.
    """
    judge.fresh()
    scoring = Scoring(judge.ask, judge.begin)
    with quiet(), TemporaryDirectory() as output, scoring.guarded():
        try:
            results, tasks = run_lmms_eval(
                Replay(answers), bench, limit, seed, Path(output), scoring
            )
            if not numeric(results, tasks):
                raise CellError(f"{bench.task}: the task made no number of what the judge said")
            _require_read(results, tasks, judge)
            metrics = extract(results, tasks, bench.metric, bench.task)
        except JudgeStopped as stopped:
            raise stopped.error from None
        except Unreachable as error:
            raise CellError(f"{bench.task}: {error}") from None
    said = judge.said(bench.task_version, metadata.version("lmms-eval"))
    warm = judge.temperature
    return [replace(metric, judge=said, judge_temperature=warm) for metric in metrics]


def _require_read(results: Mapping[str, Any], tasks: Mapping[str, Any], judge: Judge) -> None:
    for name in tasks:
        for row in results["samples"].get(name, []):
            if any(isinstance(v, dict) and v.get("scores") == UNREAD for v in row.values()):
                raise JudgeError(
                    f"judge {judge.asked_for}: the task cannot read its answer on document "
                    f"{row['doc_id']}"
                )
