"""Bootstraps that draw the same documents for several rows at once. Seeded, vectorised.

Front     how often a method stands on the accuracy-cost front when documents (whole images) are
          drawn again, jointly for all methods of a bench. In the average over benches each bench
          draws its own documents.
Skill     (method - blind) / (dense - blind) with a percentile interval over the documents that all
          three answered. Two invented images of mean size, one won and one lost, stand for what
          has not been seen (see `statistics.stats`). No interval where some draw has dense at or
          below blind: the ratio is unbounded then.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.statistics.draws import RESAMPLES, draws
from harness.statistics.stats import (
    ALPHA,
    Clusters,
    Floats,
    Groups,
    Interval,
    cluster_ids,
    cluster_sums,
    top_score,
)

Bools = NDArray[np.bool_]
_LONG = 512
_DIGITS = 12  # sums in another order differ in the last bits; equal rows must stay equal


def resampled_means(
    values: Floats, clusters: Clusters = None, seed: int = 0, name: str = ""
) -> Floats:
    """Means of the columns of `values` [documents, columns] in every draw: [draws, columns].

    `name` separates the draws of one bench from another's.
    """
    groups = cluster_ids(clusters, values.shape[0])
    sums = np.column_stack([cluster_sums(groups, column) for column in values.T])
    sizes = np.bincount(groups).astype(np.float64)
    count = sizes.size
    means = np.empty((RESAMPLES, values.shape[1]))
    for lines, drawn in draws(count, seed, count, zlib.crc32(name.encode())):
        times = times_drawn(drawn)
        means[lines] = (times @ sums) / (times @ sizes)[:, None]
    return means


def times_drawn(drawn: NDArray[np.intp]) -> Floats:
    """How often each resample [lines, count] holds each of the `count`."""
    lines, count = drawn.shape
    if count > _LONG:  # line by line, so that the counters stay near
        found = np.empty((lines, count))
        for line, one in zip(found, drawn, strict=True):
            line[:] = np.bincount(one, minlength=count)
        return found
    places = drawn + np.arange(lines)[:, None] * count
    return np.bincount(places.ravel(), minlength=lines * count).reshape(lines, count).astype(float)


def on_front(costs: Floats, scores: Floats) -> Bools:
    """Which of [..., methods] no other beats: none is as cheap and better, or as good and cheaper.

    Equal pairs do not beat each other.
    """
    costs, scores = _rounded(costs), np.round(scores, _DIGITS)
    free = np.ones(costs.shape, dtype=bool)
    for other in range(costs.shape[-1]):
        cost, score = costs[..., other, None], scores[..., other, None]
        reached = (cost <= costs) & (score >= scores)
        free &= ~(reached & ((cost < costs) | (score > scores)))
    return free


def front_probability(costs: Floats, scores: Floats) -> Floats:
    """Share of the draws [draws, methods] in which each method stands on the front."""
    probability: Floats = on_front(costs, scores).mean(axis=0)
    return probability


def skill(
    method: Sequence[float] | Floats,
    dense: Sequence[float] | Floats,
    blind: Sequence[float] | Floats,
    clusters: Clusters = None,
    seed: int = 0,
) -> Interval | None:
    """The share of dense's lead over blind that is kept; None where dense has no lead."""
    rows = np.column_stack([np.asarray(r, dtype=np.float64) for r in (method, dense, blind)])
    if rows.shape[0] == 0:
        return None
    ours, full, floor = rows.mean(axis=0)
    if full <= floor:
        return None
    value = float((ours - floor) / (full - floor))
    groups = cluster_ids(clusters, rows.shape[0])
    if groups.max() < 1:
        return Interval(value, None, None)
    top = top_score(rows.ravel())
    size = round(rows.shape[0] / (int(groups.max()) + 1))  # documents of a mean image
    invented = np.repeat([[top, 0.0, 0.0], [0.0, top, 0.0]], size, axis=0)
    ends = np.repeat([groups.max() + 1, groups.max() + 2], size).astype(np.intp)
    means = resampled_means(
        np.vstack([rows, invented]), Groups(np.concatenate([groups, ends])), seed
    )
    lead = means[:, 1] - means[:, 2]
    if (lead <= 0).any():
        return Interval(value, None, None)
    ratios = (means[:, 0] - means[:, 2]) / lead
    low, high = np.quantile(ratios, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def _rounded(costs: Floats) -> Floats:
    """Costs to twelve figures of the largest, whatever their unit."""
    largest = float(np.abs(costs).max(initial=0.0)) or 1.0
    rounded: Floats = np.round(costs / largest, _DIGITS)
    return rounded
