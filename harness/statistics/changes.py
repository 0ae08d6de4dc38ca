"""Which answers changed against dense on the same documents.

For 0/1 scores a fall is right to wrong, a rise wrong to right. Two rows of equal accuracy can still
differ in many answers. What that many changes can show is `harness.statistics.power`'s subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics.stats import Floats


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

    def row(self) -> dict[str, float]:
        """Its columns of accuracy.csv."""
        return {
            "n_paired": self.n,
            "right_to_wrong": self.right_to_wrong,
            "wrong_to_right": self.wrong_to_right,
            "right_to_wrong_share": self.right_to_wrong / self.n,
            "wrong_to_right_share": self.wrong_to_right / self.n,
        }


def changes(
    scores: Sequence[float] | Floats, dense: Sequence[float] | Floats, higher_is_better: bool = True
) -> Changes:
    """Count the changes of at least one document, both rows in the same order."""
    difference = np.asarray(scores, dtype=np.float64) - np.asarray(dense, dtype=np.float64)
    if not higher_is_better:
        difference = -difference
    return Changes(difference.size, int((difference < 0).sum()), int((difference > 0).sum()))
