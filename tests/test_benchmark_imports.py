"""The scripts of `benchmarks/` are run by hand; what they import from the project must be there."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ROOMS = ("harness", "methods", "minidata", "modsuite", "reports", "tests")


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(script: Path) -> None:
    lacking = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in ROOMS:
            continue
        module = importlib.import_module(node.module or "")
        for name in (alias.name for alias in node.names if not hasattr(module, alias.name)):
            try:
                importlib.import_module(f"{node.module}.{name}")
            except ImportError:
                lacking.append(f"{node.module}.{name}")
    assert not lacking
