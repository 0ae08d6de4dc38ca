"""One document under its methods as the scripts of the pages take it (`templates/overlay.js`)."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from reports.record import token_states
from reports.shown import Shown, question


def entry(group: Sequence[Shown]) -> dict[str, Any]:
    """Records with the same prompt, JSON throughout; the first one's words stand for all."""
    first = group[0]
    return {
        "bench": first.bench,
        "doc": first.doc_id,
        "question": question(first),
        "target": str(first.about.get("target", "")),
        "images": [str(name) for name in first.about.get("images") or []],
        "kinds": "".join(map(str, first.record.kinds.tolist())),
        "words": [str(w) for w in first.about.get("words") or []],
        "evidence": first.record.evidence,
        "grids": [] if first.is_mixed else first.record.grid,
        "methods": [_method(s) for s in group],
    }


def _method(sample: Shown) -> dict[str, Any]:
    score = sample.about.get("score")
    finite = (
        isinstance(score, (int, float))
        and not isinstance(score, bool)
        and -math.inf < score < math.inf  # also for a whole number beyond any float
    )  # JSON knows no other number
    return {
        "name": sample.series.short,
        "label": sample.series.label,
        "answer": str(sample.about.get("prediction", "")),
        "score": score if finite else None,
        "layers": sample.record.layers,
        "states": _packed(token_states(sample.record)),
    }


def _packed(states: Any) -> str:
    """Two bits a token, four tokens a byte, the first in the lowest bits; base64."""
    flat = states.ravel()
    flat = np.concatenate([flat, np.zeros(-len(flat) % 4, np.uint8)]).reshape(-1, 4)
    whole = flat[:, 0] | flat[:, 1] << 2 | flat[:, 2] << 4 | flat[:, 3] << 6
    return base64.b64encode(whole.astype(np.uint8).tobytes()).decode()
