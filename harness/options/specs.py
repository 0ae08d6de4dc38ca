"""Names of methods as a user wrote them, checked before anything heavy is imported. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.common.errors import UsageError
from harness.common.nearest import unknown


def check_known_methods(specs: Sequence[str], flag: str) -> None:
    """Refuse unknown method names before anything heavy is imported."""
    import methods

    for spec in specs:
        name = spec.partition(":")[0].strip()
        if name.endswith(".py"):  # a file of the user's own, read when it is parsed
            continue
        if name not in methods.names():
            refuse_other_file(name, flag)
            raise UsageError(f"{flag}: " + unknown("method", name, methods.names()))


def refuse_other_file(name: str, flag: str) -> None:
    """Raise UsageError for a path that is there and is no Python file."""
    try:
        there = bool(name) and Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a home of nobody
        return
    if there:
        what = "a folder" if Path(name).expanduser().is_dir() else "no Python file"
        raise UsageError(f"{flag}: '{name}' is {what}: the name of a method or FILE.py expected")
