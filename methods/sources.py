"""Which files a Python file is made of: itself and what it imports of this project, by name."""

from __future__ import annotations

import ast
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The packages here. Installed, they lie among all others, which are not followed.
OURS = ("harness", "methods", "minidata", "modsuite", "reports")
CHECKOUT = (ROOT / "run_suite.py").is_file() and (ROOT / "pyproject.toml").is_file()


def with_imports(
    files: Iterable[Path], follow: Callable[[Path], bool] = lambda path: True
) -> list[Path]:
    """The files and everything of this project that they import, directly or not, sorted.

    Imports inside functions count, those for type checkers only do not. A file from elsewhere
    counts with what it imports from its own folder, from its package and from wherever else its
    user keeps code (`_elsewhere`). Where ``follow`` says no, a module is left out, with what it
    alone imports.
    """
    found: set[Path] = set()
    rest = [(file, file.parent) for file in files]  # with the folder of the one it began with
    while rest:
        file, began = rest.pop()
        if file in found:
            continue
        found.add(file)
        for module in _modules(file, began, file.read_bytes(), tuple(sys.path)):
            if module.is_file() and follow(module):
                rest.append((module, began))
    return sorted(found)


@cache  # by content: a file that has changed is read again
def _modules(file: Path, began: Path, source: bytes, places: tuple[str, ...]) -> list[Path]:
    """Where the modules that a file imports may lie, and the packages that hold them."""
    return list(_places(file, began, source, places))


def _places(file: Path, began: Path, source: bytes, places: tuple[str, ...]) -> Iterator[Path]:
    for level, name in _imported(source):
        bases = [ROOT] if CHECKOUT or (name[:1] and name[0] in OURS) else []
        if level:
            bases = [[file, *file.parents][level]] if level <= len(file.parents) else []
        elif not _ours(file):
            bases += [began, file.parent, *_elsewhere(places)]
        for base in bases:
            place = base.joinpath(*name)
            if name:
                yield place.with_name(f"{place.name}.py")
            yield place / "__init__.py"
            for part in range(0 if _ours(place) else len(name)):  # ours only pass names on
                yield base.joinpath(*name[:part], "__init__.py")


def _ours(path: Path) -> bool:
    """Whether a file is one of this project, and not only below its folder."""
    if not path.is_relative_to(ROOT):
        return False
    parts = path.relative_to(ROOT).parts
    return not parts or parts[0] in OURS or path == ROOT / "run_suite.py"


@cache
def _elsewhere(places: tuple[str, ...]) -> tuple[Path, ...]:
    """The folders that modules come from, but those of Python, of installed packages and ours."""
    known = [Path(path).resolve() for path in sysconfig.get_paths().values()]
    known += [
        Path(path).resolve() for path in (*site.getsitepackages(), site.getusersitepackages())
    ]
    folders = dict.fromkeys(Path(place).resolve() for place in places)
    return tuple(
        folder
        for folder in folders
        if folder.is_dir()
        and folder != ROOT
        and not any(folder == one or folder.is_relative_to(one) for one in known)
        and not {"site-packages", "dist-packages"} & set(folder.parts)
    )


def _imported(source: bytes) -> frozenset[tuple[int, tuple[str, ...]]]:
    """Dots before it, and name, of what may be modules: of ``from a import b`` both a and a.b."""
    names: set[tuple[int, tuple[str, ...]]] = set()
    for node in _run(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {(0, tuple(alias.name.split("."))) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            stem = tuple(node.module.split(".")) if node.module else ()
            names |= {(node.level, stem), *((node.level, (*stem, a.name)) for a in node.names)}
    return frozenset(names)


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that may run: what stands below ``if TYPE_CHECKING`` never does."""
    yield node
    if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _run(child)
