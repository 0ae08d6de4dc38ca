"""CSV and JSON files that survive a kill at any moment.

Torch-free. Whole files are written beside their target and renamed over it; rows are appended by
one write call, rolled back when the disk takes only part of it. A last line without its line end
was cut off by a crash: readers leave it out, `repair` removes it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import StoreError

TEMPORARY = ".tmp-"


def cell_text(value: Any) -> str:
    """A value as CSV text: None and NaN are empty (never 0), floats keep every digit."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or hasattr(value, "dtype"):
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, float):
            return "" if math.isnan(number) else repr(number)
        return cell_text(number)
    return str(value).replace("\0", "")


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> bytes:
    """Rows as UTF-8 CSV; a row may leave columns out, but not bring unknown ones."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if header:
        writer.writerow(columns)
    for row in rows:
        unknown = set(row) - set(columns)
        if unknown:
            raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
        writer.writerow([cell_text(row.get(column)) for column in columns])
    return buffer.getvalue().encode("utf-8", errors="replace")


def write_atomic(path: Path, content: bytes, durable: bool = True) -> None:
    """Replace `path` by `content` in one step; a crash leaves the old file. Raises StoreError.

    `durable` waits for the disk, so that even a power cut keeps what was promised; files that
    can be derived again do without.
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_csv(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    durable: bool = True,
) -> None:
    """A whole CSV, atomically."""
    write_atomic(path, to_csv(columns, rows), durable)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, atomically, keys in the given order."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def append_row(path: Path, columns: Sequence[str], row: Mapping[str, Any]) -> None:
    """One more record, and the header first in a new file. Raises StoreError, file unchanged."""
    if not path.exists():
        write_atomic(path, to_csv(columns, [row]))
        return
    line = to_csv(columns, [row], header=False)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    except OSError as error:
        raise cannot_write(path, error) from error
    size = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError("the disk took only part of a line")
        os.fsync(descriptor)
    except OSError as error:
        os.ftruncate(descriptor, size)
        raise cannot_write(path, error) from error
    finally:
        os.close(descriptor)


def has_header(path: Path, columns: Sequence[str]) -> bool:
    """Whether rows of these columns may be appended; another version's file has other ones."""
    if not path.exists():
        return True
    with path.open("rb") as file:
        return file.readline() == to_csv(columns, [])


def read_rows(path: Path) -> list[dict[str, str]]:
    """Complete records of a CSV as text; [] when there is no file. A torn last line is left out."""
    if not path.exists():
        return []
    text = _whole_lines(path.read_bytes()).decode("utf-8", errors="replace")
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    return [dict(zip(header, row, strict=True)) for row in reader if len(row) == len(header)]


def repair(path: Path) -> bool:
    """Remove a torn last line; True when there was one."""
    if not path.exists():
        return False
    content = path.read_bytes()
    whole = _whole_lines(content)
    if whole == content:
        return False
    if whole:
        write_atomic(path, whole)
    else:
        path.unlink()
    return True


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed writer left in `folder` and below."""
    for path in folder.rglob(f"*{TEMPORARY}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The one line for a disk that does not take a file."""
    return StoreError(f"cannot write {path}: {error.strerror or error}")


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]
