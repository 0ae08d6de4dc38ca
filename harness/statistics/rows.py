"""Rows of one bench on the same documents, resampled together. Torch-free, vectorised.

Every row is summed image by image once, and once in every resample; a pair is then a subtraction.
So that all pairs of a bench share one bootstrap, and a new row leaves those of the others alone.
Two invented documents stand in every resample as in `statistics.stats`: one won, one lost.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from harness.statistics import stats
from harness.statistics.draws import RESAMPLES, draws
from harness.statistics.joint import times_drawn
from harness.statistics.signflip import exact
from harness.statistics.stats import ALPHA, Floats, Interval


class Rows:
    """Scores [documents] by name of the row; resamples of whole images drawn by `key`.

    With the key (seed, images + 2) they are those of `stats.paired`.
    """

    def __init__(self, images: Sequence[Hashable] | stats.Groups, *key: int) -> None:
        self.groups = stats.cluster_ids(images, len(images))
        self.sizes = np.bincount(self.groups).astype(np.float64)
        self.n, self.images = len(images), self.sizes.size
        self.key = key
        self.scores: dict[str, Floats] = {}
        self.sums: dict[str, Floats] = {}
        """Of every image [images]."""
        self._resampled: dict[str, Floats] = {}
        self._invented = np.zeros((RESAMPLES, 2))  # documents of each of the two
        self._documents = np.ones(RESAMPLES)

    def add(self, rows: Mapping[str, Sequence[float] | Floats]) -> None:
        """Take up those rows that are not here yet."""
        new = {name: np.asarray(row, np.float64) for name, row in rows.items()
               if name not in self.scores}  # fmt: skip
        if not new:
            return
        self.scores |= new
        self.sums |= {name: stats.cluster_sums(self.groups, row) for name, row in new.items()}
        if self.images < 2:
            return  # nothing to draw from
        sums = np.column_stack([self.sums[name] for name in new])
        size, count = self.n / self.images, self.images + 2
        found = np.empty((RESAMPLES, len(new)))
        for lines, drawn in draws(count, *self.key):
            times = times_drawn(drawn)
            found[lines] = times[:, :-2] @ sums
            self._invented[lines] = times[:, -2:] * size
            self._documents[lines] = times[:, :-2] @ self.sizes + size * times[:, -2:].sum(1)
        self._resampled |= dict(zip(new, found.T, strict=True))

    def top(self, *names: str) -> float:
        """The best score of the scale that these rows come from, see `stats.top_score`."""
        return max(stats.top_score(self.scores[name]) for name in names)

    def means(self, name: str, first: float = 0.0, second: float = 0.0) -> Floats | None:
        """A row's mean in every resample; `first`, `second`: what the invented documents score.

        None where all documents show one image.
        """
        if self.images < 2:
            return None
        return (self._resampled[name] + self._invented @ [first, second]) / self._documents

    def differences(self, a: str, others: Sequence[str]) -> list[stats.Paired]:
        """`a` minus each of `others` with interval and p-value, as `stats.paired` has them."""
        tops = np.array([self.top(a, b) for b in others])
        deltas = [float((self.scores[a] - self.scores[b]).mean()) for b in others]
        ours = self.means(a)
        bounds: list[tuple[float | None, float | None]] = [(None, None)] * len(others)
        if ours is not None and others:
            theirs = np.column_stack([self.means(b) for b in others])  # type: ignore[misc]
            luck = (self._invented @ [-1.0, 1.0]) / self._documents
            bounds = [
                around(delta, column)
                for delta, column in zip(
                    deltas, (ours[:, None] - theirs + luck[:, None] * tops).T, strict=True
                )
            ]
        return [
            stats.Paired(
                self.n,
                float(self.scores[b].mean()),
                Interval(delta, *ends),
                exact(self.sums[a] - self.sums[b], float(top)),
            )
            for b, delta, ends, top in zip(others, deltas, bounds, tops, strict=True)
        ]


def around(value: float, resampled: Floats) -> tuple[float, float]:
    """The percentile interval, which may miss the value by a rounding error where all are equal."""
    low, high = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2])
    return min(float(low), value), max(float(high), value)
