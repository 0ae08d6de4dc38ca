"""The order of rows: every batch of all processes together has text only, or images in every row.

LLaVA's `group_by_modality_length`: rows of each modality are shuffled and cut into global batches
(processes x accumulation x device batch); within one, rows are dealt by length so that every device
gets about the same number of tokens; the global batches are shuffled again.
What does not fill a global batch is filled up with repeated rows of the same modality (p-MoD's
data are prepared the same way), so no batch mixes modalities and no process runs short.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class ModalitySampler(Sampler):
    """Row numbers of one epoch: a permutation by `seed` and `epoch` alone.

    Consecutive `batch` numbers are one device's micro-batch. accelerate deals whole micro-batches
    to the processes in turn, so `devices * accumulation` of them are one optimiser step.

    Args:
        lengths: int [N], tokens of each row.
        has_image: bool [N].
        grouped: False shuffles without regard to modality and length.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        has_image: np.ndarray,
        batch: int,
        steps: int,
        seed: int,
        grouped: bool = True,
    ) -> None:
        self.lengths, self.batch, self.steps, self.seed = lengths, batch, steps, seed
        kinds = [has_image, ~has_image] if grouped else [np.ones_like(has_image)]
        self.groups = [np.flatnonzero(kind) for kind in kinds if kind.any()]
        self.grouped, self.epoch = grouped, 0

    @property
    def whole(self) -> int:
        """Rows of one optimiser step, over all processes."""
        return self.batch * self.steps

    def __len__(self) -> int:
        return sum(-(-len(group) // self.whole) for group in self.groups) * self.whole

    @property
    def repeated(self) -> int:
        """Rows shown twice (or more) in an epoch to fill the last batch of a modality."""
        return len(self) - len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        batches: list[np.ndarray] = []
        for group in self.groups:
            order = rng.permutation(group)
            missing = -len(order) % self.whole
            order = np.concatenate([order, rng.choice(group, missing, len(group) < missing)])
            batches += np.split(order, len(order) // self.whole)
        for number in rng.permutation(len(batches)):
            rows = batches[number]
            yield from (self._dealt(rows) if self.grouped else rows).tolist()

    def _dealt(self, rows: np.ndarray) -> np.ndarray:
        """The rows of one optimiser step, longest first to the micro-batch with fewest tokens."""
        rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
        chunks: list[list[int]] = [[] for _ in range(self.steps)]
        heap = [(0, number) for number in range(self.steps)]
        for row in rows.tolist():
            total, number = heapq.heappop(heap)
            chunks[number].append(row)
            if len(chunks[number]) < self.batch:
                heapq.heappush(heap, (total + int(self.lengths[row]), number))
        return np.asarray([row for chunk in chunks for row in chunk])
