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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    return csv_text(csv_lines(columns, rows, header)).encode()


def csv_lines(
    columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True
) -> Iterator[Sequence[str]]:
    """The fields of every line of `to_csv`."""
    if header:
        yield columns
    known = set(columns)
    for row in rows:
        if not known.issuperset(row):
            unknown = sorted(set(row) - known)
            raise ValueError(f"no such column: {', '.join(unknown)}")
        yield [cell_text(row.get(column)) for column in columns]


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV with the line end ``\\n``, every field quoted that needs it."""
    return "".join(csv_pieces(rows))


def csv_pieces(rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """`csv_text`, line by line.

    The csv module quotes a bare carriage return only where it is part of the line end.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    for row in rows:
        writer.writerow(row)
        yield f"{buffer.getvalue()[:-2]}\n"
        buffer.seek(0)
        buffer.truncate()


def write_atomic(path: Path, content: bytes | Iterable[bytes], durable: bool = True) -> None:
    """Replace `path` by `content` in one step; a crash leaves the old file. Raises StoreError.

    `content` may come in pieces, so that it need not be in memory as a whole; what they raise
    leaves the old file too. `durable` waits for the disk, so that even a power cut keeps what was
    promised; files that can be derived again do without.
    """
    with _beside(path, content, durable) as replace:
        replace()


@contextlib.contextmanager
def written(path: Path, lines: Iterable[Sequence[str]]) -> Iterator[Callable[[], None]]:
    """A CSV written whole beside `path`, to take its place when what is given is called.

    For what is known only when all lines are written. Raises StoreError.
    """
    with _beside(path, _encoded(lines), True) as replace:
        yield replace


@contextlib.contextmanager
def _beside(
    path: Path, content: bytes | Iterable[bytes], durable: bool
) -> Iterator[Callable[[], None]]:
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")

    def replace() -> None:
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise cannot_write(path, error) from error

    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(path, error) from error
        yield replace
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_csv(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    durable: bool = True,
) -> None:
    """A whole CSV, atomically, line by line."""
    write_lines(path, csv_lines(columns, rows), durable)


def write_lines(path: Path, lines: Iterable[Sequence[str]], durable: bool = True) -> None:
    """A whole CSV, atomically, of lines of fields; the first is the header."""
    write_atomic(path, _encoded(lines), durable)


def _encoded(lines: Iterable[Sequence[str]]) -> Iterator[bytes]:
    return (piece.encode() for piece in csv_pieces(lines))


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
    for found.lines, row in records(lines):
        if isinstance(row, str):
            found.wrong.append(row)
        elif not found.header:
            found.header = row
        elif row:
            found.rows.append(row)
    return found


def records(lines: Iterable[str]) -> Iterator[tuple[int, list[str] | str]]:
    """Header and records one by one, each with the number of lines read so far.

    In place of one that cannot be used a line says why; an empty one is an empty list.
    """
    reader = csv.reader(lines, strict=True)
    number, width, whole = 0, 0, 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            if "unexpected end of data" in str(error):  # inside quotes: cut off
                return
            yield whole, f"row {number} is no CSV"
            continue
        whole = reader.line_num
        number += bool(row)
        width = width or len(row)
        if row and len(row) != width:
            yield whole, f"row {number} has {len(row)} fields instead of {width}"
        else:
            yield whole, row


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


def is_torn(path: Path) -> bool:
    """Whether a file ends with what `repair` would remove. Raises StoreError like `read_rows`."""
    return path.exists() and len(_scanned(path)[1]) != path.stat().st_size


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed writer left in `folder` and below."""
    for path in folder.rglob(f"*{TEMPORARY}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The one line for a disk that does not take a file."""
    return StoreError(f"cannot write {path}: {error.strerror or error}")
