"""The area between two curves of accuracy against budget, with interval and p-value.

Area      the mean difference over the budgets that both have: the trapezoid over the shares of KV
          cache that were met, divided by its width. It weighs a document's scores at the budgets
          (`weights`), so that it is again a mean over documents.
Interval  percentile bootstrap of whole images, drawn jointly for all pairs of a bench and bench by
          bench for the average; two invented images of mean size, one won and one lost, stand for
          what has not been seen (see `statistics.stats`).
p-value   sign-flip permutation over images: the same signs for all pairs of a bench, signs of its
          own for every bench. The smallest is 1 / 50,000.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.statistics import joint
from harness.statistics.stats import (
    ALPHA,
    Clusters,
    Floats,
    Groups,
    Interval,
    cluster_ids,
    cluster_sums,
)

FLIPS = 49_999
AREAS = ("areas", "means", "flips", "moved")  # of `Drawn`, with a number a pair
_BLOCK = 4_000_000  # signs held at once


def weights(shares: Sequence[float]) -> Floats | None:
    """What each of these ascending budgets counts for: [budgets], of sum 1. None without a width.

    Two budgets count half each, whatever lies between them.
    """
    x = np.asarray(shares, dtype=np.float64)
    width = x[-1] - x[0] if x.size > 1 else 0.0
    if width <= 0:
        return None
    steps = np.diff(x) / (2 * width)
    found: Floats = np.append(steps, 0.0) + np.insert(steps, 0, 0.0)
    return found


@dataclass(frozen=True)
class Drawn:
    """Areas [pairs] of one bench or of the average, as shares of the scale, with their draws.

    `means` is [resamples, pairs]; `flips` [1 + flips, pairs] the areas under drawn signs, the true
    ones first, and `moved` [pairs] what they could be at most.
    """

    n: int
    images: int
    areas: Floats
    means: Floats
    flips: Floats
    moved: Floats
    is_single: bool = False

    def interval(self, pair: int) -> Interval:
        """The area with its interval; no bounds where a bench shows one image only."""
        value = float(self.areas[pair])
        if self.is_single:
            return Interval(value, None, None)
        low, high = np.quantile(self.means[:, pair], [ALPHA / 2, 1 - ALPHA / 2])
        return Interval(value, min(float(low), value), max(float(high), value))

    def p_value(self, pair: int) -> float:
        """Two-sided, of no difference; ties by rounding count as reached."""
        if self.moved[pair] == 0:
            return 1.0
        least = abs(self.flips[0, pair]) - 1e-9 * self.moved[pair]
        return float((np.abs(self.flips[:, pair]) >= least).mean())


def draw(differences: Floats, images: Clusters, seed: int, bench: str) -> Drawn:
    """Areas of `differences` [documents, pairs], weighted score differences in -1..1 (n > 0)."""
    n, pairs = differences.shape
    groups = cluster_ids(images, n)
    count = int(groups.max()) + 1
    size = max(1, round(n / count))  # documents of a mean image
    invented = np.repeat([1.0, -1.0], size)[:, None] * np.ones(pairs)
    clusters = Groups(np.concatenate([groups, np.repeat([count, count + 1], size)]))
    means = joint.resampled_means(np.vstack([differences, invented]), clusters, seed, bench)
    sums = np.column_stack([cluster_sums(groups, column) for column in differences.T]) / n
    flips = _flipped(sums, seed, bench)
    moved = np.abs(sums).sum(axis=0)
    return Drawn(n, count, differences.mean(axis=0), means, flips, moved, count < 2)


def average(benches: Iterable[Drawn]) -> Drawn:
    """The mean of the areas of one bench or more, each with draws of its own; one at a time."""
    parts = iter(benches)
    total, count = next(parts), 1
    for one in parts:
        sums = {name: getattr(total, name) + getattr(one, name) for name in AREAS}
        n, images = total.n + one.n, total.images + one.images
        single = total.is_single or one.is_single
        total = replace(total, n=n, images=images, is_single=single, **sums)
        count += 1
    return replace(total, **{name: getattr(total, name) / count for name in AREAS})


def _flipped(sums: Floats, seed: int, name: str) -> Floats:
    """Sums of `sums` [images, pairs] under drawn signs, the unflipped ones first."""
    images = sums.shape[0]
    rng = np.random.default_rng([seed, images, zlib.crc32(name.encode())])
    found = np.empty((1 + FLIPS, sums.shape[1]))
    found[0] = sums.sum(axis=0)
    step, width = max(1, _BLOCK // images), -(-images // 8)
    for start in range(1, 1 + FLIPS, step):
        rows = min(step, 1 + FLIPS - start)
        bits = rng.integers(0, 256, size=(rows, width), dtype=np.uint8)
        signs = np.unpackbits(bits, axis=1, count=images)
        found[start : start + rows] = 2.0 * (signs @ sums) - found[0]
    return found
