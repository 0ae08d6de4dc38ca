"""The benches: our short names, the lmms-eval task behind each, and the data it runs on.

Torch-free, and lmms-eval is not imported. Any other lmms-eval task name passes through as it
stands; whether it exists is read from lmms-eval's task files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.bench.catalog import BENCHES, Spec
from harness.bench.sources import Source
from harness.bench.tasks_index import (
    TaskFile,
    index,
    lacking,
    read_task,
    task_digest,
    tasks_of,
    upstream_folder,
)
from harness.bench.wants import refuse_mixed, refuse_unanswerable
from harness.common.errors import UsageError
from harness.common.nearest import nearest
from harness.common.ownfiles import is_own
from harness.common.roots import DATA
from minidata import rows

MINI = DATA / "assets" / "mini"
OCR = "ocr"  # the switch in a task's settings, see `harness.bench.ocr`


@dataclass(frozen=True)
class Bench:
    """A bench on concrete data.

    ``name`` as it was asked for, ``task`` the lmms-eval name, ``asked`` mini or hub, ``metric``
    the headline metric ("" = the first of the task), ``root`` a folder of local copies of hub
    datasets (see :mod:`harness.bench.hubdata`), ``parts`` the tasks of a group or tag, ``own`` the
    task files of the user's own.
    """

    name: str
    task: str
    asked: str
    metric: str
    file: TaskFile
    summary: str = ""
    root: Path | None = None
    pairs: bool = False
    judged: bool = False
    configs: tuple[str, ...] = ()
    parts: tuple[TaskFile, ...] = ()
    own: tuple[TaskFile, ...] = ()
    ocr: bool = False  # its questions name the words that an OCR system read in the image

    @cached_property
    def takes_ocr(self) -> bool:
        """Whether a task of it can name reference OCR tokens, as lmms-eval's TextVQA can."""
        return any(_has_ocr(read_task(file.path)) for file in self.tasks)

    def with_ocr(self) -> Bench:
        """This bench with OCR tokens in its questions; itself where its tasks have none."""
        return replace(self, ocr=True) if self.takes_ocr else self

    @property
    def mini(self) -> bool:
        return self.asked == "mini"

    @property
    def tasks(self) -> tuple[TaskFile, ...]:
        """The files of all tasks that are run."""
        return self.parts or (self.file,)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """What each of the tasks reads."""
        return tuple(
            Source.of_task(read_task(file.path), file.path.parent, self.root) for file in self.tasks
        )

    @property
    def data(self) -> str:
        """What is read: ``mini``, ``hub``, ``local`` (files of the user's own), ``hub+local``."""
        if self.mini:
            return "mini"
        return "+".join(sorted({source.kind for source in self.sources}))

    @property
    def data_source(self) -> str:
        """The data by name and version: dataset and commit, or file and hash."""
        return ", ".join(dict.fromkeys(str(source) for source in self.sources))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report must say of the data."""
        return ()

    @property
    def names(self) -> Mapping[str, str]:
        """doc_id -> how tables call the document; those that are not here keep theirs."""
        return {}

    @property
    def clusters(self) -> Mapping[str, str]:
        """Document, as tables call it, -> what it is clustered by, where that is not its image."""
        return {}

    def dataset(self) -> Any:
        """The documents, where they are in memory already; None where lmms-eval loads them."""
        return None

    @cached_property
    def task_version(self) -> str:
        """Version of prompt and scoring: the file's own number and a hash over task and code."""
        files = dict.fromkeys((self.file, *self.tasks))
        digests = [task_digest(file.path) for file in files]
        digest = digests[0] if len(digests) == 1 else _digest("\n".join(digests))
        meta = read_task(self.file.path).get("metadata")
        entries = meta if isinstance(meta, list) else [meta]
        numbers = [str(m["version"]) for m in entries if isinstance(m, dict) and "version" in m]
        more = "+ocr" if self.ocr else ""
        return (f"{numbers[0]}-{digest[:12]}" if numbers else digest[:12]) + more

    def fingerprint(self, limit: int | None = None) -> str:
        """What the documents are: a hash over dataset, configuration and version of every task.

        Of mini data over the first `limit` documents themselves: they stay what they are where
        the file grows behind them.
        """
        if self.mini:
            return rows.digest(rows.read(_mini_data(self.file.path)), limit)
        return _digest("\n".join(f"{s.found} {s.config} {s.version}" for s in self.sources))

    @cached_property
    def documents(self) -> int | None:
        """How many documents there are at most, where that can be told without loading them."""
        if self.mini:
            from pyarrow.parquet import read_metadata

            return int(read_metadata(_mini_data(self.file.path)[0]).num_rows)
        config = read_task(self.tasks[0].path)
        split = config.get("test_split") or config.get("validation_split")
        return self.sources[0].documents(str(split)) if len(self.tasks) == 1 and split else None

    def require(self, limit: int | None = None) -> None:
        """Check what can be checked before running.

        Raises UsageError, one line: dataset not here and not reachable, a limit that cuts a pair,
        a Python module that the scoring needs and that is not installed.
        """
        if self.pairs and limit is not None and limit % 2:
            raise UsageError(f"--limit: {self.name} scores documents in pairs, so N must be even")
        if self.mini:
            if not all(path.is_file() for path in _mini_data(self.file.path)):
                raise UsageError(f"--bench: the mini data of {self.name} is missing: run make data")
            return
        for source in self.sources:
            source.require(self.configs, self.name)
        absent = dict.fromkeys(module for file in self.tasks for module in lacking(file.path))
        if absent:
            raise UsageError(
                f"--bench: {self.name} is scored by code that imports {', '.join(absent)}, which "
                "is not installed: pip install it beside lmms-eval"
            )


def _has_ocr(task: Mapping[str, Any]) -> bool:
    """Whether a task's settings for models have the switch for OCR tokens."""
    kwargs = task.get("lmms_eval_specific_kwargs")
    if not isinstance(kwargs, Mapping):
        return False
    return OCR in kwargs or any(OCR in one for one in kwargs.values() if isinstance(one, Mapping))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _mini_data(task_file: Path) -> list[Path]:
    """The file of the rows, then that of their pictures where they lie apart."""
    (files,) = read_task(task_file)["dataset_kwargs"]["data_files"].values()
    return [task_file.parent / name for name in ([files] if isinstance(files, str) else files)]


def resolve_bench(
    name: str, data: str = "auto", mini_model: bool = False, allow: Sequence[str] = ()
) -> Bench:
    """The bench behind a name from the table, an lmms-eval task name as it stands, or a path.

    ``data``: ``mini``; ``hub``; a folder of local copies of hub datasets; ``auto`` takes mini for
    the shipped (mini) model and for a bench that is drawn, the real data otherwise. ``allow``:
    ``bad-rows`` leaves those of own data out.
    Raises UsageError: unknown name (with the nearest), no mini version, a task that cannot be
    answered here (`harness.bench.wants`).
    """
    root = None
    if data not in ("auto", "mini", "hub"):
        root = Path(data).expanduser()
        if not root.is_dir():
            raise UsageError(f"--data: '{data}' is not auto, mini, hub or a folder")
        data = "hub"  # by name; what is read is `Bench.data`
    if is_own(name):
        from harness.bench.own import resolve_own

        return resolve_own(name, root, allow)
    spec = BENCHES.get(name)
    mini_tasks = index(MINI / "tasks")
    if spec is None and name in mini_tasks and data != "hub":
        return _mini_bench(name.removesuffix("_mini"), mini_tasks)
    if data == "auto":
        data = "mini" if spec is not None and (mini_model or spec.drawn) else "hub"
    if data == "mini":
        if spec is None or not spec.mini:
            _known(name)
            have = ", ".join(bench for bench, spec in BENCHES.items() if spec.mini)
            raise UsageError(
                f"--bench: '{name}' has no mini version (there is one of {have}); "
                "--data hub runs the real dataset"
            )
        return _mini_bench(name, mini_tasks)
    return _hub_bench(name, spec, root)


def _mini_bench(name: str, mini_tasks: dict[str, TaskFile]) -> Bench:
    task = f"{name}_mini"
    if task not in mini_tasks:
        raise UsageError(f"--bench: the mini task of {name} is missing here: run make data")
    spec = BENCHES[name]
    return Bench(
        name=name,
        task=task,
        asked="mini",
        metric=spec.metric,
        file=mini_tasks[task],
        summary=spec.summary,
        pairs=spec.pairs,
    )


def _hub_bench(name: str, spec: Spec | None, root: Path | None) -> Bench:
    if spec is not None and spec.drawn:
        raise UsageError(
            f"--bench: '{name}' is drawn mini data and has no real dataset: --data mini runs it, "
            f"{name.removesuffix('_hd')} is the nearest real one"
        )
    file = _known(spec.task if spec else name)
    parts = tuple(tasks_of(file, index(upstream_folder())))
    for part in parts:
        refuse_unanswerable(part)
    refuse_mixed(name, parts)
    if spec is None:
        return Bench(name, name, "hub", "", file, root=root, parts=parts)
    return Bench(
        name=name,
        task=spec.task,
        asked="hub",
        metric=spec.metric,
        file=file,
        summary=spec.summary,
        root=root,
        pairs=spec.pairs,
        judged=spec.judged,
        configs=spec.configs,
        parts=parts if file.kind != "task" else (),
    )


def _known(name: str) -> TaskFile:
    """The task file of a name; UsageError with the nearest valid one, ours before upstream's."""
    tasks = index(upstream_folder())
    if name in BENCHES:
        name = BENCHES[name].task
    if name in tasks:
        return tasks[name]
    close = nearest(name, BENCHES) or nearest(name, tasks)
    hint = f"did you mean '{close}'?" if close else f"choose from {', '.join(BENCHES)}"
    if Path(name).is_dir():
        hint = f"the folder of that name is ./{name}"
    raise UsageError(f"--bench: unknown bench '{name}': {hint} (any lmms-eval task works too)")
