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

from harness.store.curves import TOKENS, asked
from methods.budget import met

Sample = Mapping[str, Any]


def budget_columns(params: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """The four budget columns of a cell; {} without a budget."""
    wanted = asked(params)
    if wanted is None:
        return {}
    unit, value = wanted
    row: dict[str, Any] = {"budget_asked": value, "budget_unit": unit}
    images = [_image(sample) for sample in samples if sample.get("kv_ratio_vision")]
    if not images:
        return row
    size = sum(tokens for tokens, _ in images) / len(images)
    kept = sum(tokens * share for tokens, share in images) / len(images)
    share = sum(share for _, share in images) / len(images)
    got, scale = (kept, 1.0) if unit == TOKENS else (share, size)
    return row | {"budget_met": got, "budget_within": int(met(value * scale, got * scale))}


def _image(sample: Sample) -> tuple[float, float]:
    """(Tokens of one of its images, the share of them that layers processed) of a sample."""
    tokens = float(sample["n_image"]) / max(1, int(sample.get("n_images") or 1))
    return tokens, float(sample["kv_ratio_vision"])
