"""The order of rows: modalities apart, the same on every process, the same when resumed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from torch.utils.data import BatchSampler

from harness.train.batches import ModalitySampler

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(10, 200, 103)
IMAGES = RNG.random(103) < 0.6


def sampler(batch=4, steps=6, **more):
    return ModalitySampler(LENGTHS, IMAGES, batch, steps, seed=5, **more)


def test_every_step_has_one_modality_and_every_row_is_seen():
    order = sampler()
    for epoch in (0, 1):
        order.set_epoch(epoch)
        rows = np.asarray(list(order))
        assert len(rows) == len(order) == 103 + order.repeated
        steps = IMAGES[rows].reshape(-1, 24)
        assert (steps.all(1) | ~steps.any(1)).all()
        counts = Counter(rows.tolist())
        assert len(counts) == 103 and order.repeated < 2 * 24
    assert max(counts.values()) <= 2


def test_the_order_follows_from_seed_and_epoch_alone():
    first, second = sampler(), sampler()
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    other = ModalitySampler(LENGTHS, IMAGES, 4, 6, seed=6)
    assert list(first) != list(other)
    first.set_epoch(1)
    assert list(first) == list(second)


def test_a_step_is_the_same_set_of_rows_however_it_is_split():
    """One process with batch 24, two with 4 x 3 accumulated, six with 4: the same 24 rows."""
    whole = np.asarray(list(sampler(24, 1))).reshape(-1, 24)
    for processes, accumulation in ((2, 3), (6, 1), (1, 6)):
        shards = []
        for rank in range(processes):
            batches = BatchSampler(sampler(), 4, drop_last=False)
            shards.append(list(BatchSamplerShard(batches, processes, rank)))
        assert len({len(s) for s in shards}) == 1
        for step in range(len(whole)):
            parts = [
                row
                for shard in shards
                for batch in shard[step * accumulation : (step + 1) * accumulation]
                for row in batch
            ]
            assert sorted(parts) == sorted(whole[step])


def test_skipping_batches_goes_on_exactly_where_it_stopped():
    def shard():
        return BatchSamplerShard(BatchSampler(sampler(), 4, drop_last=False), 2, 1)

    assert list(SkipBatchSampler(shard(), 5)) == list(shard())[5:]


def test_tokens_are_dealt_evenly_to_the_micro_batches():
    totals = LENGTHS[list(sampler())].reshape(-1, 6, 4).sum(2)
    shuffled = LENGTHS[list(sampler(grouped=False))][: totals.size * 4].reshape(-1, 6, 4).sum(2)
    spread = (totals.max(1) / totals.mean(1)).mean()
    assert spread < 1.15 < (shuffled.max(1) / shuffled.mean(1)).mean()


@pytest.mark.parametrize("images", [0, 1, 103])
def test_one_modality_or_a_single_row_of_one(images):
    has_image = np.zeros(103, dtype=bool)
    has_image[:images] = True
    rows = np.asarray(list(ModalitySampler(LENGTHS, has_image, 4, 2, seed=0)))
    steps = has_image[rows].reshape(-1, 8)
    assert (steps.all(1) | ~steps.any(1)).all() and set(rows) == set(range(103))
