"""The data file read once: good rows as JSON lines with offsets, bad ones counted by reason.

Neither a 665,000-row array nor its index is ever held as Python objects: the array is parsed as a
stream, and rows are fetched by byte offset afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.common.errors import UsageError
from harness.common.jsonfile import parse_json
from harness.train.rows import (
    MISSING,
    UNREADABLE,
    BadRow,
    Conversation,
    check_images,
    normalise,
    row_id,
)

CHUNK = 256  # rows whose image headers are read at the same time
MADE = "report.json"  # written last: the index is whole when it is there
WAITING = "waiting.jsonl"  # [reason, image names] of every row left out for its image files

Measure = Callable[[Conversation, list[tuple[int, int]]], int]


class RowIndex:
    """Rows by number, with their lengths (int32, tokens) and whether they have images (bool).

    Safe to share with worker processes: reads are positional, the file is opened in each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        self.lengths = np.load(folder / "lengths.npy")
        self.has_image = np.load(folder / "has_image.npy")
        self.report: dict[str, Any] = json.loads((folder / MADE).read_text(encoding="utf-8"))
        self._file: tuple[int, int] | None = None  # process id, file descriptor

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, number: int) -> Conversation:
        start, stop = (int(x) for x in self.offsets[number : number + 2])
        if self._file is None or self._file[0] != os.getpid():
            self._file = os.getpid(), os.open(self.folder / "rows.jsonl", os.O_RDONLY)
        return Conversation.from_json(json.loads(os.pread(self._file[1], stop - start, start)))

    def lines(self) -> list[str]:
        """What was left out, one line for each reason."""
        return [
            f"left out {entry['count']:,} rows: {reason} (first: {entry['first']})"
            for reason, entry in self.report["left_out"].items()
        ]


def open_index(
    data: Path, images: Path | None, cache: Path, template: str, key: str, measure: Measure,
    threads: int = 4, renew: bool = True,
) -> RowIndex:  # fmt: skip
    """The index of `data` in `cache`, made first where there is none for this very file.

    Args:
        data: LLaVA conversation JSON (one array) or JSON lines.
        images: folder that image names are relative to.
        key: anything else the lengths depend on (tokenizer, image handling, maximum length).
        measure: number of tokens of a row; raises BadRow where no answer would be left.
        renew: make it again where image files came that rows were left out for.

    Raises UsageError: no such file or folder, not JSON, cut short, no row left.
    """
    if not data.is_file():
        raise UsageError(f"--data: no file {data}")
    if images is not None and not images.is_dir():
        raise UsageError(f"--images: no folder {images}")
    facts = data.stat()
    parts = (data.resolve(), facts.st_size, facts.st_mtime_ns, images and images.resolve())
    text = json.dumps([str(part) for part in (*parts, template, key)])
    folder = cache / f"index-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    made = folder / MADE
    if renew and made.exists() and _arrived(folder, images):
        made.unlink(missing_ok=True)  # of another node
    if not made.exists():
        _make(data, images, folder, template, measure, threads)
    return RowIndex(folder)


class Judged(NamedTuple):
    """An entry of the data file: its row, or why it was left out."""

    name: str
    row: Conversation | None
    sizes: list[tuple[int, int]]
    reason: str = ""
    waits: tuple[str, ...] = ()  # for these image files


def _arrived(folder: Path, images: Path | None) -> bool:
    """Whether the image files of a row that was left out for them have changed since."""
    waiting = folder / WAITING
    if not waiting.exists():  # an index of before: which files it lacked is not known
        report = json.loads((folder / MADE).read_text(encoding="utf-8"))
        return any(reason in report["left_out"] for reason in (MISSING, UNREADABLE))
    with waiting.open(encoding="utf-8") as lines:
        return any(_reason(names, images) != reason for reason, names in map(json.loads, lines))


def _reason(names: Sequence[str], images: Path | None) -> str:
    try:
        check_images(Conversation("", tuple(names), ()), images)
    except BadRow as error:
        return str(error)
    return ""


def _make(
    data: Path, images: Path | None, folder: Path, template: str, measure: Measure, threads: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    firsts: dict[str, str] = {}
    offsets, lengths, has_image = [0], [], []
    partial, waiting = (folder / f"{name}.{os.getpid()}.partial" for name in ("rows", "waiting"))
    with partial.open("wb") as out, waiting.open("w", encoding="utf-8") as later:
        for found, length in _measured(data, images, template, measure, threads):
            if found.row is None:
                counts[found.reason] += 1
                firsts.setdefault(found.reason, found.name)
                if found.waits:
                    later.write(json.dumps([found.reason, found.waits]) + "\n")
                continue
            line = json.dumps(found.row.to_json()).encode() + b"\n"
            out.write(line)
            offsets.append(offsets[-1] + len(line))
            lengths.append(length)
            has_image.append(bool(found.row.images))
    left_out = {r: {"count": n, "first": firsts[r]} for r, n in counts.most_common()}
    if not lengths:
        partial.unlink()
        waiting.unlink()
        what = "; ".join(f"{v['count']} {r}" for r, v in left_out.items()) or "it is empty"
        raise UsageError(f"--data: no usable row in {data}: {what}")
    os.replace(partial, folder / "rows.jsonl")
    os.replace(waiting, folder / WAITING)
    np.save(folder / "offsets.npy", np.asarray(offsets, dtype=np.int64))
    np.save(folder / "lengths.npy", np.asarray(lengths, dtype=np.int32))
    np.save(folder / "has_image.npy", np.asarray(has_image, dtype=bool))
    report = {
        "data": str(data),
        "rows": len(lengths) + sum(counts.values()),
        "kept": len(lengths),
        "with_image": int(sum(has_image)),
        "left_out": left_out,
    }
    text = json.dumps(report, indent=1) + "\n"
    (folder / f"{MADE}.partial").write_text(text, encoding="utf-8")
    os.replace(folder / f"{MADE}.partial", folder / MADE)


def _measured(
    data: Path, images: Path | None, template: str, measure: Measure, threads: int
) -> Iterator[tuple[Judged, int]]:
    """Every entry in file order, with its length."""

    def look(entry: tuple[int, Any]) -> Judged:
        number, raw = entry
        name = row_id(raw, number)
        try:
            if isinstance(raw, BadRow):
                raise raw
            row = normalise(raw, template)
        except BadRow as error:
            return Judged(name, None, [], str(error))
        try:
            return Judged(name, row, check_images(row, images))
        except BadRow as error:
            return Judged(name, None, [], str(error), row.images)

    entries = enumerate(_progress(_entries(data)))
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        while chunk := list(islice(entries, CHUNK)):
            for found in pool.map(look, chunk):
                try:
                    yield found, measure(found.row, found.sizes) if found.row is not None else 0
                except BadRow as error:
                    yield Judged(found.name, None, [], str(error)), 0


def _entries(data: Path) -> Iterator[Any]:
    """Every entry of the file, parsed one at a time; a JSON line that does not parse is a BadRow.

    Raises UsageError on a file that is neither kind, or an array that ends early.
    """
    with data.open("rb") as file:
        first = _first_byte(file)
        if first == b"[":
            yield from _array(data, file)
        elif first:
            yield from _lines(data, file)


def _first_byte(file: Any) -> bytes:
    start = file.read(3)
    if start != b"\xef\xbb\xbf":  # a byte order mark
        file.seek(0)
    at = file.tell()
    while (byte := file.read(1)).isspace():
        at += 1
    file.seek(at)
    return byte


def _array(data: Path, file: Any) -> Iterator[Any]:
    try:
        import ijson
    except ImportError:
        raise UsageError(
            "reading a JSON array needs the package ijson: pip install 'modsuite[train]' "
            "(or give --data JSON lines)"
        ) from None
    number = 0
    try:
        for entry in ijson.items(file, "item", use_float=True):
            yield entry
            number += 1
    except (ijson.JSONError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(
            f"--data: {data} is cut short or no JSON behind row {number}: {error}".split("\n")[0]
        ) from None


def _lines(data: Path, file: Any) -> Iterator[Any]:
    good = 0
    for line in file:
        if not line.strip():
            continue
        try:
            yield parse_json(line)
            good += 1
        except ValueError:
            if not good:
                raise UsageError(f"--data: {data} is neither a JSON array nor JSON lines") from None
            yield BadRow("a line that is no JSON")


def _progress(entries: Iterable[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(entries, desc="reading the data", unit=" rows", mininterval=1, disable=None)
