"""``records/<cell_id>.gz``: the routing record of every sample of a cell, one compressed file.

The first line, JSON, says what a readout needs beside the records (`Basis`). Then follow the
samples, in the order of the cell's: the lengths of name and record, as four bytes each, and the two
themselves (`harness.store.packing.plain`). Every readout can be taken again from this file, without
a model.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import StoreError, one_line
from harness.common.jsonfile import parse_json
from harness.store.csvfile import cell_text, write_atomic
from harness.store.held import PackedRecords
from harness.store.packing import from_plain, plain
from harness.store.record import RoutingRecord

VERSION = 1
PIECE = 1 << 20  # bytes written together
LENGTHS = struct.Struct("<II")
AGAIN = "the run's own command answers its cell again"


@dataclass(frozen=True)
class Basis:
    """What the numbers of a record rest on.

    ``config`` is the loaded model's, ``itemsize`` the bytes of a number in its cache, and
    ``vision_runs`` whether the vision tower ran.
    """

    model: str
    config: Mapping[str, Any]
    itemsize: int
    vision_runs: bool


def write_records(path: Path, basis: Basis, records: Mapping[str, RoutingRecord]) -> None:
    """The file of a cell, whole or not at all. Raises StoreError when the disk does not take it."""
    head = {"version": VERSION, "samples": len(records), **asdict(basis)}
    write_atomic(path, _compressed(_pieces(head, records)))


def _pieces(head: Mapping[str, Any], records: Mapping[str, RoutingRecord]) -> Iterator[bytes]:
    yield json.dumps(head, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    packed = isinstance(records, PackedRecords)
    for doc_id in records:
        name = cell_text(doc_id).encode()
        content = records.plain(doc_id) if packed else plain(records[doc_id])  # type: ignore[attr-defined]
        yield LENGTHS.pack(len(name), len(content)) + name + content


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A gzip file piece by piece, of the same bytes every time."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, buffer, mtime=0) as file:
        for piece in pieces:
            file.write(piece)
            if buffer.tell() > PIECE:
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
    yield buffer.getvalue()


class Records:
    """Reads such a file: ``basis`` at once, then the samples, one after the other.

    Raises StoreError, one line, for a file that is damaged or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = self._guarded(lambda: gzip.GzipFile(path))
        self.basis, self._samples = self._guarded(self._head)

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except (OSError, EOFError, ValueError, TypeError, KeyError, zlib.error) as error:
            why = one_line(error, 120)
            raise StoreError(
                f"{self.path}: routing records cannot be read ({why}); {AGAIN}"
            ) from None

    def _head(self) -> tuple[Basis, int]:
        head = parse_json(self._file.readline().decode())
        version = head.pop("version")
        if version != VERSION:
            raise ValueError(f"version {version}, this program knows {VERSION}")
        samples = int(head.pop("samples"))
        return Basis(**head), samples

    def __iter__(self) -> Iterator[tuple[str, RoutingRecord]]:
        for doc_id, content in self.plain():
            yield doc_id, self.record(content)

    def record(self, content: bytes) -> RoutingRecord:
        """The record in plain form that `plain` gave. Raises StoreError for a damaged one."""
        found: RoutingRecord = self._guarded(lambda: from_plain(content))
        return found

    def plain(self) -> Iterator[tuple[str, bytes]]:
        """The samples with their records in the form of `harness.store.packing.plain`."""
        with self._file:
            for _ in range(self._samples):
                yield self._guarded(self._next)
            if self._guarded(lambda: self._file.read(1)):
                raise StoreError(f"{self.path}: more records than it says; {AGAIN}")

    def _next(self) -> tuple[str, bytes]:
        sizes = LENGTHS.unpack(self._take(LENGTHS.size))
        name, content = (self._take(size) for size in sizes)
        return name.decode(), content

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError("it ends too early")
        return data
