"""A run directory before it is opened: where it lies, whether and whose it is. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.common.errors import StoreError, UsageError, one_line
from harness.common.jsonfile import read_json
from harness.common.place import check_place
from harness.options.option import flag
from harness.store import columns, tables
from harness.store.csvfile import TEMPORARY, read_rows

RUN_JSON = "run.json"
LOCK = "run.lock"
SHARES, CLUSTER = "shares", "cluster"  # folders of --cluster: unfinished shares, its tasks' logs


def default_out() -> Path:
    """`runs/<timestamp>`, with a number when two runs start within a second."""
    base = Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def read_run_json(path: Path) -> dict[str, Any]:
    """`run.json` of a run directory; UsageError when it is missing, damaged or from the future."""
    file = path / RUN_JSON
    try:
        content = read_json(file)
    except FileNotFoundError:
        raise UsageError(f"{path}: not a run directory (no {RUN_JSON})") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read ({one_line(error, 120)})") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UsageError(f"{file}: not a run description (no schema_version)")
    if version != columns.SCHEMA_VERSION:
        raise UsageError(
            f"{file}: schema_version {version}, this program knows {columns.SCHEMA_VERSION}"
        )
    return content


def is_run(path: Path) -> bool:
    """Whether there is a run's description."""
    return (path / RUN_JSON).is_file()


def open_for_reading(target: str, asked: str = "--plots-only") -> Path:
    """An existing run directory, checked, for the flag `asked`."""
    path = Path(target)
    if not path.is_dir():
        raise UsageError(f"{asked}: there is no run directory '{target}'")
    read_run_json(path)
    return path


def check_out(path: Path, recorded: Mapping[str, Any]) -> bool:
    """Whether `path` is a run with exactly these settings (True: resume) or still free (False).

    Raises UsageError when it is a run with other settings (naming the first that differs), some
    other non-empty folder, or a place that cannot be written. Writes nothing.
    """
    try:
        check_place(path)
    except UsageError as error:
        raise UsageError(f"--out: {error}") from None
    if not path.exists():
        return False
    if not path.is_dir():
        raise UsageError(f"--out: '{path}' is a file")
    if not (path / RUN_JSON).exists():
        ours = (LOCK, SHARES, CLUSTER)
        others = [p.name for p in path.iterdir() if p.name not in ours and TEMPORARY not in p.name]
        if others:
            raise UsageError(f"--out: '{path}' holds other files and no run; choose another folder")
        return False
    if tables.is_packed(path):
        raise UsageError(
            f"--out: '{path}' is a packed run and has no room for new answers; choose another "
            "folder (--plots-only, --derive and --diff read it)"
        )
    try:
        read_rows(path / "cells.csv")
    except StoreError as error:
        raise UsageError(f"--out: {error}; restore it, or choose another --out") from None
    before = read_run_json(path).get("settings")
    before = before if isinstance(before, dict) else {}
    for name in [*recorded, *(name for name in before if name not in recorded)]:
        if before.get(name) != recorded.get(name):
            raise UsageError(
                f"--out: '{path}' was made with {shown(name, before.get(name))}, now it is "
                f"{shown(name, recorded.get(name))}: choose another --out, or the old settings"
            )
    return True


def shown(name: str, value: Any) -> str:
    """A recorded setting as it would be given."""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if isinstance(value, dict):
        value = " ".join(f"{k}={v}" for k, v in value.items()) or None
    return f"no {flag(name)}" if value in (None, "") else f"{flag(name)} {value}"


class RunLock(FileLock):
    """`FileLock` under a name of its own.

    lmms-eval makes `FileLock` itself re-entrant for the whole process, and a second `Store` on the
    same directory would be let in.
    """


def is_busy(path: Path) -> bool:
    """Whether another process is writing to a run directory now."""
    if not (path / LOCK).exists():
        return False
    try:
        with RunLock(path / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written: nobody writes there
        return False
