"""What a task shows beside its text, read from its code: images, or videos and sounds. Torch-free.

Files of a task say it only sometimes (``dataset_kwargs: video``, a name); the function that loads a
document's media always does. Nothing is imported or run: its source is read, with what it calls in
its own module and what that takes from other tasks.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from harness.bench.tasks_index import TaskFile, read_task, upstream_folder
from harness.common.errors import UsageError

FETCHED = ("video", "From_YouTube")  # dataset_kwargs that make lmms-eval fetch and unpack videos
VIDEO = re.compile(r"video|decord|\.(mp4|avi|mkv|webm|mov)\b", re.IGNORECASE)
SOUND = re.compile(r"audio|\.(wav|mp3|flac)\b", re.IGNORECASE)
AS_IMAGE = "convert"  # code that makes RGB of what it loads shows images, whatever else it can
TASKS = "lmms_eval.tasks."


def refuse_other_media(file: TaskFile) -> None:
    """Raise UsageError, one line, for a task about videos or sounds, before anything is fetched."""
    task = read_task(file.path)
    kwargs = task.get("dataset_kwargs")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    loader = task.get("doc_to_visual")
    words = " ".join(map(str, (file.name, task.get("task"), loader)))
    found = "videos" if any(kwargs.get(name) for name in FETCHED) or VIDEO.search(words) else ""
    found = found or ("sounds" if SOUND.search(str(loader)) else "") or _shown(file.path, loader)
    if found:
        frames = "; a list of frames works as images do" if found == "videos" else ""
        raise UsageError(
            f"--bench: task '{file.name}' is about {found}; "
            f"only tasks about images can be run{frames}"
        )


def _shown(path: Path, loader: object) -> str:
    """What the code behind ``utils.function`` loads, where that is no image; else nothing."""
    module, _, function = str(loader).rpartition(".")
    if not module:
        return ""
    words = list(_words(_file(module, path.parent), function))
    if AS_IMAGE in words:
        return ""
    kinds = {"videos": VIDEO, "sounds": SOUND}
    return next((kind for kind, form in kinds.items() if any(map(form.search, words))), "")


def _file(module: str, folder: Path) -> Path:
    """The file of a module by its full name, or by its name beside the task."""
    if module.startswith(TASKS):
        return upstream_folder().joinpath(*module.split(".")[2:]).with_suffix(".py")
    return folder / f"{module.rpartition('.')[2]}.py"


def _words(path: Path, function: str) -> Iterator[str]:
    """Names and texts in the code of a function and of all it reaches; what it says of itself is
    left out."""
    todo, seen = [(path, function)], set()
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        own, name = place
        written, taken, all_of = _module(own)
        if name not in written:
            todo += [taken[name]] if name in taken else [(other, name) for other in all_of]
            continue
        for node in _code(written[name]):
            if isinstance(node, ast.Name):
                yield node.id
                todo.append((own, node.id))
            elif isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """A definition and all below it, docstrings left out."""
    found = list(ast.walk(node))
    texts = {id(one.value) for one in found if isinstance(one, ast.Expr)}
    yield from (one for one in found if not (isinstance(one, ast.Constant) and id(one) in texts))


@cache
def _module(
    path: Path,
) -> tuple[dict[str, ast.AST], dict[str, tuple[Path, str]], tuple[Path, ...]]:
    """What a module defines, what it takes from other tasks by name, and files it takes all of."""
    written: dict[str, ast.AST] = {}
    taken: dict[str, tuple[Path, str]] = {}
    all_of: list[Path] = []
    try:
        with warnings.catch_warnings(action="ignore"):  # of its escape sequences
            parts = ast.parse(path.read_text(encoding="utf-8-sig", errors="replace")).body
    except (OSError, SyntaxError, ValueError):
        return written, taken, ()
    for part in parts:
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            written[part.name] = part
        elif isinstance(part, ast.Assign):
            written |= {to.id: part for to in part.targets if isinstance(to, ast.Name)}
        elif isinstance(part, ast.ImportFrom) and part.module:
            names = [alias.name for alias in part.names]
            if names == ["*"]:  # a folder below hands on its parent's
                all_of.append(path.parent.parent / f"{part.module}.py")
            elif part.module.startswith(TASKS):
                source = _file(part.module, path.parent)
                taken |= {alias.asname or alias.name: (source, alias.name) for alias in part.names}
    return written, taken, tuple(all_of)
