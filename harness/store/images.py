"""What stays of each of several images of a prompt: columns of the samples, and images.csv.

Torch-free. Prompts with one image or none have no such columns: `n_image` says all there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.store.record import RoutingRecord
from harness.store.samples import Samples

TOKENS, KEPT = "image_tokens", "image_kept"
ALL = "all"


def of_images(record: RoutingRecord) -> dict[str, str]:
    """The columns `image_tokens` and `image_kept` of a sample; {} where it has not several."""
    found = record.images if record.n_images > 1 else []
    if len(found) < 2:
        return {}
    kept = [record.route[:, own] == own[None, :] for own in found]
    means = [float(one.sum(axis=1).mean()) for one in kept]
    return {
        TOKENS: " ".join(str(len(own)) for own in found),
        KEPT: " ".join(f"{mean:.6g}" for mean in means),
    }


def image_rows(samples: Samples) -> list[dict[str, Any]]:
    """Rows of images.csv without the cell; [] without a prompt of several images."""
    pairs = [(samples.texts(name).to_pylist()) for name in (TOKENS, KEPT)]
    seen = [(_numbers(a), _numbers(b)) for a, b in zip(*pairs, strict=True) if a]
    most = max((len(tokens) for tokens, _ in seen), default=0)
    parts: list[tuple[str, Sequence[tuple[float, float]]]] = [
        (str(i + 1), [(t[i], k[i]) for t, k in seen if len(t) > i]) for i in range(most)
    ]
    parts.append((ALL, [(sum(t), sum(k)) for t, k in seen]))
    return [_row(name, values) for name, values in parts if values]


def _row(name: str, values: Sequence[tuple[float, float]]) -> dict[str, Any]:
    tokens, kept = np.array(values, np.float64).mean(axis=0).tolist()
    share = kept / tokens if tokens else None
    return {"image": name, "n": len(values), "tokens": tokens, "kept": kept, "kept_fraction": share}


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split()]
