"""Where a table of a run stands and what it holds: plain, under gzip, or packed. Torch-free.

`python -m modsuite pack` (`harness.store.pack`) keeps the samples of all cells in one file, and so
the metrics and the evidence. Readers ask here for the file as a run writes it,
``samples/<cell_id>.csv`` say, and get its content wherever it is; a plain file goes before a packed
one, as it is the newer of the two.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.common.errors import StoreError
from harness.store import columns
from harness.store.csvfile import records, scan, to_csv

SAMPLES, METRICS, EVIDENCE = "samples.parquet", "metrics.parquet", "evidence.parquet"
CELL = "cell_id"
FOLDER = "samples"  # of a run's files by cell
KINDS = {".csv": SAMPLES, ".metrics.json": METRICS, ".evidence.json": EVIDENCE}
SOMETIMES = (
    "not_scored",
    "judge",
    "judge_temperature",
)  # of a metric: there where they say something
ROUTING = ".routing.json"  # stands in routing.csv as well


class Unreadable(StoreError):
    """A file that is there and cannot be read; `place` is the file, `said` the reason."""

    def __init__(self, place: Path, error: Exception) -> None:
        self.place, self.said = place, getattr(error, "strerror", None) or str(error)
        super().__init__(f"{place}: cannot be read ({self.said})")


def is_packed(run: Path) -> bool:
    """Whether the samples of a run directory are packed."""
    return (run / SAMPLES).is_file()


def stored(path: Path) -> Path | None:
    """The file that has this one's text: itself or, under gzip, beside it; None without any."""
    zipped = path.with_name(path.name + ".gz")
    return next((place for place in (path, zipped) if place.exists()), None)


def exists(path: Path) -> bool:
    """Whether `content` finds anything. Raises StoreError for a damaged packed file."""
    if stored(path) is not None:
        return True
    cell, kind = _of_cell(path)
    if kind == ROUTING:
        return is_packed(path.parents[1])
    packed = path.parents[1] / KINDS[kind] if kind else None
    return packed is not None and packed.is_file() and cell in _table(packed).places


def content(path: Path) -> bytes | None:
    """The bytes that a run has in this file, None where it has none. Raises StoreError."""
    place = stored(path)
    if place is not None:
        try:
            found = place.read_bytes()
            return gzip.decompress(found) if place != path else found
        except (OSError, EOFError, zlib.error) as error:
            raise Unreadable(place, error) from None
    if not exists(path):
        return None
    cell, kind = _of_cell(path)
    run = path.parents[1]
    if kind == ROUTING:
        return _json(_routing(run, cell))
    rows = _table(run / KINDS[kind]).rows(cell)
    if kind == ".csv":
        return to_csv(list(rows[0]) if rows else list(columns.SAMPLES), rows)
    return _json(list(map(metric, rows)) if kind == ".metrics.json" else rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Complete records of a CSV as text, [] without one; `csvfile.read_rows` wherever it stands."""
    found = content(path)
    lines = (found or b"").split(b"\n")[:-1]
    seen = scan(f"{line.decode('utf-8', errors='replace')}\n" for line in lines)
    if seen.wrong:
        raise StoreError(f"{path} is damaged: {seen.wrong[0]}")
    return [dict(zip(seen.header, row, strict=True)) for row in seen.rows]


def each_row(path: Path) -> Iterator[dict[str, str]]:
    """`read_rows` one by one: the file is never in memory as a whole, unless it is packed."""
    place = stored(path)
    header: list[str] = []
    if place is None:
        yield from read_rows(path)
        return
    for row in _records(place, path):
        if not header:
            header = row
        elif row:
            yield dict(zip(header, row, strict=True))


def _records(place: Path, path: Path) -> Iterator[list[str]]:
    try:
        with place.open("rb") if place == path else gzip.open(place, "rb") as file:
            whole = (line.decode("utf-8", errors="replace") for line in file if line[-1:] == b"\n")
            for _, row in records(whole):
                if isinstance(row, str):
                    raise StoreError(f"{path} is damaged: {row}")
                yield row
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(place, error) from None


def metric(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics.parquet as `samples/<cell_id>.metrics.json` has it."""
    docs, scores = row.pop("doc_ids"), row.pop("scores")
    row = {name: said for name, said in row.items() if said or name not in SOMETIMES}
    return {**row, "scores": dict(zip(docs, scores, strict=True))}


def _of_cell(path: Path) -> tuple[str, str]:
    """The cell and the ending of a file of ``samples/``; empty for any other."""
    cell, dot, rest = path.name.partition(".")
    kind = dot + rest
    known = path.parent.name == FOLDER and kind in (*KINDS, ROUTING)
    return (cell, kind) if known else ("", "")


def _json(rows: list[dict[str, Any]]) -> bytes:
    return (json.dumps(rows, indent=2, ensure_ascii=False) + "\n").encode()


def _routing(run: Path, cell: str) -> list[dict[str, Any]]:
    """The rows of a cell in routing.csv, with the types that the run noted."""
    types = {"int": int, "float": float, "text": str}
    about = [c for c in columns.ROUTING.about_columns if c.name not in (CELL, "bench")]
    return [
        {c.name: types[c.type](row[c.name]) if row.get(c.name) else None for c in about}
        for row in read_rows(run / columns.ROUTING.file)
        if row.get(CELL) == cell
    ]


class _Packed:
    """One parquet of a packed run: the rows of a cell stand together."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.table = pq.read_table(path)
        self.places: dict[str, tuple[int, int]] = {}  # first row and number of rows
        for number, cell in enumerate(self.table[CELL].to_pylist()):
            first, count = self.places.get(cell, (number, 0))
            if first + count != number:
                raise ValueError(f"the rows of {cell} do not stand together")
            self.places[cell] = first, count + 1

    def rows(self, cell: str) -> list[dict[str, Any]]:
        part = self.table.slice(*self.places[cell]).drop_columns([CELL])
        found: list[dict[str, Any]] = part.to_pylist()
        return found


def _table(path: Path) -> _Packed:
    try:
        stat = path.stat()
        return _read(path, stat.st_mtime_ns, stat.st_size)
    except (ValueError, KeyError):  # pyarrow's own are among these
        raise Unreadable(path, ValueError("no whole file of a packed run")) from None
    except OSError as error:
        raise Unreadable(path, error) from None


@lru_cache(maxsize=8)
def _read(path: Path, *version: int) -> _Packed:
    return _Packed(path)


def cells(run: Path) -> Iterator[str]:
    """The cells whose samples a packed run holds. Raises StoreError."""
    yield from _table(run / SAMPLES).places
