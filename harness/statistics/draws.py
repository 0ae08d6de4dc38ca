"""The draws of every bootstrap: seeded, in blocks, kept while rows on the same images follow."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000  # bootstrap; the interval's own noise is then about 2 % of its width
BLOCK = 4_000_000  # numbers drawn at once, so that memory stays flat at any sample count
NEAR = 250_000  # of them that are read again and again while they are near
_KEPT = 40_000_000  # draws that are kept for the next rows on the same images


def draws(count: int, *key: int, step: int = BLOCK) -> Iterator[tuple[slice, NDArray[np.intp]]]:
    """Which of `count` images each resample holds: blocks of about `step`, [lines, count]."""
    kept = _drawn(count, key) if RESAMPLES * count <= _KEPT else None
    rng = np.random.default_rng(key) if kept is None else None
    step = max(1, step // count)
    for start in range(0, RESAMPLES, step):
        lines = slice(start, min(start + step, RESAMPLES))
        if rng is None:
            assert kept is not None
            yield lines, kept[lines].astype(np.intp)
        else:
            yield lines, rng.integers(0, count, size=(lines.stop - start, count))


@lru_cache(maxsize=2)
def _drawn(count: int, key: tuple[int, ...]) -> NDArray[Any]:
    """All draws, in few bytes: the cells of a bench have the same ones."""
    rng = np.random.default_rng(key)
    found = np.empty((RESAMPLES, count), np.uint16 if count < 1 << 16 else np.uint32)
    step = max(1, BLOCK // count)
    for start in range(0, RESAMPLES, step):
        stop = min(start + step, RESAMPLES)
        found[start:stop] = rng.integers(0, count, size=(stop - start, count))
    return found
