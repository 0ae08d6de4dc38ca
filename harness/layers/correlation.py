"""Rank correlation over layers, with two intervals: over layers, and over documents. Torch-free.

Spearman's rho with its p-value is `scipy.stats.spearmanr`. `ci` is scipy's Fisher interval of
Pearson's r on the ranks: what another set of as many layers might give. `documents` is the
percentile bootstrap over images (all documents of one image together): what other documents would
give on these layers. The model's layers are all there are, so read the second for this model and
the first for models like it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.statistics.draws import RESAMPLES
from harness.statistics.stats import CONFIDENCE, cluster_ids

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """One measure of every document and layer: `values` [documents, layers], image names."""

    values: Floats
    images: tuple[Hashable, ...]

    def mean(self) -> Floats:
        """[layers]"""
        return self.values.mean(axis=0)

    def first(self, count: int) -> Table:
        """The first `count` documents."""
        return Table(self.values[:count], self.images[:count])

    def rest(self, count: int) -> Table:
        """All but the first `count`, without documents that share an image with them."""
        seen = set(self.images[:count]) - {""}
        left = [i for i in range(count, len(self.images)) if self.images[i] not in seen]
        return Table(self.values[left], tuple(self.images[i] for i in left))


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of two measures over layers; None where it is not defined."""

    n_layers: int
    rho: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    documents_low: float | None = None
    documents_high: float | None = None


def spearman(x: Floats, y: Floats) -> Correlation:
    """rho over layers [layers], with Fisher's interval; nothing for a constant measure."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(len(x), None)
    found = stats.spearmanr(x, y)
    bounds = stats.pearsonr(stats.rankdata(x), stats.rankdata(y)).confidence_interval(CONFIDENCE)
    low, high = (None if len(x) < 4 or np.isnan(b) else float(b) for b in bounds)
    return Correlation(len(x), float(found.statistic), low, high, float(found.pvalue))


def correlate(x: Table, y: Table, paired: bool, seed: int = 0) -> Correlation:
    """rho of two measures' means over documents, with both intervals.

    `paired`: both tables have the same documents in the same order, which are drawn together.
    """
    plain = spearman(x.mean(), y.mean())
    if plain.rho is None:
        return plain
    groups_x, groups_y = _Groups(x), _Groups(y)
    data = [np.arange(groups_x.count)] + ([] if paired else [np.arange(groups_y.count)])
    if min(map(len, data)) < 2:
        return plain

    rng = np.random.default_rng([seed, len(x.values)])

    def statistic(*drawn: NDArray[np.intp], axis: int = -1) -> Floats:
        first, last = drawn[0], drawn[-1]
        return _rho(groups_x.means(first), groups_y.means(last))

    with np.errstate(invalid="ignore"):
        interval = stats.bootstrap(
            data, statistic, n_resamples=RESAMPLES, vectorized=True, method="percentile",
            confidence_level=CONFIDENCE, batch=200, rng=rng,
        ).confidence_interval  # fmt: skip
    low, high = float(interval.low), float(interval.high)
    if np.isnan(low) or np.isnan(high):
        return plain
    return Correlation(
        plain.n_layers, plain.rho, plain.ci_low, plain.ci_high, plain.p_value,
        min(low, plain.rho), max(high, plain.rho),
    )  # fmt: skip


class _Groups:
    """A table summed by image, so that whole images can be drawn."""

    def __init__(self, table: Table) -> None:
        groups = cluster_ids(table.images, len(table.images))
        self.count = int(groups.max()) + 1
        self.sums = np.zeros((self.count, table.values.shape[1]))
        np.add.at(self.sums, groups, table.values)
        self.sizes = np.bincount(groups).astype(np.float64)

    def means(self, drawn: NDArray[np.intp]) -> Floats:
        """[..., layers] means over the documents of the images drawn [..., images]."""
        return self.sums[drawn].sum(axis=-2) / self.sizes[drawn].sum(axis=-1)[..., None]


def _rho(x: Floats, y: Floats) -> Floats:
    """Spearman's rho along the last axis; NaN where a row is constant."""
    ranks = [stats.rankdata(v, axis=-1) for v in (x, y)]
    a, b = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.asarray((a * b).sum(axis=-1) / scale)


def as_table(rows: Sequence[Sequence[float]], images: Sequence[Hashable]) -> Table:
    """A table from nested lists."""
    return Table(np.asarray(rows, dtype=np.float64), tuple(images))
