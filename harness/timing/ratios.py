"""From times to numbers: medians, paired ratios, realisation. numpy only, no torch.

Times are milliseconds, one entry a round; entry i of dense and of a method belong to the same
round, so they met the same state of the machine and are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.statistics.stats import Interval, ratio_of_medians

Floats = NDArray[np.float64]

# With n rounds the whole range of n values covers a median with probability 1 - 2^(1-n): six
# are the fewest from which a 95 % interval can be had at all.
FEWEST = 6
PROTOCOL_REPEATS = 30


@dataclass(frozen=True)
class Spread:
    """Median and the 10th and 90th percentile, in ms."""

    median: float
    p10: float
    p90: float


def spread(times: Sequence[float] | Floats) -> Spread:
    """Median, p10 and p90 of the rounds' times."""
    low, middle, high = np.percentile(np.asarray(times, np.float64), [10, 50, 90])
    return Spread(float(middle), float(low), float(high))


def speedup(
    dense: Sequence[float] | Floats, method: Sequence[float] | Floats, seed: int
) -> Interval | None:
    """Dense median / method median with its 95 % interval; None where a median is zero."""
    ours, theirs = np.asarray(method, np.float64), np.asarray(dense, np.float64)
    if not np.median(ours) > 0 or not np.median(theirs) > 0:
        return None
    return ratio_of_medians(theirs, ours, seed)


def flops_ratio(dense: float | None, method: float | None) -> float | None:
    """Dense FLOPs / method FLOPs: above 1 the method does less. None where there are none."""
    return dense / method if dense and method else None


def realisation(gain: Interval | None, ratio: float | None) -> Interval | None:
    """Speed-up / FLOPs ratio: 1 when all of the saving became time, 1 / ratio when none did.

    Its interval is the speed-up's: FLOPs are counted on the same samples every round, not drawn.
    """
    if gain is None or ratio is None:
        return None
    low, high = (None if bound is None else bound / ratio for bound in (gain.low, gain.high))
    return Interval(gain.value / ratio, low, high)


def settled(times: Sequence[float], window: int = 3, within: float = 0.01) -> bool:
    """Whether the medians of the last three windows agree within one percent."""
    if len(times) < 3 * window:
        return False
    last = np.asarray(times[-3 * window :], np.float64).reshape(3, window)
    medians = np.median(last, axis=1)
    return bool(np.ptp(medians) <= within * medians.min())


def kept_rounds(clocks: Sequence[float | None], lowest: float = 0.95) -> NDArray[np.bool_]:
    """Which rounds ran at 95 % or more of the median clock; all where no clock was read."""
    known = np.array([np.nan if c is None else c for c in clocks], np.float64)
    if known.size == 0 or np.isnan(known).all():
        return np.ones(known.size, bool)
    return np.asarray(np.isnan(known) | (known >= lowest * np.nanmedian(known)))
