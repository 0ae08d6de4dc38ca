"""Looks at a growing sample: a group-sequential design, its alpha spent over the looks. Torch-free.

Spending    Lan and DeMets (Biometrika 70, 1983), O'Brien-Fleming type: up to the share f of the
            planned sample 2 - 2 Phi(z / sqrt(f)), z the two-sided 5 % point. Little is spent while
            degrees of freedom are few and intervals wide.
Levels      the nominal two-sided level of each look, such that the chance of a p-value below its
            level at any look up to the k-th is what is spent by then.
Few samples The looks' p-values come from t statistics of n - 1 degrees of freedom, which hang
            together less than normal ones: levels made for z spend 5.4 % at looks of 3, 5 and 8
            (simulated). So their joint distribution is simulated as it is, seeded. Whoever tests
            has p-values no smaller than these (`looked` in `harness.study.effects`); what the looks
            share beyond the seeds, the documents, makes them more alike, and the error smaller.
p-value     adjusted for the looks: the least total alpha at which the levels, all scaled by one
            factor, reject at this look (Holm needs levels that only grow with alpha).
Interval    at 1 - level of its look: a repeated confidence interval (Jennison and Turnbull, JRSS B
            51, 1989). All looks' together cover with 95 %, whichever of them is shown and why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.statistics.stats import ALPHA, Floats

DRAWS = 500_000  # an adjusted p-value of 0.01 is known to 1.4 % of itself
_BEGIN = 17  # of the random numbers


@dataclass(frozen=True)
class Looks:
    """How many samples there are at each look: rising, from 2 on. One look is a fixed design."""

    sizes: tuple[int, ...]

    @property
    def several(self) -> bool:
        """Whether there is more than one look."""
        return len(self.sizes) > 1

    @property
    def spent(self) -> tuple[float, ...]:
        """What of the 5 % is spent up to each look; all of it at the last."""
        from scipy.stats import norm

        z = norm.isf(ALPHA / 2)
        early = (2 * float(norm.sf(z * math.sqrt(self.sizes[-1] / n))) for n in self.sizes[:-1])
        return (*early, ALPHA)

    @property
    def levels(self) -> tuple[float, ...]:
        """The nominal two-sided level of each look."""
        return _null(self)[0]

    def level_of(self, size: int) -> float:
        """The level of the look that a sample of this size belongs to."""
        return next(a for n, a in zip(self.sizes, self.levels, strict=True) if size <= n)

    def adjusted(self, p_value: float, look: int) -> float:
        """A p-value of the `look`-th look, from 1, adjusted for all looks."""
        if len(self.sizes) == 1:
            return p_value
        levels, least = _null(self)
        below = int(np.searchsorted(least, p_value / levels[look - 1], side="right"))
        return (1 + below) / (1 + least.size)


@lru_cache(maxsize=8)
def _null(looks: Looks) -> tuple[tuple[float, ...], Floats]:
    """The levels, and without an effect the least p-value / level of the looks: draws, sorted."""
    if len(looks.sizes) == 1:
        return (ALPHA,), np.empty(0)
    p_values = _drawn(looks.sizes)
    levels: list[float] = []
    is_open = np.ones(DRAWS, dtype=bool)
    spent = 0.0
    for p, total in zip(p_values, looks.spent, strict=True):
        kept = np.sort(p[is_open])
        # At the first look p is uniform: no need to count.
        level = float(kept[int((total - spent) * DRAWS)]) if levels else total
        levels.append(max(level, float(np.finfo(float).tiny)))
        is_open &= p >= levels[-1]
        spent = total
    least = np.min([p / level for p, level in zip(p_values, levels, strict=True)], axis=0)
    return tuple(levels), np.sort(least)


def _drawn(sizes: tuple[int, ...]) -> list[Floats]:
    """Two-sided p-values [draws] of the t test at each look, on the same normal numbers."""
    from scipy.stats import t

    rng = np.random.default_rng([_BEGIN, *sizes])
    total, squares, found = np.zeros(DRAWS), np.zeros(DRAWS), []
    for n in range(1, sizes[-1] + 1):
        new = rng.standard_normal(DRAWS)
        total += new
        squares += new**2
        if n in sizes:
            spread = np.sqrt((squares - total**2 / n) / (n - 1))
            found.append(2 * t.sf(np.abs(total) / (math.sqrt(n) * spread), n - 1))
    return found
