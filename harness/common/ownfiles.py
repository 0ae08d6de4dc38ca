"""Own data among the names of benches: told by its text alone, without a look at the disk.

A path has a suffix or a separator; no bench and no lmms-eval task has either.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

TABLES = (".json", ".jsonl", ".csv", ".parquet")  # rows of own data
TASKS = (".yaml", ".yml")  # an lmms-eval task or group of the user's own
OWN = "own"  # what `data` says of rows of own data


def is_own(name: str) -> bool:
    """Whether a bench is named by a path."""
    return "/" in name or "\\" in name or PurePath(name).suffix.lower() in (*TABLES, *TASKS)


def own_name(name: str) -> str:
    """A bench as tables call it: of a path the last part, of any other name the name."""
    return (PurePath(name).name or name) if is_own(name) else name


def own_asked(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """What run.json says of own data: its name in tables -> where it is. Nothing without any."""
    found = {own_name(name): str(Path(name).absolute()) for name in names if is_own(name)}
    return {"own_asked": found} if found else {}
