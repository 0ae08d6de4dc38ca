"""Paired tests by flipping signs: when two rows are alike, each image's difference is a coin.

Exact      of one bench. The images' summed differences are counted in 60ths of the scale, and the
           distribution of their sum under all 2^images signs is convolved, not drawn: a family of a
           thousand comparisons needs p-values that 10,000 draws cannot reach. On 0/1 scores with
           one question an image it is McNemar's exact test (McNemar, Psychometrika 12, 1947).
Drawn      of sums that share no unit: an average over benches of different sizes. `PERMUTATIONS`
           draws, the same signs for all rows, so the flips of a difference are the difference of
           the flips. Its smallest p-value is 1 / 50,000.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

UNITS = (
    60  # of the scale: halves, thirds, quarters, fifths, tenths and the thirtieths of VQA are exact
)
PERMUTATIONS = 49_999
_NOTHING = 1e-45  # a chance that changes no digit of a p-value
_RARE = 1e-30  # shares of the distribution that are left out
_LEAST = 1e-20  # p-values end here
_BLOCK = 1_000_000  # coins held at once
_PARTS = (1, 2, 3, 6, 10, 30, 60)  # of the least sum, of which the others may be multiples
_EXACT = 1 << 24  # whole numbers below are exact in single precision
_SAME = 1e-10


def exact(sums: Floats, top: float) -> float:
    """Two-sided p-value of images' summed differences on a scale of 0 to `top`."""
    counted = np.rint(sums / top * UNITS).astype(np.int64)
    moved = np.abs(counted[counted != 0])
    if moved.size == 0:
        return 1.0
    unit = int(np.gcd.reduce(moved))
    observed = abs(int(counted.sum())) // unit
    if observed == 0:
        return 1.0
    start, shares = _distribution(moved // unit)
    # A sum of signed values is twice the sum of the positive ones, less the total.
    least = (int(moved.sum()) // unit + observed) // 2
    tail = float(shares[max(0, least - start) :].sum())
    return min(1.0, max(2 * tail, _LEAST))


def _distribution(values: NDArray[np.int64]) -> tuple[int, Floats]:
    """(First sum, chance of it and of each following one) when each value counts or not."""
    from scipy.stats import binom

    sizes, counts = np.unique(values, return_counts=True)
    start, shares = 0, np.ones(1)
    for size, count in sorted(
        zip(sizes.tolist(), counts.tolist(), strict=True), key=lambda c: c[1]
    ):
        coins = binom.pmf(np.arange(count + 1), count, 0.5)
        grown = np.zeros(shares.size + size * count)
        if shares.size < coins.size:
            for i, share in enumerate(shares):
                grown[i : i + size * count + 1 : size] += share * coins
        else:
            for i in np.flatnonzero(coins > _NOTHING).tolist():
                share = coins[i]
                grown[size * i : size * i + shares.size] += share * shares
        kept = np.flatnonzero(grown > _RARE)
        start, shares = start + int(kept[0]), grown[kept[0] : kept[-1] + 1]
    return start, shares


def flipped(benches: Sequence[tuple[str, Floats]], seed: int) -> Floats:
    """Sums over all images of all benches under drawn signs: [1 + PERMUTATIONS, rows].

    `benches`: (name, images' weighted sums [images, rows]); the first line is the unflipped one.
    Each bench has signs of its own, which hang on its name and its number of images alone.
    """
    out = np.zeros((1 + PERMUTATIONS, benches[0][1].shape[1]))
    for name, sums in benches:
        counted, unit = _counted(sums)
        total = counted.sum(0)
        out[0] += unit * total.astype(np.float64)
        for lines, heads in _coins(sums.shape[0], seed, name, counted.dtype):
            # What shows heads is added, the rest taken.
            out[lines] += unit * (heads @ (2 * counted) - total).astype(np.float64)
    return out


def _counted(sums: Floats) -> tuple[NDArray[np.floating], float]:
    """The sums as whole numbers of a unit where they are some, in single precision, exact there."""
    least = float(np.abs(sums).min(initial=np.inf, where=sums != 0))
    for parts in _PARTS if np.isfinite(least) else ():
        counted = np.rint(sums / least * parts)
        small = 4 * np.abs(counted).sum(0).max() < _EXACT
        if small and np.abs(sums / least * parts - counted).max() < _SAME:
            return counted.astype(np.float32), least / parts
    return sums, 1.0


def _coins(
    images: int, seed: int, name: str, dtype: np.dtype[Any]
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Blocks of draws [lines, images], 1 for heads."""
    rng = np.random.default_rng([seed, images, zlib.crc32(name.encode())])
    step, width = max(1, _BLOCK // images), -(-images // 8)
    for start in range(0, PERMUTATIONS, step):
        count = min(step, PERMUTATIONS - start)
        bits = rng.integers(0, 256, size=(count, width), dtype=np.uint8)
        heads = np.unpackbits(bits, axis=1, count=images).astype(dtype)
        yield slice(1 + start, 1 + start + count), heads


def drawn(differences: Floats, total: float) -> float:
    """Two-sided p-value of a column of `flipped`, or of one minus another.

    `total`: of the images' absolute differences; ties by rounding count as reached.
    """
    if total == 0.0:
        return 1.0
    observed = abs(differences[0]) - 1e-9 * total
    return float((np.abs(differences) >= observed).mean())  # the unflipped one is among them
