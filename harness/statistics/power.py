"""What a comparison of this size can show: the detectable difference, and the smallest n.

Both speak of the tests and intervals of `statistics.stats` as they are, and count images (clusters)
where several documents share one.

Detectable  the smallest true difference that the two-sided paired test at 5 % (before Holm) finds
            with 80 % power at this n and discordance. McNemar's exact test is conservative, so its
            own power is computed, not that of a normal approximation (Duffy, Biometrics 40, 1984):
            of `units` documents Binomial(units, share) differ, of these Binomial(d, won) are won,
            and the sum runs over the counts that the test rejects. Where images or graded scores
            weigh differently, the sign-flip test has the power of fewer equal ones: Kish's
            effective number, (sum |x|)^2 / sum x^2 over the images that differ.
Smallest n  from which a method that scores as dense on every document can be `non-inferior`: its
            interval is made by the two invented documents of the bootstrap alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from harness.statistics import stats

POWER = 0.8
_NEVER = 1e-12  # counts of discordant documents rarer than this are left out


def detectable(
    scores: Sequence[float] | stats.Floats,
    dense: Sequence[float] | stats.Floats,
    clusters: stats.Clusters = None,
) -> float | None:
    """The detectable difference on the metric's own scale; None where none would be found.

    A row cannot lie further from dense than it differs from it, so a difference beyond the
    discordance seen is one with a discordance as large as itself. Where 0/1 scores do not differ
    at all, an image that comes to differ is taken to change all its answers; graded scores give
    nothing to go by then.
    """
    ours, theirs = (np.asarray(row, dtype=np.float64) for row in (scores, dense))
    top = max(stats.top_score(ours), stats.top_score(theirs))
    groups = stats.cluster_ids(clusters, ours.size)
    sums = stats.cluster_sums(groups, (ours - theirs) / top)
    moved = np.abs(sums[sums != 0.0])
    share = moved.size / sums.size
    if moved.size == 0:
        if not (stats.is_binary(ours / top) and stats.is_binary(theirs / top)):
            return None
        moved = np.bincount(groups).astype(np.float64)
    mean = float(moved.mean())
    units = int(sums.size * mean**2 / float((moved**2).mean()) + 1e-9)
    effect = smallest_effect(units, share)
    return None if effect is None else effect * mean * sums.size / ours.size * top


def smallest_effect(units: int, share: float) -> float | None:
    """The least net share of `units` independent pairs that McNemar's test finds with `POWER`.

    `share` of them differ, or as many as the effect where that is more. None: not even all.
    """
    from scipy.optimize import brentq

    def lack(effect: float) -> float:
        return mcnemar_power(units, max(share, effect), effect) - POWER

    return None if lack(1.0) < 0 else float(brentq(lack, 0.0, 1.0, xtol=1e-12))


def mcnemar_power(units: int, share: float, effect: float) -> float:
    """How often the exact two-sided test rejects when `share` of the pairs differ, net `effect`."""
    from scipy.stats import binom

    if share == 0.0:
        return 0.0
    low, high = (int(n) for n in binom.ppf([_NEVER, 1 - _NEVER], units, share))
    discordant = np.arange(low, high + 1)
    reach = _reach(low, high)
    won = min(1.0, (1 + effect / share) / 2)
    found = binom.cdf(reach, discordant, won) + binom.sf(discordant - reach - 1, discordant, won)
    return float(binom.pmf(discordant, units, share) @ found)


@lru_cache(maxsize=8)
def _reach(low: int, high: int) -> stats.Floats:
    """How many wins at most are significantly few among `low` to `high` discordant pairs."""
    from scipy.stats import binom

    fewest: stats.Floats = binom.ppf(stats.ALPHA / 2, np.arange(low, high + 1), 0.5) - 1
    return fewest


def smallest_n(margin: float, clusters: stats.Clusters = None) -> int | None:
    """Documents from which on equal scores are `non-inferior` within `margin` (1 point: 0.01).

    `clusters`: the images of the documents at hand, for their mean number of documents; without
    them every document has its own. None for a margin of 0, which nothing reaches.
    """
    images = _fewest_images(margin)
    if images is None or clusters is None or not len(clusters):
        return images
    size = len(clusters) / (int(stats.cluster_ids(clusters, len(clusters)).max()) + 1)
    return math.ceil(images * size - 1e-9)


@lru_cache(maxsize=64)
def _fewest_images(margin: float) -> int | None:
    """`lost` clusters are the 2.5 % quantile of the bootstrap, and weigh less than the margin."""
    if margin <= 0:
        return None
    lost = 1
    while True:
        images = max(2, math.floor(lost / margin) - 2)
        while lost / (images + 2) >= margin:
            images += 1
        if _beyond(images + 2, lost + 1) < stats.ALPHA / 2:
            return images
        lost += 1


def _beyond(drawn: int, lost: int) -> float:
    """How often a bootstrap of `drawn` clusters, one won and one lost, loses `lost` or more net."""
    from scipy.stats import binom

    hits = np.arange(drawn + 1)  # draws of either invented cluster; each is a fair coin
    return float(binom.pmf(hits, drawn, 2 / drawn) @ binom.cdf((hits - lost) // 2, hits, 0.5))
