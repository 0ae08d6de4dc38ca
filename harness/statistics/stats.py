"""Statistics of a table: intervals, paired differences to dense, p-values, Holm, verdicts.

All intervals are 95 %. Everything random is seeded, so the same samples give the same bytes.

Mean of a score   Wilson interval for 0/1 scores when every sample has its own image; otherwise a
                  percentile bootstrap that draws images (clusters) where samples share one.
Difference        paired percentile bootstrap on the documents both rows answered, by image.
Both bootstraps   draw from two invented documents more, one right and one wrong (for a difference:
                  one won, one lost). Without them, rows that never differed would get an interval
                  of no width, however few they are; with them it is about the rule of three.
                  Where documents share images, each of the two stands for an image of mean size:
                  that no image of 100 was seen to change is no more than that.
Ratio of times    paired percentile bootstrap of the ratio of medians.
p-value           the exact sign-flip test on the images' summed differences; McNemar's exact test
                  for 0/1 scores with one question an image (`statistics.signflip`).
Verdict           on the Holm-adjusted p-value: ``better`` or ``worse`` when it is below 0.05;
                  else ``non-inferior`` when the interval of the difference stays above -margin
                  (1 point unless the run asks otherwise), row by row: its risk is 2.5 % a row, not
                  a family's; else ``inconclusive``. A small but significant loss is ``worse``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.statistics import signflip
from harness.statistics.draws import BLOCK, NEAR, RESAMPLES, draws

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
ALPHA = 1.0 - CONFIDENCE
MARGIN_POINTS = 1.0


@dataclass(frozen=True)
class Interval:
    """A point estimate with its 95 % interval; `low` and `high` are None when undefined."""

    value: float
    low: float | None
    high: float | None

    def __neg__(self) -> Interval:
        """The interval of the negated quantity."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return Interval(-self.value, low, high)


@dataclass(frozen=True)
class Paired:
    """A method against dense on `n` shared documents."""

    n: int
    dense: float
    delta: Interval
    p_value: float


@dataclass(frozen=True)
class Groups:
    """Numbers of clusters, from 0 by first appearance, as `cluster_ids` gives them."""

    numbers: NDArray[np.intp]

    def __len__(self) -> int:
        return self.numbers.size

    @cached_property
    def sizes(self) -> NDArray[np.intp]:
        """Samples in each of them."""
        return np.bincount(self.numbers)


Clusters = Sequence[Hashable] | Groups | None
"""Of each sample: a name of its cluster ("" and None: it stands alone), or the numbers."""


def cluster_ids(clusters: Clusters, n: int) -> NDArray[np.intp]:
    """Cluster number of each sample, numbered by first appearance; without names each its own."""
    if clusters is None:
        return np.arange(n)
    if isinstance(clusters, Groups):
        return clusters.numbers
    numbers: dict[Hashable, int] = {}
    names = [name if name not in (None, "") else ("alone", i) for i, name in enumerate(clusters)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)


def mean_interval(
    scores: Sequence[float] | Floats, clusters: Clusters = None, seed: int = 0
) -> Interval | None:
    """Mean score with its interval; None without samples, no bounds with a single cluster."""
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        return None
    mean = float(values.mean())
    groups = cluster_ids(clusters, values.size)
    if is_binary(values) and groups.max() + 1 == values.size:
        low, high = _wilson(int(values.sum()), values.size)
        return Interval(mean, min(low, mean), max(high, mean))
    return Interval(mean, *_bootstrap(values, groups, seed, extra=(0.0, top_score(values))))


def quantity_interval(
    values: Sequence[float], clusters: Clusters = None, seed: int = 0
) -> Interval | None:
    """`mean_interval` of a measured amount (FLOPs, bytes): always the bootstrap."""
    amounts = np.asarray(values, dtype=np.float64)
    if amounts.size == 0:
        return None
    return quantity_intervals([amounts], clusters, seed)[0]


def quantity_intervals(
    columns: Sequence[Floats], clusters: Clusters = None, seed: int = 0
) -> list[Interval]:
    """`quantity_interval` of several amounts of the same samples, which are drawn once for all."""
    groups = cluster_ids(clusters, columns[0].size if columns else 0)
    bounds = _bootstraps(columns, groups, seed)
    return [Interval(float(one.mean()), *ends) for one, ends in zip(columns, bounds, strict=True)]


def mean_intervals(values: Floats, clusters: Clusters = None, seed: int = 0) -> list[Interval]:
    """`quantity_interval` of every column of `values` [n, k], n > 0, drawn together.

    All columns see the same draws, so a curve's band is as smooth as the curve.
    """
    groups = cluster_ids(clusters, len(values))
    means = values.mean(0)
    count = int(groups.max()) + 1
    if count < 2:
        return [Interval(float(mean), None, None) for mean in means]
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, groups, values)
    rng = np.random.default_rng([seed, count])
    step = max(1, BLOCK // count)
    drawn = []
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=rows)
        drawn.append(weights @ sums / (weights @ np.bincount(groups))[:, None])
    bounds = np.quantile(np.concatenate(drawn), [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    # A percentile interval can miss the mean by a rounding error when all values are equal.
    low, high = np.minimum(bounds[0], means), np.maximum(bounds[1], means)
    return [Interval(*map(float, row)) for row in zip(means, low, high, strict=True)]


def ratio_of_medians(numerator: Floats, denominator: Floats, seed: int = 0) -> Interval:
    """Median / median of paired measurements [n], with a bootstrap over the pairs.

    No bounds from a single pair. Raises ValueError for different lengths.
    """
    if numerator.shape != denominator.shape:
        raise ValueError("paired measurements of different length")
    value = float(np.median(numerator) / np.median(denominator))
    count = numerator.size
    if count < 2:
        return Interval(value, None, None)
    rng = np.random.default_rng([seed, count])
    drawn = rng.integers(0, count, size=(RESAMPLES, count))
    ratios = np.median(numerator[drawn], axis=1) / np.median(denominator[drawn], axis=1)
    low, high = np.quantile(ratios, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def paired(
    scores: Sequence[float] | Floats,
    dense: Sequence[float] | Floats,
    clusters: Clusters = None,
    seed: int = 0,
) -> Paired | None:
    """The method's `scores` against `dense`'s on the same documents in the same order."""
    ours = np.asarray(scores, dtype=np.float64)
    theirs = np.asarray(dense, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError("paired scores of different length")
    if ours.size == 0:
        return None
    groups = cluster_ids(clusters, ours.size)
    difference = ours - theirs
    top = max(top_score(ours), top_score(theirs))
    bounds = _bootstrap(difference, groups, seed, extra=(-top, top))
    delta = Interval(float(difference.mean()), *bounds)
    p_value = signflip.exact(cluster_sums(groups, difference), top)
    return Paired(ours.size, float(theirs.mean()), delta, p_value)


def is_binary(values: Floats) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values of one family, in the given order.

    The numbers of statsmodels' ``multipletests``, which collects the garbage of the whole process
    at every call: 80 ms beside a loaded model, some hundred times a run.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]


def margin_for(scores: Sequence[float] | Floats, points: float = MARGIN_POINTS) -> float:
    """`points` on the metric's own scale: 1 is 0.01 for scores in 0..1, 1 for scores in 0..100."""
    return top_score(np.asarray(scores, dtype=np.float64)) * points / 100.0


def verdict(delta: Interval, p_adjusted: float, margin: float) -> str:
    """`better`, `worse`, `non-inferior` or `inconclusive`, by the rule on top of this module."""
    if p_adjusted < ALPHA:
        return "better" if delta.value > 0 else "worse"
    if delta.low is not None and delta.low > -margin:
        return "non-inferior"
    return "inconclusive"


def _wilson(hits: int, n: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def top_score(scores: Floats) -> float:
    """The best score of the scale that these scores come from: 1, 100, or the highest seen."""
    highest = float(np.abs(scores).max(initial=0.0))
    return 1.0 if highest <= 1.0 else max(100.0, highest)


def _bootstrap(
    values: Floats, groups: NDArray[np.intp], seed: int, extra: tuple[float, ...] = ()
) -> tuple[float | None, float | None]:
    """Percentile interval of the mean, drawing whole clusters with replacement.

    `extra` are invented values, each a cluster of mean size of its own. No bounds from a single
    real cluster.
    """
    return _bootstraps([values], groups, seed, extra)[0]


def _bootstraps(
    columns: Sequence[Floats],
    groups: NDArray[np.intp],
    seed: int,
    extra: tuple[float, ...] = (),
) -> list[tuple[float | None, float | None]]:
    """`_bootstrap` of every column, all on the same draws."""
    if not columns:
        return []
    real = np.bincount(groups)
    size = columns[0].size / real.size
    if real.size < 2:
        return [(None, None)] * len(columns)
    rows = [
        np.concatenate([real, np.full(len(extra), size)]),
        *(np.concatenate([cluster_sums(groups, c), size * np.asarray(extra)]) for c in columns),
    ]
    sums = np.empty((len(rows), RESAMPLES))
    for number, row in enumerate(rows):
        if (row == row[0]).all():  # whatever is drawn: the sum is the same, and added up alike
            sums[number] = row.sum()
    moving = [number for number, row in enumerate(rows) if (row != row[0]).any()]
    for lines, drawn in draws(real.size + len(extra), seed, real.size + len(extra), step=NEAR):
        for number in moving:
            sums[number, lines] = rows[number].take(drawn).sum(1)
    found: list[tuple[float | None, float | None]] = []
    for column, drawn_sums in zip(columns, sums[1:], strict=True):
        low, high = np.quantile(drawn_sums / sums[0], [ALPHA / 2, 1 - ALPHA / 2])
        mean = float(column.mean())
        # A percentile interval can miss the mean by a rounding error when all scores are equal.
        found.append((min(float(low), mean), max(float(high), mean)))
    return found


def cluster_sums(groups: NDArray[np.intp], values: Floats) -> Floats:
    """Sum of the values in each cluster, one number a cluster."""
    return np.bincount(groups, values).astype(np.float64)
