"""An lmms-eval task or group file of the user's own, with the functions beside it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.bench.answerboxes import OWN_TASK
from harness.bench.benches import Bench
from harness.bench.tasks_index import TaskFile, index, read_task, tasks_of, upstream_folder
from harness.bench.wants import refuse_unanswerable
from harness.common.errors import UsageError


def task_bench(path: Path, root: Path | None) -> Bench:
    """The bench of a task file. ``root``: a folder of local copies of hub datasets.

    Raises UsageError, one line: no task, a group of tasks that there are not, something other
    than generated answers.
    """
    config = read_task(path) if path.stat().st_size else {}
    below = config.get("task") if isinstance(config, dict) else None
    if isinstance(below, list) and isinstance(config.get("group"), str):
        file = TaskFile(config["group"], "group", path)
        parts, own = _group(file, path)
    elif isinstance(below, str) and below:
        file = TaskFile(below, "task", path)
        parts, own = (file,), (file,)
    else:
        raise UsageError(f"--bench: {path.name} is no lmms-eval task: expected 'task: NAME', or "
                         "'group: NAME' with a list of tasks")  # fmt: skip
    if any(part.name == OWN_TASK for part in parts):
        raise UsageError(f"--bench: {path.name}: '{OWN_TASK}' is the name of the task behind "
                         "tables of own data: rename it")  # fmt: skip
    for part in parts:
        refuse_unanswerable(part)
    return Bench(
        name=path.name,
        task=file.name,
        asked="hub",
        metric="",
        file=file,
        summary="own task",
        root=root,
        parts=() if file.kind == "task" else parts,
        own=own,
    )


def _group(file: TaskFile, path: Path) -> tuple[tuple[TaskFile, ...], tuple[TaskFile, ...]]:
    """All tasks of a group, from lmms-eval and from its folder; and the latter with the group."""
    theirs, mine = index(upstream_folder()), index.__wrapped__(path.resolve().parent)
    parts = tuple(tasks_of(file, {**theirs, **mine, file.name: file}))
    own = tuple(one for one in parts if mine.get(one.name) == one)
    both = next((one.name for one in (file, *own) if one.name in theirs), None)
    if both:  # lmms-eval would take its own
        raise UsageError(f"--bench: {path.name}: '{both}' is the name of one of lmms-eval's own "
                         "tasks: rename it")  # fmt: skip
    return parts, (file, *own)


@contextmanager
def included(bench: Bench) -> Iterator[tuple[str | None, bool]]:
    """`include_path` and `include_defaults` of lmms-eval's task manager, for one bench.

    Own task files are included one by one from a folder that holds nothing else: lmms-eval reads
    every YAML file below the path it is given, and fails on what is no task.
    """
    if not bench.own:
        # Indexing all of lmms-eval's tasks takes seconds: only the folder that holds them is.
        folder = _folder(bench)
        yield str(folder) if folder else None, folder is None
        return
    with tempfile.TemporaryDirectory() as scratch:
        for number, file in enumerate(bench.own):
            text = json.dumps({"include": str(file.path.resolve()), file.kind: file.name})
            Path(scratch, f"{number}.yaml").write_text(text, encoding="utf-8")
        yield scratch, bench.file.kind != "task"


def _folder(bench: Bench) -> Path | None:
    """The folder that holds the files of all tasks; None where that is lmms-eval's whole index."""
    folders = {file.path.parent for file in (bench.file, *bench.tasks)}
    common = Path(os.path.commonpath(folders))
    return None if len(folders) > 1 and upstream_folder().is_relative_to(common) else common
