"""Which answers changed against dense on the same documents, and what that many can show.

Changes            documents whose score fell or rose; for 0/1 scores that is right to wrong and
                   wrong to right. Two rows of equal accuracy can still differ in many answers.
Detectable effect  the smallest true difference that the two-sided paired test at 5 % (before
                   Holm) finds with 80 % power, at this n and the discordance seen: Connor's formula
                   (Biometrics 43, 1987), n d^2 = (z_a sqrt(v) + z_b sqrt(v - d^2))^2, where v is
                   the share of documents that differ. For graded scores v is the mean square of
                   the differences; images with several questions enter by their summed difference.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from harness import stats

POWER = 0.8


@dataclass(frozen=True)
class Changes:
    """Documents of `n` whose score fell or rose against dense's."""

    n: int
    right_to_wrong: int
    wrong_to_right: int

    @property
    def discordance(self) -> float:
        """Share of the documents that differ."""
        return (self.right_to_wrong + self.wrong_to_right) / self.n


def changes(
    scores: Sequence[float], dense: Sequence[float], higher_is_better: bool = True
) -> Changes:
    """Count the changes of at least one document, both rows in the same order."""
    difference = np.asarray(scores, dtype=np.float64) - np.asarray(dense, dtype=np.float64)
    if not higher_is_better:
        difference = -difference
    return Changes(difference.size, int((difference < 0).sum()), int((difference > 0).sum()))


def detectable(
    scores: Sequence[float],
    dense: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
) -> float | None:
    """The detectable effect on the metric's own scale; None where no difference could be found.

    A 0/1 row cannot lie further from dense than it differs from it, so an effect larger than the
    discordance seen is one with a discordance as large as itself.
    """
    ours, theirs = (np.asarray(row, dtype=np.float64) for row in (scores, dense))
    top = max(stats.top_score(ours), stats.top_score(theirs))
    difference = (ours - theirs) / top
    sums = stats.cluster_sums(stats.cluster_ids(clusters, ours.size), difference)
    spread = float((sums**2).sum()) / ours.size
    effect = _connor(ours.size, spread)
    binary = stats.is_binary(ours / top) and stats.is_binary(theirs / top)
    if binary and (spread == 0.0 or effect > spread):
        effect = _one_sided(ours.size)
    return effect * top if 0 < effect < 1 else None


def _quantiles() -> tuple[float, float]:
    from scipy.special import ndtri

    return float(ndtri(1 - stats.ALPHA / 2)), float(ndtri(POWER))


def _connor(n: int, spread: float) -> float:
    """Connor's formula solved for the effect (a quadratic equation)."""
    z_a, z_b = _quantiles()
    a = z_a * math.sqrt(spread)
    leading = n + z_b**2
    root = a**2 * n - leading * (a**2 - z_b**2 * spread)
    return (a * math.sqrt(n) + math.sqrt(max(0.0, root))) / leading


def _one_sided(n: int) -> float:
    """Connor's formula where every discordant document is lost: the spread is the effect."""
    z_a, z_b = _quantiles()
    # sqrt(n d) = z_a + z_b sqrt(1 - d), a quadratic equation in sqrt(1 - d).
    q, p, c = n + z_b**2, 2 * z_a * z_b, z_a**2 - n
    inside = p**2 - 4 * q * c
    root = (-p + math.sqrt(max(0.0, inside))) / (2 * q)
    return 1.0 - max(0.0, root) ** 2
