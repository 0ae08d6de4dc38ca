"""The compact form of a routing record: what a run keeps of every sample. numpy only.

Layers that route alike share a row; of a row, a bit a token says whether the token stays in its own
slot, and only for the others it is written where they go. Lengths and all other fields stand in a
small JSON object in front.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.common.jsonfile import parse_json
from harness.store.record import ARRAYS, DAMAGED, RoutingRecord, check_record

DTYPES = ("int16", "int32")
REST = tuple(f.name for f in fields(RoutingRecord) if f.name not in ARRAYS)
SIZES = ("dtype", "layers", "n", "n_out", "rows")


def plain(record: RoutingRecord) -> bytes:
    """The record in few bytes, not yet compressed: a cell's records compress better together."""
    known: dict[bytes, int] = {}
    index = [known.setdefault(row.tobytes(), len(known)) for row in record.route]
    rows = record.route[[index.index(number) for number in range(len(known))]]
    stays = rows == np.arange(record.n)
    sizes = (record.route.dtype.name, record.layers, record.n, record.n_out, len(rows))
    head = dict(zip(SIZES, sizes, strict=True)) | {name: getattr(record, name) for name in REST}
    text = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    parts = (
        np.array([len(text)], "<u4"),
        np.frombuffer(text, np.uint8),
        record.kinds,
        np.packbits(record.mod_layers),
        np.packbits(record.decode, axis=1),
        np.array(index, "<u2"),
        np.packbits(stays, axis=1),
        rows[~stays].astype(rows.dtype.newbyteorder("<")),
    )
    return b"".join(part.tobytes() for part in parts)


def from_plain(data: bytes) -> RoutingRecord:
    """The record that `plain` was called on. Raises ValueError for anything else."""
    try:
        return _read(data)
    except DAMAGED as error:
        raise ValueError(f"not a routing record ({type(error).__name__})") from None


def _read(data: bytes) -> RoutingRecord:
    bytes_ = _Bytes(data)
    head: dict[str, Any] = parse_json(bytes_.take(bytes_.array("<u4", 1)[0]).decode())
    if {*head} != {*SIZES, *REST}:
        raise ValueError("fields of another version")
    dtype, layers, n, n_out, count = (head.pop(name) for name in SIZES)
    if dtype not in DTYPES:
        raise ValueError("no routes")
    kinds = bytes_.array(np.uint8, n)
    mod_layers = bytes_.bits(1, layers)[0]
    decode = bytes_.bits(layers, n_out)
    index = bytes_.array("<u2", layers)
    rows = np.tile(np.arange(n, dtype=dtype), (count, 1))
    leave = ~bytes_.bits(count, n)
    rows[leave] = bytes_.array(np.dtype(dtype).newbyteorder("<"), int(leave.sum()))
    if bytes_.data:
        raise ValueError("more than a record")
    record = RoutingRecord(kinds, rows[index], decode, mod_layers, **head)
    check_record(record, n_out)
    return record


class _Bytes:
    """Takes arrays off the front of `data`."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data):
            raise ValueError("not a routing record (cut off)")
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def array(self, dtype: Any, count: int) -> NDArray[Any]:
        kind = np.dtype(dtype)
        values = np.frombuffer(self.take(kind.itemsize * count), kind)
        return values.astype(kind.newbyteorder("="))

    def bits(self, rows: int, columns: int) -> NDArray[np.bool_]:
        width = (columns + 7) // 8
        packed = self.array(np.uint8, rows * width).reshape(rows, width)
        return np.unpackbits(packed, axis=1)[:, :columns].astype(bool)


def pack(record: RoutingRecord) -> bytes:
    """`plain`, compressed by itself: for the log, and for records held in memory."""
    return zlib.compress(plain(record), 1)


def unpack(data: bytes) -> RoutingRecord:
    """The record that `pack` was called on. Raises ValueError for anything else."""
    try:
        return from_plain(zlib.decompress(data))
    except zlib.error:
        raise ValueError("not a routing record (damaged)") from None
