"""The code that a task is made of, found by following its imports: what asks and what scores.

Nothing is imported to find it: the sources are parsed. Torch-free.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

PACKAGE = "lmms_eval"
# What carries every task out and holds the built-in metrics (anls, exact match, mean).
CORE = ("api/metrics.py", "api/task.py", "evaluator.py", "evaluator_utils.py", "filters/*.py")
# Imports of modules in these folders are followed further; other parts of lmms-eval count as they
# stand: tasks take a helper from them, and its version is in every key anyway.
FOLLOWED = ("tasks", "filters", "llm_judge", "verifiers")


def code_of(task_files: Iterable[Path], functions: Iterable[Path], package: Path) -> list[Path]:
    """The files behind a task besides its YAML, sorted.

    The Python files beside each of ``task_files``, those of its ``functions``, all that these
    import of lmms-eval (whose folder is ``package``), what carries tasks out, and files that the
    code names and that lie beside it: upstream reads prompts from other tasks' YAML.
    """
    rest = [code for file in task_files for code in file.parent.glob("*.py")]
    rest += [*functions, *(path for pattern in CORE for path in package.glob(pattern))]
    found: set[Path] = set()
    while rest:
        file = rest.pop()
        if file in found or not file.is_file():
            continue
        found.add(file)
        if file.is_relative_to(package) and file.relative_to(package).parts[0] not in FOLLOWED:
            continue
        about = _about(file.read_bytes())
        rest += _modules(about.imports, file, package)
        found |= {file.parent / name for name in about.texts & _names(file.parent)}
    return sorted(found)


def missing_modules(functions: Iterable[Path], package: Path) -> list[str]:
    """Modules that the code behind a task's functions cannot be loaded without and that are not
    installed, sorted.

    Only what a module imports in any case counts: not within a function, a ``try`` or an ``if``.
    Code that changes where modules are looked for is not judged.
    """
    rest, seen, lacking = list(functions), set[Path](), set[str]()
    while rest:
        file = rest.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        about = _about(file.read_bytes())
        if about.moves:
            continue
        if not file.is_relative_to(package) or file.relative_to(package).parts[0] in FOLLOWED:
            rest += _modules(about.always, file, package)
        lacking |= {name.split(".")[0] for level, name in about.always if name and not level}
    lacking -= {PACKAGE, *sys.stdlib_module_names}
    return sorted(name for name in lacking if importlib.util.find_spec(name) is None)


class _About:
    """What is read off one source: ``imports`` as (dots, name), those that ``always`` run, all
    ``texts`` in it, and whether it ``moves`` the search for modules."""

    def __init__(self, source: bytes) -> None:
        try:
            with warnings.catch_warnings():  # of escapes in somebody else's code
                warnings.simplefilter("ignore")
                tree = ast.parse(source)
        except (SyntaxError, ValueError):  # a script of another kind; nothing can import it
            tree = ast.Module([], [])
        nodes = list(ast.walk(tree))
        self.imports = frozenset(name for node in nodes for name in _imported(node))
        self.always = frozenset(name for node in tree.body for name in _imported(node))
        constants = (node.value for node in nodes if isinstance(node, ast.Constant))
        self.texts = frozenset(value for value in constants if isinstance(value, str))
        self.moves = b"sys.path" in source


@lru_cache(maxsize=1024)  # by content: a file that has changed is read again
def _about(source: bytes) -> _About:
    return _About(source)


def _imported(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Dots before it, and name, of what may be modules: of ``from a import b`` both a and a.b."""
    if isinstance(node, ast.Import):
        yield from ((0, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        stem = node.module or ""
        yield node.level, stem
        yield from ((node.level, f"{stem}.{a.name}".strip(".")) for a in node.names)


def _modules(names: Iterable[tuple[int, str]], file: Path, package: Path) -> Iterator[Path]:
    """The files of lmms-eval, or beside a task of one's own, that may hold these modules."""
    for level, name in names:
        parts = name.split(".") if name else []
        if level:
            base = file.parents[level - 1] if level <= len(file.parents) else file.parent
        elif parts[:1] == [PACKAGE]:
            base, parts = package, parts[1:]
        else:
            continue
        place = base.joinpath(*parts)
        if parts:
            yield place.with_name(f"{place.name}.py")
        if place != package / "tasks" and place != package:  # the index of all tasks
            yield place / "__init__.py"


@lru_cache(maxsize=1024)
def _listed(folder: Path, changed: int) -> frozenset[str]:
    return frozenset(
        p.name for p in folder.iterdir() if p.is_file() and p.suffix not in (".py", ".pyc")
    )


def _names(folder: Path) -> frozenset[str]:
    """Names of the files in a folder that are no Python."""
    return _listed(folder, folder.stat().st_mtime_ns)
