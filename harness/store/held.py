"""The records of a cell until its file is written: held compressed, or left in the cell's log."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from harness.store.packing import unpack
from harness.store.record import RoutingRecord
from harness.store.response_log import Answer


class PackedRecords(Mapping[str, RoutingRecord]):
    """Records by document id, kept compressed and unpacked when asked for."""

    def __init__(self) -> None:
        self._packed: dict[str, Any] = {}

    def add(self, doc_id: str, packed: bytes) -> None:
        """Keep one packed record."""
        self._packed[doc_id] = packed

    def packed(self, doc_id: str) -> bytes:
        """The compressed form."""
        return bytes(self._packed[doc_id])

    def plain(self, doc_id: str) -> bytes:
        """The record in the form of `harness.store.packing.plain`, as it was packed."""
        return zlib.decompress(self.packed(doc_id))

    def __getitem__(self, doc_id: str) -> RoutingRecord:
        return unpack(self.packed(doc_id))

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


class LoggedRecords(PackedRecords):
    """Those of answers that lie in a log, where they stay until they are asked for."""

    def __init__(self, answers: Mapping[tuple[str, str], Answer]) -> None:
        super().__init__()
        self._answers = answers

    def find(self, doc_id: str, asked: tuple[str, str]) -> None:
        """A document's record is that of the answer to this task and document."""
        self._packed[doc_id] = asked

    def packed(self, doc_id: str) -> bytes:
        return self._answers[self._packed[doc_id]].packed
