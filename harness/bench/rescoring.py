"""Scores of given answers by a bench's own task: lmms-eval asks, and is told. Loads lmms-eval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.bench.benches import Bench
from harness.bench.scores import Metric, extract
from harness.common.torchvision_ops import declare_missing_ops

Asked = tuple[str, str]  # task, doc_id


def score(
    loaded: Any, bench: Bench, answers: Mapping[Asked, str], limit: int | None, seed: int
) -> Metric:
    """The headline metric of these answers; scores of documents that have none mean nothing.

    Filters and scoring are the task's, unmodified; other documents are answered with nothing.
    Raises CellError, one line.
    """
    declare_missing_ops()
    from harness.bench.guard import Scoring
    from harness.bench.lmms import RoutedModel
    from harness.bench.prompter import Prompter
    from harness.bench.quiet import quiet
    from harness.bench.upstream import run_lmms_eval

    class Told(RoutedModel):
        """Answers what it was told."""

        def ask(self, form: Any, asked: list[Any]) -> list[Any]:
            self.answering = True
            told = [""] * len(asked)
            for request in form.requests(self, asked):
                for place in request.places:
                    told[place] = answers.get((request.task, request.doc_id), "")
            return told

    if loaded.protocol.ocr:
        bench = bench.with_ocr()
    model, scoring = Told(Prompter(loaded), None, seed=seed), Scoring()
    with quiet(), scoring.guarded():
        results, tasks = run_lmms_eval(model, bench, limit, seed, scoring=scoring)
        return extract(results, tasks, bench.metric, bench.task)[0]
