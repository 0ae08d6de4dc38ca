"""`--shard i/N`: which cells of a run are whose. Torch-free.

The cut depends on the cells alone, in the order of the settings, and on nothing that a worker has
or has done: every worker that is given the same command makes the same one. Cells that run on the
same weights stay together, and a share is a stretch of them, so that a worker reads few files; the
largest share is as small as stretches allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.common.errors import UsageError
from harness.common.ownfiles import OWN
from harness.jobs.grid import Cell

# Documents of the benches' splits on the hub, roughly and for the balance only. They are not asked
# of the machine: what lies in one worker's cache must not move the cut.
HUB = {
    "gqa": 12_578, "textvqa": 5_000, "scienceqa": 2_017, "mmmu": 900, "vqav2": 214_354,
    "pope": 9_000, "mme": 2_374, "mmbench": 4_329, "mmvet": 218, "vizwiz": 4_319,
    "seedbench": 17_990, "okvqa": 5_046, "ai2d": 3_088, "docvqa": 5_349, "chartqa": 2_500,
    "infovqa": 2_801, "realworldqa": 765, "refcoco": 8_811, "refcoco+": 3_805, "refcocog": 7_573,
}  # fmt: skip
UNKNOWN = 3_000  # of a task that is not in the table


def parse_share(text: str) -> tuple[int, int]:
    """(i, N) of a checked `i/N`."""
    index, _, count = text.partition("/")
    return int(index), int(count)


def share(cells: Sequence[Cell], text: str) -> list[Cell]:
    """The cells of share `i/N`. Raises UsageError where there are fewer cells than shares."""
    index, count = parse_share(text)
    if count > len(cells):
        most = f"{len(cells)} cell{'s' * (len(cells) != 1)} make at most {len(cells)} shares"
        raise UsageError(f"--shard: {count} shares are too many: {most}")
    return cut(cells, count)[index - 1]


def cut(cells: Sequence[Cell], count: int) -> list[list[Cell]]:
    """The cells in `count` stretches of `by_weights`, none empty."""
    order = by_weights(cells)
    sizes = [documents(cell) for cell in order]
    low, high = max(sizes), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if _needed(sizes, middle) <= count:
            high = middle
        else:
            low = middle + 1
    found: list[list[Cell]] = [[]]
    filled = 0
    for position, (cell, size) in enumerate(zip(order, sizes, strict=True)):
        scarce = len(order) - position <= count - len(found)  # as many cells left as shares
        if found[-1] and (scarce or filled + size > low):
            found.append([])
            filled = 0
        found[-1].append(cell)
        filled += size
    return found


def by_weights(cells: Sequence[Cell]) -> list[Cell]:
    """Cells on the same weights one after the other, else in their order."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.checkpoint, []).append(cell)
    return [cell for group in groups.values() for cell in group]


def documents(cell: Cell) -> int:
    """About how many documents a cell answers, the same on every machine."""
    known = cell.bench.documents if cell.key.data in ("mini", OWN) else HUB.get(cell.key.bench)
    return min(known or UNKNOWN, cell.key.limit or known or UNKNOWN)


def _needed(sizes: Sequence[int], most: int) -> int:
    """How many stretches of at most `most` documents the cells make."""
    count, filled = 1, 0
    for size in sizes:
        if filled + size > most:
            count, filled = count + 1, 0
        filled += size
    return count
