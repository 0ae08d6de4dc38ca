"""Answers written down batch by batch, so that a killed cell goes on where it stopped.

One JSON line a batch, written with one call and flushed: a kill leaves whole batches and at most
one broken last line, which is dropped. A batch is done again exactly as it would have been, with
the same companions, so an interrupted cell ends with the same numbers as an undisturbed one.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import StoreError, one_line
from harness.common.jsonfile import parse_json
from harness.store.packing import unpack
from harness.store.record import RoutingRecord

VERSION = 5


@dataclass(frozen=True)
class Answer:
    """What one request got: its text, generated tokens (with the end token), image, routing.

    ``packed`` is the routing record in compressed form, ``picture`` (JSON-able) what a picture of
    it needs besides, None where it is not to be shown. ``over_length`` and ``truncated``: as the
    loop's outputs have them. ``scored``: what the scoring reads, where that is not the text itself.
    """

    text: str
    n_out: int
    packed: bytes
    image_id: str = ""
    picture: dict[str, Any] | None = None
    over_length: bool = False
    truncated: int = 0
    scored: str | None = None

    @property
    def for_scoring(self) -> str:
        """The text that the task's scoring reads."""
        return self.text if self.scored is None else self.scored


@dataclass(frozen=True)
class Batch:
    """A finished batch: positions in the cell's request order, and their answers."""

    positions: tuple[int, ...]
    answers: tuple[Answer, ...]
    batch_size: int
    seconds: float


class ResponseLog:
    """The log of one cell; ``path`` None keeps nothing and costs nothing.

    ``fingerprint`` identifies the requests and everything that shapes the answers. A log with
    another one, or of another version, is started afresh.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.done: list[Batch] = []
        self.discarded = False
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if not lines or _header(lines[0]) != {"version": VERSION, "cell": self.fingerprint}:
            self.discarded = bool(lines)
            self._write(json.dumps({"version": VERSION, "cell": self.fingerprint}), "wb")
            return
        good = len(lines[0]) + 1
        for line in lines[1:]:
            try:
                self.done.append(_batch(parse_json(line)))
            except (ValueError, KeyError, TypeError):
                break
            good += len(line) + 1
        if good != len(data):
            with path.open("r+b") as file:
                file.truncate(good)

    def append(self, batch: Batch) -> None:
        """Write one finished batch down.

        Raises StoreError when the disk does not take it.
        """
        if self.path is not None:
            self._write(json.dumps(_as_json(batch), separators=(",", ":")), "ab")

    def _write(self, line: str, mode: str) -> None:
        assert self.path is not None
        try:
            with self.path.open(mode) as file:
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({one_line(error)})") from None


def _header(line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _as_json(batch: Batch) -> dict[str, Any]:
    return {
        "positions": batch.positions,
        "batch_size": batch.batch_size,
        "seconds": batch.seconds,
        "answers": [
            {
                "text": a.text,
                "n_out": a.n_out,
                "image_id": a.image_id,
                "record": base64.b85encode(a.packed).decode(),
                "picture": a.picture,
                "over_length": a.over_length,
                "truncated": a.truncated,
                "scored": a.scored,
            }
            for a in batch.answers
        ],
    }


def _batch(data: Mapping[str, Any]) -> Batch:
    answers = tuple(
        Answer(
            text=str(a["text"]),
            n_out=int(a["n_out"]),
            image_id=str(a["image_id"]),
            packed=_record(a["record"]),
            picture=a["picture"],
            over_length=bool(a["over_length"]),
            truncated=int(a["truncated"]),
            scored=a["scored"],
        )
        for a in data["answers"]
    )
    positions = tuple(int(p) for p in data["positions"])
    if len(positions) != len(answers):
        raise ValueError("positions and answers do not match")
    return Batch(positions, answers, int(data["batch_size"]), float(data["seconds"]))


def _record(text: str) -> bytes:
    """A packed record that can be read; ValueError for one that cannot: its batch is done again."""
    packed = base64.b85decode(text)
    unpack(packed)
    return packed


class PackedRecords(Mapping[str, RoutingRecord]):
    """Records by document id, kept compressed and unpacked when asked for."""

    def __init__(self) -> None:
        self._packed: dict[str, bytes] = {}

    def add(self, doc_id: str, packed: bytes) -> None:
        """Keep one packed record."""
        self._packed[doc_id] = packed

    def plain(self, doc_id: str) -> bytes:
        """The record in the form of `harness.store.packing.plain`, as it was packed."""
        return zlib.decompress(self._packed[doc_id])

    def __getitem__(self, doc_id: str) -> RoutingRecord:
        return unpack(self._packed[doc_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)
