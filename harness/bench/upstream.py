"""Running lmms-eval: one bench through ``simple_evaluate``, with nothing of it left behind.

Import it after :func:`harness.model.torchvision_ops.declare_missing_ops`; it loads lmms-eval.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from lmms_eval import evaluator
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.tasks import TaskManager
from tenacity import RetryError, stop_after_attempt

from harness.bench.benches import Bench
from harness.bench.hubdata import dataset_sources
from harness.errors import CellError, HarnessError, one_line


def run_lmms_eval(
    lm: Any, bench: Bench, limit: int | None, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """lmms-eval's result dict and its task objects by name.

    Raises CellError with the cause when documents cannot be loaded or scored.
    """
    # Indexing all of lmms-eval's tasks takes seconds; a single task needs its own folder only.
    alone = bench.file.kind == "task"
    manager = TaskManager(
        include_path=str(bench.file.path.parent) if alone else None, include_defaults=not alone
    )
    with tempfile.TemporaryDirectory() as scratch, dataset_sources(bench.root), _one_attempt(bench):
        # Tasks write submission files below output_path; nobody here submits them.
        args = SimpleNamespace(output_path=scratch, process_with_media=False)
        tasks = _TaskTap(manager)
        try:
            results = evaluator.simple_evaluate(
                model=lm,
                tasks=[bench.task],
                task_manager=tasks,
                limit=limit,
                batch_size=lm.batch_size,
                use_cache=None,
                bootstrap_iters=0,
                log_samples=True,
                cli_args=args,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
                process_docs_parallel=1,
            )
        except RetryError as error:
            raise _cause(error, bench) from None
    return results, tasks.loaded


class _TaskTap:
    """Passes for a TaskManager and keeps the task objects it hands out."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.loaded: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def load_task_or_group(self, *args: Any, **kwargs: Any) -> Any:
        found = self._manager.load_task_or_group(*args, **kwargs)
        self.loaded.update(_leaves(found))
        return found


def _leaves(tree: Mapping[Any, Any]) -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= _leaves(value) if isinstance(value, Mapping) else {str(name): value}
    return leaves


@contextmanager
def _one_attempt(bench: Bench) -> Iterator[None]:
    """No repeats around loading and scoring: a wrong file does not get right by waiting.

    lmms-eval tries five times, seconds apart. Judges behind a network keep their repeats.
    """
    if bench.judge:
        yield
        return
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
    cause = error.last_attempt.exception()
    if isinstance(cause, HarnessError):
        return cause
    return CellError(f"{bench.task}: {one_line(cause or error, 240)}")
