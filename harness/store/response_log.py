"""Answers written down batch by batch, so that a killed cell goes on where it stopped.

A batch is a line that describes it and a line an answer, written with one call and flushed: a kill
leaves whole batches and at most one broken end, which is dropped. A batch is done again exactly as
it would have been, with the same companions, so an interrupted cell ends with the same numbers as
an undisturbed one. In memory stands only where each answer lies: answers are read when asked for.

Every process that answers a cell has a log of its own and reads those of the others.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import StoreError, one_line
from harness.common.jsonfile import parse_json

VERSION = 6
BUFFER = 1 << 20  # bytes read at once
Found = tuple[Sequence[int], int, Sequence[int]]  # positions, where their lines begin, lengths


@dataclass(frozen=True)
class Answer:
    """What one request got: its text, generated tokens (with the end token), image, routing.

    ``packed`` is the routing record in compressed form, ``picture`` (JSON-able) what a picture of
    it needs besides, None where it is not to be shown. ``over_length`` and ``truncated``: as the
    loop's outputs have them. ``scored``: what the scoring reads, where that is not the text itself.
    ``told`` (JSON-able): what its form of question tells the scoring beyond a text.
    """

    text: str
    n_out: int
    packed: bytes
    image_id: str = ""
    picture: dict[str, Any] | None = None
    over_length: bool = False
    truncated: int = 0
    scored: str | None = None
    told: Any = None

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
    """The logs of one cell, as the process ``number`` sees them.

    ``path`` is the first process's; None keeps everything in memory. ``fingerprint`` identifies
    the requests and everything that shapes the answers. An own log with another one, or of another
    version, is started afresh; that of another process is not read.
    """

    def __init__(self, path: Path | None, fingerprint: str, number: int = 0) -> None:
        self._head = {"version": VERSION, "cell": fingerprint}
        # By position: where its line begins (-1: not answered), how long it is, in which file.
        self._where, self._size, self._whose = array("q"), array("L"), array("H")
        self._files: list[_File] = []
        self._known = 0
        self._first = path
        self._own = _File(_beside(path, number))
        self._take_in(self._own)
        self._own.begin(self._head)
        self.refresh()

    def __len__(self) -> int:
        """How many requests are answered."""
        return self._known

    def __contains__(self, position: int) -> bool:
        return position < len(self._where) and self._where[position] >= 0

    @property
    def seconds(self) -> float:
        """Spent answering, over all attempts, by the process that spent most."""
        return max(file.seconds for file in self._files)

    @property
    def batch_size(self) -> int | None:
        """The smallest that a batch was answered under; None without any."""
        return min((f.batch_size for f in self._files if f.batch_size is not None), default=None)

    def refresh(self) -> None:
        """Take in what other processes have written by now."""
        if self._first is None:
            return
        known = {file.path for file in self._files}
        for path in _all_of(self._first):
            if path not in known:
                self._take_in(_File(path))
        for file in self._files:
            if file is not self._own:
                self._index(file)

    def append(self, batch: Batch) -> None:
        """Write one finished batch down.

        Raises StoreError when the disk does not take it.
        """
        self._note(self._own, *self._own.append(batch))

    def answer(self, position: int) -> Answer:
        """What a request got, read again. Raises KeyError for one that is not answered."""
        if position not in self:
            raise KeyError(position)
        file = self._files[self._whose[position]]
        return _answer(parse_json(file.read(self._where[position], self._size[position])))

    def _take_in(self, file: _File) -> None:
        self._files.append(file)
        self._index(file)

    def _index(self, file: _File) -> None:
        """Note where the answers of new whole batches lie."""
        for found in file.batches(self._head):
            self._note(file, *found)

    def _note(self, file: _File, positions: Sequence[int], at: int, sizes: Sequence[int]) -> None:
        """Note where the answers of a batch lie: one behind the other, from byte ``at``."""
        more = max(positions, default=-1) + 1 - len(self._where)
        if more > 0:
            self._where.extend([-1] * more)
            self._size.extend([0] * more)
            self._whose.extend([0] * more)
        for position, size in zip(positions, sizes, strict=True):
            if self._where[position] < 0:
                self._where[position], self._size[position] = at, size
                self._whose[position] = self._files.index(file)
                self._known += 1
            at += size


class _File:
    """One log: what is whole of it, and its end. ``path`` None is one in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.seconds = 0.0
        self.batch_size: int | None = None
        self.good = 0  # bytes that are whole batches
        self._raw: Any = io.BytesIO() if path is None else None

    def batches(self, head: Mapping[str, Any]) -> Iterator[Found]:
        """The whole batches behind those seen. A checksum says so: nothing is decoded."""
        if self._opened() is None:
            return
        # A buffer of its own each time: its owner may have cut a broken end off meanwhile.
        file = io.BufferedReader(self._raw, BUFFER)
        try:
            file.seek(self.good)
            if self.good == 0:
                line = file.readline()
                if not line.endswith(b"\n") or _parsed(line) != head:
                    return
                self.good = len(line)
            while (found := self._batch(file)) is not None:
                yield found
        finally:
            file.detach()

    def _batch(self, file: io.BufferedReader) -> Found | None:
        line = file.readline()
        said: Any = _parsed(line) if line.endswith(b"\n") else None
        try:
            positions, sizes = said["positions"], said["sizes"]
            body = file.read(sum(sizes))
            size, seconds = int(said["batch_size"]), float(said["seconds"])
            if len(positions) != len(sizes) or zlib.crc32(body) != said["crc"]:
                return None
        except (KeyError, TypeError, ValueError):
            return None
        at = self.good + len(line)
        self._count(len(line) + len(body), size, seconds)
        return positions, at, sizes

    def _count(self, length: int, size: int, seconds: float) -> None:
        self.good += length
        self.seconds += seconds
        self.batch_size = min(size, self.batch_size or size)

    def begin(self, head: Mapping[str, Any]) -> None:
        """Make it ready to be appended to: a new head where it had another one, no broken end."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.good == 0:
            self._write(_line(head), "wb")
            self.good = len(_line(head))
        elif self.path is not None and self.path.stat().st_size != self.good:
            with self.path.open("r+b") as file:
                file.truncate(self.good)

    def append(self, batch: Batch) -> Found:
        """Write a batch down; raises StoreError."""
        lines = [_line(_as_json(answer)) for answer in batch.answers]
        sizes, body = [len(line) for line in lines], b"".join(lines)
        said = {
            "positions": batch.positions,
            "batch_size": batch.batch_size,
            "seconds": batch.seconds,
            "sizes": sizes,
            "crc": zlib.crc32(body),
        }
        head = _line(said)
        self._write(head + body, "ab")
        at = self.good + len(head)
        self._count(len(head) + len(body), batch.batch_size, batch.seconds)
        return batch.positions, at, sizes

    def read(self, offset: int, size: int) -> bytes:
        raw = self._opened()
        raw.seek(offset)
        return bytes(raw.read(size))

    def _opened(self) -> Any:
        if self._raw is None and self.path is not None and self.path.is_file():
            self._raw = self.path.open("rb", buffering=0)
        return self._raw

    def _write(self, data: bytes, mode: str) -> None:
        if self.path is None:
            self._raw.seek(0, io.SEEK_END)
            self._raw.write(data)
            return
        try:
            with self.path.open(mode) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({one_line(error)})") from None


class Answers(Mapping[tuple[str, str], Answer]):
    """Answers by task and document, each read from the logs when asked for."""

    def __init__(self, log: ResponseLog, positions: Mapping[tuple[str, str], int]) -> None:
        self._log, self._positions = log, positions

    def __getitem__(self, key: tuple[str, str]) -> Answer:
        return self._log.answer(self._positions[key])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


def _beside(path: Path | None, number: int) -> Path | None:
    """The log of the process ``number``, beside that of the first."""
    if path is None or number == 0:
        return path
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def _all_of(path: Path) -> Sequence[Path]:
    """The logs of all processes that ever answered the cell, in the order of their numbers."""
    name = re.compile(rf"{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}")
    others = [(name.fullmatch(other.name), other) for other in path.parent.glob("*")]
    numbers = sorted((int(found[1]), other) for found, other in others if found)
    return [path, *(other for _, other in numbers)]


def _parsed(line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _as_json(answer: Answer) -> dict[str, Any]:
    return {**asdict(answer), "packed": base64.b85encode(answer.packed).decode()}


def _answer(data: Mapping[str, Any]) -> Answer:
    return Answer(**{**data, "packed": base64.b85decode(data["packed"])})
