"""Which files a Python file is made of: itself and what it imports of this project, by name."""

from __future__ import annotations

import ast
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

    Imports inside functions count, those for type checkers only do not. A file from elsewhere may
    import its neighbours too. Where ``follow`` says no, a module is left out, with what it alone
    imports.
    """
    found: set[Path] = set()
    rest = list(files)
    while rest:
        file = rest.pop()
        if file in found:
            continue
        found.add(file)
        own = file.is_relative_to(ROOT)
        for name in _imported(file.read_bytes()):
            bases = [ROOT] if CHECKOUT or name[0] in OURS else []
            bases += [] if own or file.parent == ROOT else [file.parent]
            for place in (base.joinpath(*name) for base in bases):
                modules = (place.with_name(f"{place.name}.py"), place / "__init__.py")
                rest += [path for path in modules if path.is_file() and follow(path)]
    return sorted(found)


@cache  # by content: a file that has changed is read again
def _imported(source: bytes) -> frozenset[tuple[str, ...]]:
    """Names that may be modules: of ``from a import b`` both a and a.b."""
    names: set[str] = set()
    for node in _run(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(tuple(name.split(".")) for name in names)


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that may run: what stands below ``if TYPE_CHECKING`` never does."""
    yield node
    if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _run(child)
