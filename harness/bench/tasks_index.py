"""Which lmms-eval tasks there are and what their files say, found without importing lmms-eval.

Importing lmms-eval costs seconds and loads torch; its task files are plain YAML, so names and
settings are read from them directly. ``!function`` values come back as their text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from harness.bench.task_code import PACKAGE, code_of, missing_modules
from harness.common.errors import UsageError

# Top-level keys that give a task file its name; some files are JSON-like and quote their keys.
NAMED = re.compile(r"^[\"']?(task|group|tag)[\"']?[ ]*:[ \t]*(.*)$", re.MULTILINE)
TAGS = ("tag", "group")  # where a task says what it belongs to; the second is the older way
# Where the pictures of the mini data lie is no part of what is asked: whether in the rows or apart,
# a task is the same, and its documents are known by their content. Only as `minidata.tasks` writes
# it, file and function together: either alone in another task is a difference.
APART = re.compile(
    rb"\[(\S+), \S+/pictures\.parquet\](\ntest_split: \w+\n)"
    rb"process_docs: !function minidata\.rows\.joined\n"
)
ITEM = re.compile(r"[ \t]*-[ \t]+[\"']?([^\s\"'#,{}:]+)[\"']?[ \t]*$")


@dataclass(frozen=True)
class TaskFile:
    """A name that lmms-eval would accept: ``kind`` is ``task``, ``group`` or ``tag``."""

    name: str
    kind: str
    path: Path


class Function(str):
    """The name ``a.b`` of a ``!function a.b``; ``folder`` is where the file that names it lies."""

    folder: Path

    @property
    def module(self) -> Path:
        """The source file that holds it: beside the task, else by its full name."""
        name = self.rpartition(".")[0]
        beside = self.folder / f"{name}.py"
        if beside.is_file() or not name.startswith(f"{PACKAGE}."):
            return beside
        return upstream_folder().parent.joinpath(*name.split(".")[1:]).with_suffix(".py")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that keeps ``!function a.b`` as a :class:`Function`."""

    folder = Path()

    def function(self, node: Any) -> Function:
        found = Function(self.construct_scalar(node))
        found.folder = self.folder
        return found


_Loader.add_constructor("!function", _Loader.function)


@cache
def upstream_folder() -> Path:
    """The task folder of the installed lmms-eval.

    Raises UsageError when lmms-eval is not installed.
    """
    spec = importlib.util.find_spec("lmms_eval")  # a top-level package: nothing is imported
    if spec is None or spec.origin is None:
        raise UsageError("lmms-eval is not installed: run make install")
    return Path(spec.origin).parent / "tasks"


@cache
def index(folder: Path) -> dict[str, TaskFile]:
    """Every task, group and tag named by the YAML files below a folder."""
    found: dict[str, TaskFile] = {}
    tags: dict[str, TaskFile] = {}
    for path in _yaml_files(folder):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        values = {m.group(1): (m.group(2), m.end()) for m in NAMED.finditer(text)}
        name = _scalar(values["task"][0]) if "task" in values else ""
        includes = re.search(r"^include:", text, re.MULTILINE) is not None
        if not values and includes:
            name = _included_name(path)
        if name:
            found[name] = TaskFile(name, "task", path)
        for key in ("group", "tag"):
            for label in _labels(text, *values[key]) if key in values else ():
                kind = "group" if key == "group" and not name else "tag"
                (found if kind == "group" else tags)[label] = TaskFile(label, kind, path)
        if includes and name and not set(TAGS) & set(values):
            for label in _included_tags(path, text):
                tags.setdefault(label, TaskFile(label, "tag", path))
    return {**tags, **found}


def tasks_of(file: TaskFile, known: dict[str, TaskFile]) -> list[TaskFile]:
    """The tasks behind a name: itself, or all that a group or a tag gathers, each once.

    Raises UsageError for a group that names a task which does not exist.
    """
    found: dict[str, TaskFile] = {}
    seen: set[str] = set()
    todo: list[Any] = [file.name]
    while todo:
        name = todo.pop(0)
        if isinstance(name, dict):  # a group written out inside another, or a task with changes
            below = name.get("task")
            todo = [*(below if isinstance(below, list) else [below]), *todo]
            continue
        if name in seen:
            continue
        seen.add(str(name))
        if name not in known:
            raise UsageError(f"--bench: '{file.name}' names a task '{name}' that does not exist")
        one = known[str(name)]
        if one.kind == "task":
            found[one.name] = one
        elif one.kind == "group":
            below = read_task(one.path).get("task") or []
            todo = [*(below if isinstance(below, list) else [below]), *todo]
        else:
            todo = [*_tagged(tuple(known.values())).get(one.name, []), *todo]
    return list(found.values())


@cache
def _tagged(files: tuple[TaskFile, ...]) -> dict[str, list[str]]:
    """Tag -> the tasks that carry it; reads every task file, so only for those who ask a tag."""
    found: dict[str, list[str]] = {}
    for file in files:
        own = read_task(file.path) if file.kind == "task" else {}
        for value in map(own.get, TAGS):
            for tag in [value] if isinstance(value, str) else value or []:
                found.setdefault(str(tag), []).append(file.name)
    return found


def _yaml_files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - {"__pycache__", ".ipynb_checkpoints"})
        yield from (Path(root, name) for name in sorted(files) if name.endswith(".yaml"))


def _included_name(path: Path) -> str:
    """The task name of a file that has it from an include; a few files are written so."""
    try:
        name = read_task(path).get("task", "")
    except UsageError:
        return ""
    return name if isinstance(name, str) else ""


def _included_tags(path: Path, text: str) -> list[str]:
    """Tags that a task has from a file that it includes by one name."""
    named = re.search(r"^include:[ \t]*([^\s\[]+)[ \t]*$", text, re.MULTILINE)
    return list(_tags(path.parent / named.group(1).strip("\"'"))) if named else []


@cache
def _tags(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    found = (m for m in NAMED.finditer(text) if m.group(1) == "tag")
    return tuple(label for m in found for label in _labels(text, m.group(2), m.end()))


def _scalar(text: str) -> str:
    return text.partition(" #")[0].strip().rstrip(",").strip("\"'")


def _labels(text: str, value: str, end: int) -> list[str]:
    """The names behind ``group:`` or ``tag:``: one on the line, or a list below it."""
    if single := _scalar(value):
        return [single]
    names = []
    for line in text[end:].lstrip("\n").splitlines():
        item = ITEM.match(line)
        if item is None:
            break
        names.append(item.group(1))
    return names


def read_task(path: Path) -> dict[str, Any]:
    """A task file with its includes merged, the file's own values winning.

    Raises UsageError for a file that is not YAML.
    """
    config, _ = _merged(path)
    return config


def task_digest(path: Path) -> str:
    """sha256 over a task file, its includes, and all code behind them.

    That is the prompt, the scoring and the aggregation with the modules they import: the version
    of the task that counts.
    """
    digest = hashlib.sha256()
    for file in sorted(_files(path), key=lambda p: (p.parent.name, p.name)):
        content = APART.sub(rb"\1\2", file.read_bytes())
        digest.update(file.name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()


def _files(path: Path) -> set[Path]:
    config, files = _merged(path)
    functions = [function.module for function in _functions(config)]
    return {*files, *code_of(files, functions, upstream_folder().parent)}


def lacking(path: Path) -> list[str]:
    """Python modules that a task's code imports and that are not installed."""
    config, _ = _merged(path)
    return missing_modules((f.module for f in _functions(config)), upstream_folder().parent)


def _functions(value: Any) -> Iterator[Function]:
    """All functions that a task file names, wherever in it they stand."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _functions(item)
    elif isinstance(value, list):
        for item in value:
            yield from _functions(item)
    elif isinstance(value, Function):
        yield value


@lru_cache(maxsize=4096)  # a tag or a group of hundreds asks for the same templates again and again
def _parsed(text: str, folder: Path) -> dict[str, Any]:
    loader = _Loader(text)
    loader.folder = folder
    return loader.get_single_data() or {}


def _merged(path: Path) -> tuple[dict[str, Any], list[Path]]:
    try:
        config = dict(_parsed(path.read_text(encoding="utf-8-sig"), path.parent))
    except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise UsageError(f"{path}: not readable as YAML") from None
    includes = config.pop("include", [])
    merged: dict[str, Any] = {}
    files = [path]
    for name in reversed([includes] if isinstance(includes, str) else includes):
        included = Path(name) if os.path.isabs(name) else path.parent / name
        if not included.is_file():
            raise UsageError(
                f"{path}: includes {name}, which is not there (releases of lmms-eval before 0.7.3 "
                "were packed without such files: install a newer one)"
            )
        below, more = _merged(included)
        merged |= below
        files += more
    return {**merged, **config}, files
