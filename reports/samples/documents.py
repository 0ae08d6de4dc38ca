"""Questions and images of documents: from the run's pictures, else from the shipped mini data.

Nothing is guessed: the mini data counts only where its hash is the one that the run's cells name,
or that of an earlier file that it begins with, and its image only where it is the very image that
was asked about.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from pathlib import Path
from typing import Any

from PIL import Image

from minidata import BENCHES, HD_BENCHES
from minidata.identity import current, named
from minidata.rows import read
from minidata.tasks import data_files

NOT_KEPT = "Image not kept in this run: it keeps those of the documents in its report's pictures."
OTHER = "Image not kept in this run, and the shipped mini data is another version than it read."
NO_IMAGE = "This document has no image."
FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}


class Source:
    """What is known of the documents of a bench beside their answers."""

    def __init__(self, run: Path, files: list[Path], why: str) -> None:
        self.images = run / "routing" / "images"
        self.files, self.why = files, why
        self._questions: list[str] | None = None
        self._table: Any = None
        self._lock = threading.Lock()

    def question(self, doc: str) -> str | None:
        """The question and its choices; None where the run keeps none."""
        if not self.files:
            return None
        if self._questions is None:
            self._questions = _questions(self.files[0])
        number = _number(doc)
        known = number is not None and number < len(self._questions)
        return self._questions[number or 0] if known else None

    def forget(self) -> None:
        """Questions are in the index now."""
        self._questions = None

    def image(self, doc: str, name: str) -> tuple[bytes, str] | str:
        """Content and media type of an image of a document, by the hash that the run names it by,
        or the sentence why there is none.
        """
        if not name:
            return NO_IMAGE
        if name.isalnum() and (path := self.images / f"{name}.jpg").is_file():
            try:
                return path.read_bytes(), "image/jpeg"
            except OSError as error:
                return f"The image cannot be read ({error.strerror})."
        number = _number(doc)
        if not self.files or number is None:
            return self.why
        try:
            content = self._row(number)
            if content is None:
                return self.why
            with Image.open(io.BytesIO(content)) as image:
                kind = FORMATS.get(image.format or "")
                same = _key(image.convert("RGB")) == name
        except Exception:  # a damaged file makes a decoder raise anything
            return "The image cannot be read."
        return (content, kind) if same and kind else OTHER

    def _row(self, number: int) -> bytes | None:
        with self._lock:
            if self._table is None:
                self._table = read(self.files, ["image"])["image"]
            if number >= len(self._table):
                return None
            value = self._table[number].as_py()
        return value["bytes"] if isinstance(value, dict) else None


def source(run: Path, bench: str, mini: bool, said: set[str]) -> Source:
    """The source of a bench whose cells name ``said`` as their data."""
    if not mini or bench not in BENCHES + HD_BENCHES:
        return Source(run, [], NOT_KEPT)
    files = data_files(bench)
    try:
        name = named(files)
        same = {current(bench, one) for one in said} == {name}
    except OSError:
        return Source(run, [], f"{NOT_KEPT} The shipped mini data is not here.")
    return Source(run, files, NOT_KEPT) if same else Source(run, [], OTHER)


def _questions(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    columns = [name for name in ("question", "choices") if name in names]
    return [_asked(row) for row in pq.read_table(path, columns=columns).to_pylist()]


def _asked(row: dict[str, Any]) -> str:
    choices = row.get("choices") or []
    lines = [f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(choices)]
    return "\n".join([str(row.get("question", "")), *lines])


def _key(image: Any) -> str:
    """As the run names an image: mode, size and pixels."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def _number(doc: str) -> int | None:
    """The row of a document that is named by it."""
    return int(doc) if doc.isascii() and doc.isdigit() and len(doc) < 10 else None


def told(folder: Path) -> dict[str, dict[str, Any]]:
    """doc_id -> what ``routing/<cell_id>/*.json`` say of the pictured documents of a cell."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(about["words"], list):
                found[str(about["doc_id"])] = about | {"file": path.with_suffix(".npz")}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the report has a notice for it
    return found
