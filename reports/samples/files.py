"""Answers, evidence and records of a cell, read row by row: no file is in memory as a whole."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from harness.common.jsonfile import parse_json
from harness.store import tables
from harness.store.columns import SAMPLES
from harness.store.records import Records

NUMBERS = ("score", "n_text", "n_image", "n_out", "kv_ratio", "kv_ratio_vision", "tflops_prefill",
           "tflops_decode", "n_images")  # fmt: skip
TEXTS = ("doc_id", "prediction", "target", "image_id")
CHUNK = 1 << 16
LONGEST = 1 << 24  # characters of one document's evidence; more is no evidence file
DAMAGED = (OSError, EOFError, ValueError, zlib.error, csv.Error)


def there(path: Path) -> bool:
    """Whether a run has this file, as it is or packed."""
    try:
        return tables.exists(path)
    except tables.Unreadable:  # whoever reads it says so
        return True


def _text(path: Path) -> IO[str]:
    """What the run has in this file; OSError where it has none."""
    place = tables.stored(path)
    if place is None:
        try:
            content = tables.content(path)
        except tables.Unreadable as error:
            raise OSError(error.said) from None
        if content is not None:  # of a packed run
            return io.StringIO(content.decode(), newline="")
    elif place != path:
        return gzip.open(place, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def json_of(path: Path) -> Any:
    """A small JSON file. Raises OSError and ValueError."""
    with _text(path) as file:
        return parse_json(file.read())


def answers_of(path: Path, notices: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of ``samples/<cell_id>.csv``: texts as they stand, numbers or None.

    Rows that are cut off, or have another length than the header, are left out and counted.
    """
    wrong = 0
    try:
        with _text(path) as file:
            reader = csv.reader(file)
            header = next(reader, [])
            missing = [name for name in ("doc_id", "score", "prediction") if name not in header]
            if missing:
                notices.append(f"{path.name}: left out, it has no column {', '.join(missing)}.")
                return
            place = {name: header.index(name) for name in (*TEXTS, *NUMBERS) if name in header}
            for row in reader:
                if len(row) != len(header):
                    wrong += bool(row)
                    continue
                found: dict[str, Any] = dict.fromkeys(TEXTS, "")
                found |= {name: row[at] for name, at in place.items() if name in TEXTS}
                for name in NUMBERS:
                    found[name] = _number(row[place[name]]) if name in place else None
                yield found
    except DAMAGED as error:
        notices.append(f"{path.name}: cannot be read to its end ({error}).")
    if wrong:
        notices.append(
            f"{path.name}: {wrong} row(s) that are no record of {SAMPLES.file}, left out."
        )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def evidence_of(path: Path, notices: list[str]) -> dict[str, float]:
    """doc_id -> share of the patches under the answer's boxes that a layer processes, mean over
    layers (as ``evidence.csv`` has it); documents without boxes are not among them.
    """
    found: dict[str, float] = {}
    try:
        with _text(path) as file:
            for one in _objects(file):
                kept, patches = one["kept"], one["patches"]
                found[str(one["doc_id"])] = sum(kept) / len(kept) / patches
    except (*DAMAGED, KeyError, TypeError, ZeroDivisionError):
        notices.append(f"{path.name}: cannot be read: the evidence of its documents is not known.")
        return {}
    return found


def packed_records(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and record as `harness.store.packing.unpack` takes it.

    Most of a file's records are only put away here; taking each apart is five times the work.
    Raises StoreError, one line, for a file that is damaged.
    """
    for name, content in Records(path).plain():
        yield name, zlib.compress(content, 1)


def _objects(file: IO[str]) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, one after the other."""
    decoder = json.JSONDecoder()
    text, at = file.read(CHUNK), 0
    if not text.lstrip().startswith("["):
        raise ValueError("no list")
    at = text.index("[") + 1
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at < len(text) and text[at] == "]":
            return
        try:
            value, at = decoder.raw_decode(text, at)
            yield value
        except ValueError:
            more = file.read(CHUNK)
            if not more or len(text) - at > LONGEST:
                raise
            text, at = text[at:] + more, 0
