"""Running lmms-eval: one bench through ``simple_evaluate``, with nothing of it left behind.

Import it after :func:`harness.common.torchvision_ops.declare_missing_ops`; it loads lmms-eval.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmms_eval import evaluator
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.tasks import TaskManager
from tenacity import RetryError, stop_after_attempt

from harness.bench.benches import Bench
from harness.bench.decoding import truncation_marked
from harness.bench.guard import Scoring
from harness.bench.hubdata import dataset_sources
from harness.bench.ocr import switch_on
from harness.bench.own.usertask import included
from harness.common.errors import CellError, HarnessError, one_line

# Documents are prepared in one process. lmms-eval 0.7.2 knows nothing else.
SINGLE = {"process_docs_parallel": 1}
if "process_docs_parallel" not in inspect.signature(evaluator.simple_evaluate).parameters:
    SINGLE = {}

# How lmms-eval, the datasets library and the parquet reader say that there are none.
NO_DOCUMENTS = (
    "did not find any docs",
    "Invalid key: 0 is out of bounds for size 0",
    "BatchSize must be greater than 0, got 0",
)


def run_lmms_eval(
    lm: Any,
    bench: Bench,
    limit: int | None,
    seed: int,
    output: Path | None = None,
    scoring: Scoring | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """lmms-eval's result dict and its task objects by name.

    ``output``: the folder below which tasks write files; a passing one without it. ``scoring``
    takes over the tasks' scores.

    Raises CellError with the cause when documents cannot be loaded or scored.
    """
    with (
        included(bench) as (folder, defaults),
        tempfile.TemporaryDirectory() as scratch,
        dataset_sources(bench.root, {bench.task: bench.dataset()}),
        _one_attempt(),
        truncation_marked(lm.found_truncated),
    ):
        args = SimpleNamespace(output_path=str(output or scratch), process_with_media=False)
        manager = TaskManager(include_path=folder, include_defaults=defaults)
        tasks = _TaskTap(manager, bench, scoring)
        try:
            results = evaluator.simple_evaluate(
                model=lm,
                tasks=[bench.task],
                task_manager=tasks,
                limit=limit and min(limit, sys.maxsize),  # what an iterator can be cut at
                batch_size=lm.batch_size,
                use_cache=None,
                bootstrap_iters=0,
                log_samples=True,
                cli_args=args,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
                **SINGLE,
            )
        except RetryError as error:
            raise _cause(error, bench) from None
        except (ValueError, IndexError) as error:
            if not _none_found(error):
                raise
            raise _cause(error, bench) from None
    return results, tasks.loaded


class _TaskTap:
    """Passes for a TaskManager and keeps the task objects it hands out, their faults named."""

    def __init__(self, manager: Any, bench: Bench, scoring: Scoring | None) -> None:
        self._manager, self._bench, self._scoring = manager, bench, scoring
        self.loaded: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def load_task_or_group(self, *args: Any, **kwargs: Any) -> Any:
        try:
            found = self._manager.load_task_or_group(*args, **kwargs)
        except Exception as error:  # lmms-eval tries a task on its first document
            steps = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
            if steps & {"doc_to_text", "doc_to_target", "doc_to_choice"}:
                where = f"{', '.join(args[0])}: document 0"
                raise CellError(f"{where}: {one_line(error, 200)}") from error
            raise
        leaves = _leaves(found)
        for name, task in leaves.items():
            if self._bench.ocr:
                switch_on(task, mini=self._bench.mini)
            for step in ("fewshot_context", "process_results"):
                setattr(task, step, _naming(name, task, getattr(task, step)))
            if self._scoring is not None:
                self._scoring.of(task)
        self.loaded.update(leaves)
        return found


def _naming(name: str, task: Any, step: Callable[..., Any]) -> Callable[..., Any]:
    """A step of a task, called with a document first, whose errors name that document."""

    @functools.wraps(step)
    def called(doc: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            if doc.get("question", "") is None:  # a prompt would say "None"
                raise ValueError("its question is empty")
            return step(doc, *args, **kwargs)
        except HarnessError:
            raise
        except Exception as error:
            cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
            where = f"{name}: document {_number(doc, task)}"
            raise CellError(f"{where}: {one_line(cause or error, 200)}") from error

    return called


def _number(doc: Any, task: Any) -> str:
    """The doc_id of a document, found again by its content; "?" where a step has changed it."""
    with contextlib.suppress(Exception):  # fields that cannot be compared
        for number, other in enumerate(task.eval_docs_no_media):
            if other == doc:
                return str(number)
    return "?"


def _leaves(tree: Mapping[Any, Any]) -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= _leaves(value) if isinstance(value, Mapping) else {str(name): value}
    return leaves


@contextmanager
def _one_attempt() -> Iterator[None]:
    """No repeats around loading and scoring: a wrong file does not get right by waiting.

    lmms-eval tries five times, seconds apart. Whoever asks a judge repeats by itself.
    """
    policies = [ConfigurableTask.download.retry, ConfigurableTask.process_results.retry]
    before = [policy.stop for policy in policies]
    for policy in policies:
        policy.stop = stop_after_attempt(1)
    try:
        yield
    finally:
        for policy, stop in zip(policies, before, strict=True):
            policy.stop = stop


def _cause(error: Any, bench: Bench) -> Exception:
    """The one line behind a failed attempt, or behind having nothing to ask."""
    cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
    if isinstance(cause, HarnessError):
        return cause
    if _none_found(cause):
        return CellError(f"{bench.task}: the data hold no documents to ask")
    return CellError(f"{bench.task}: {one_line(cause or error, 240)}")


def _none_found(error: BaseException | None) -> bool:
    while error is not None:
        if any(words in str(error) for words in NO_DOCUMENTS):
            return True
        error = error.__cause__
    return False
