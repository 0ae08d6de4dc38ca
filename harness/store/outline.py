"""What of a routing record the readouts of FLOPs, cache and routing depend on. numpy only.

That is how many tokens of each kind every layer processes and how many reach the end, not which:
a cell's samples have few outlines where a method keeps a fixed number of tokens.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.store.packing import DTYPES, REST, SIZES
from harness.store.record import DROPPED, KINDS, SKIPPED

NEEDED = ("scoring", "grid", "tower")  # of the fields that are no arrays
Outline = tuple[str, bytes, bytes, bytes, bytes]


def outline(data: bytes) -> Outline | None:
    """Of a record in the form of `packing.plain`; None for what is not exactly that, and for
    prompts with several images.

    Records of equal outlines have the same numbers.
    """
    try:
        return _outline(data)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _outline(data: bytes) -> Outline | None:
    start = 4 + int.from_bytes(data[:4], "little")
    head: dict[str, Any] = json.loads(data[4:start])
    if {*head} != {*SIZES, *REST} or head["dtype"] not in DTYPES:
        return None
    layers, n, n_out, count = (head[name] for name in SIZES[1:])
    item = np.dtype(head["dtype"]).itemsize
    lengths = n, _width(layers), layers * _width(n_out), 2 * layers, count * _width(n)
    ends = np.cumsum([start, *lengths]).tolist()
    if min(lengths) < 0 or not layers or ends[-1] > len(data) or (len(data) - ends[-1]) % item:
        return None
    kinds, mod, decode, index, bits = (data[a:b] for a, b in pairwise(ends))
    kind = np.frombuffer(kinds, np.uint8)
    stays = np.unpackbits(np.frombuffer(bits, np.uint8).reshape(count, -1), axis=1)[:, :n]
    leave = np.frombuffer(data[ends[-1] :], f"<i{item}")
    away = n - stays.sum(1, dtype=np.int64)  # tokens that leave, by row
    if away.sum() != leave.size or (kind >= len(KINDS)).any() or not _sound(leave, stays, n):
        return None
    of_kind = (kind[:, None] == np.arange(len(KINDS))).astype(np.float32)
    order = np.frombuffer(index, "<u2")
    by_kind = (stays.astype(np.float32) @ of_kind)[order]  # exact below 2^24 tokens
    if sum(grid["kind"] == "base" for grid in head["grid"]) > 1:
        return None  # what stays of each of several images is in no count by kind
    last = order[-1]
    before = int(away[:last].sum())
    skipped = int((leave[before : before + away[last]] == SKIPPED).sum())
    words = [layers, n, n_out, skipped, int(n - away[last]), *(head[o] for o in NEEDED)]
    text = json.dumps(words, sort_keys=True)
    return text, of_kind.sum(0).tobytes(), by_kind.tobytes(), mod, decode


def _width(bits: int) -> int:
    return (bits + 7) // 8


def _sound(leave: NDArray[Any], stays: NDArray[np.uint8], n: int) -> bool:
    """Whether tokens that leave their slots go to another one, or away."""
    highest = int(leave.max(initial=DROPPED))
    if highest >= n or int(leave.min(initial=DROPPED)) < DROPPED:
        return False
    return highest < 0 or not (leave == np.flatnonzero(stays == 0) % n).any()
