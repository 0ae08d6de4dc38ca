"""What budget a cell was asked for and what its samples kept: columns of accuracy.csv. Torch-free.

A budget is the parameter `tokens` (of one image), `ratio` or `kv` (shares) of a method that takes
one. What was met is the mean over samples of the image tokens (or of their share) that the layers
processed, a mean over layers, as the routing records have it. It counts as met within one token or
2 % (`methods.budget.met`), whichever is more; shares are turned into tokens of the samples' images
for that. A row that missed its budget gets no verdict: it is another comparison than was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.readouts.documents import mean
from harness.store.curves import TOKENS, asked
from harness.store.samples import Samples
from methods.budget import met

Sample = Mapping[str, Any]


def budget_columns(params: str, samples: Sequence[Sample] | Samples) -> dict[str, Any]:
    """The four budget columns of a cell; {} without a budget."""
    wanted = asked(params)
    if wanted is None:
        return {}
    unit, value = wanted
    row: dict[str, Any] = {"budget_asked": value, "budget_unit": unit}
    every = samples if isinstance(samples, Samples) else Samples.of(samples)
    seen = every.where(~np.isnan(every.numbers("kv_ratio_vision")))
    if not seen.count:
        return row
    shares = seen.numbers("kv_ratio_vision")
    tokens = seen.numbers("n_image") / np.fmax(1.0, seen.numbers("n_images"))  # of one image
    size, kept, share = mean(tokens), mean(tokens * shares), mean(shares)
    got, scale = (kept, 1.0) if unit == TOKENS else (share, size)
    return row | {"budget_met": got, "budget_within": int(met(value * scale, got * scale))}
