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
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.common.errors import StoreError

TEMPORARY = ".tmp-"
UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # no UTF-8 has lone surrogates, no CSV a NUL

csv.field_size_limit(sys.maxsize)  # an answer may well be longer than the default, 131,072


def cell_text(value: Any) -> str:
    """A value as CSV text: None and NaN are empty (never 0), floats keep every digit.

    A character that no CSV can hold becomes U+FFFD, the mark of a lost one.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or hasattr(value, "dtype"):
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, float):
            return "" if math.isnan(number) else repr(number)
        return cell_text(number)
    return UNWRITABLE.sub("\ufffd", str(value))


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> bytes:
    """Rows as UTF-8 CSV; a row may leave columns out, but not bring unknown ones."""
    lines: list[Sequence[Any]] = [columns] if header else []
    for row in rows:
        unknown = set(row) - set(columns)
        if unknown:
            raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
        lines.append([cell_text(row.get(column)) for column in columns])
    return csv_text(lines).encode()


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV with the line end ``\\n``, every field quoted that needs it.

    The csv module quotes a bare carriage return only where it is part of the line end.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    lines = []
    for row in rows:
        writer.writerow(row)
        lines.append(buffer.getvalue()[:-2])
        buffer.seek(0)
        buffer.truncate()
    return "".join(f"{line}\n" for line in lines)


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
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode("utf-8", errors="backslashreplace"))  # a JSON escape as well


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


@dataclass
class Scan:
    """What a CSV holds; ``wrong`` says of every record that cannot be used which row it is and why.

    ``lines`` is the number of lines that make whole records: what follows was cut off.
    """

    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lines: int = 0


def scan(lines: Iterable[str]) -> Scan:
    """The records in ``lines``, which have their line ends; row 1 is the header."""
    found = Scan()
    reader = csv.reader(lines, strict=True)
    number = 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return found
        except csv.Error as error:
            number += 1
            if "unexpected end of data" in str(error):  # inside quotes: cut off
                return found
            found.wrong.append(f"row {number} is no CSV")
            continue
        found.lines = reader.line_num
        if not row:
            continue
        number += 1
        if number == 1:
            found.header = row
        elif len(row) == len(found.header):
            found.rows.append(row)
        else:
            found.wrong.append(f"row {number} has {len(row)} fields instead of {len(found.header)}")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Complete records of a CSV as text; [] when there is no file. A torn last row is left out.

    Raises StoreError when any other row has not the length of the header.
    """
    if not path.exists():
        return []
    found, _ = _scanned(path)
    return [dict(zip(found.header, row, strict=True)) for row in found.rows]


def repair(path: Path) -> bool:
    """Remove a torn last row; True when there was one. Raises StoreError like `read_rows`."""
    if not path.exists():
        return False
    _, whole = _scanned(path)
    if len(whole) == path.stat().st_size:
        return False
    if whole:
        write_atomic(path, whole)
    else:
        path.unlink()
    return True


def _scanned(path: Path) -> tuple[Scan, bytes]:
    """The records of a file, and the bytes that hold them."""
    try:
        lines = [line + b"\n" for line in path.read_bytes().split(b"\n")[:-1]]
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    found = scan(line.decode("utf-8", errors="replace") for line in lines)
    if found.wrong:
        raise StoreError(f"{path} is damaged: {found.wrong[0]}")
    return found, b"".join(lines[: found.lines])


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed writer left in `folder` and below."""
    for path in folder.rglob(f"*{TEMPORARY}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The one line for a disk that does not take a file."""
    return StoreError(f"cannot write {path}: {error.strerror or error}")
