"""Evidence recall: which share of the answer-bearing patches a layer still processes. Torch-free.

A patch bears the answer when its pixels overlap one of the sample's evidence boxes. Read from the
routing record alone: a patch counts at a layer when that layer processes it in its own slot; one
that was merged into another slot is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.statistics.stats import mean_intervals
from harness.store.record import RoutingRecord
from reports.geometry import overlapping

RIGHT = 0.5  # a score from here on is a right answer, on a scale from 0 to 1
ALL = "all"
LAYER, MEAN = "layer", "mean"


def recall(record: RoutingRecord) -> dict[str, Any] | None:
    """{"patches": count, "kept": [L], "merged": [L]}; None without boxes that meet a patch."""
    patches = overlapping(record.grid, record.evidence)
    if not patches.size:
        return None
    route = record.route[:, patches]
    kept = (route == patches[None, :]).sum(1)
    merged = (route >= 0).sum(1) - kept
    return {"patches": len(patches), "kept": kept.tolist(), "merged": merged.tolist()}


def counts(records: Iterable[tuple[str, RoutingRecord]]) -> list[dict[str, Any]]:
    """What is stored of the samples of a cell (name and record) that have evidence."""
    found = [(doc_id, recall(record)) for doc_id, record in records]
    return [{"doc_id": doc_id, **count} for doc_id, count in found if count]


def evidence_table(
    counts: Sequence[Mapping[str, Any]],
    scores: Mapping[str, float | None],
    images: Mapping[str, str],
    seed: int,
    split: bool = True,
) -> list[dict[str, Any]]:
    """Rows of ``evidence.csv`` without the cell; ``scores`` and ``images`` are by document.

    Recall is the mean over samples, each counting the same, with an interval that draws images.
    ``split``: also by right and wrong answers; left out where a score is not on a scale of 0 to 1.
    """
    parts = {ALL: list(counts)}
    scored = [(c, score) for c in counts if (score := scores.get(c["doc_id"])) is not None]
    if split and all(0 <= score <= 1 for _, score in scored):
        parts["right"] = [c for c, score in scored if score >= RIGHT]
        parts["wrong"] = [c for c, score in scored if score < RIGHT]
    return [
        row
        for answered, part in parts.items()
        if part
        for row in _rows(part, answered, [images.get(c["doc_id"], "") for c in part], seed)
    ]


def _rows(
    counts: list[Mapping[str, Any]], answered: str, images: list[str], seed: int
) -> list[dict[str, Any]]:
    patches = np.array([c["patches"] for c in counts], np.float64)[:, None]
    shares = np.array([c["kept"] for c in counts], np.float64) / patches
    merged = np.array([c["merged"] for c in counts], np.float64) / patches
    intervals = mean_intervals(np.column_stack([shares, shares.mean(1)]), images, seed)
    away = [*merged.mean(0), merged.mean()]
    depth = shares.shape[1]
    return [
        {
            "scope": LAYER if column < depth else MEAN,
            "layer": column if column < depth else None,
            "answered": answered,
            "n": len(counts),
            "recall": interval.value,
            "ci_low": interval.low,
            "ci_high": interval.high,
            "merged": float(away[column]),
        }
        for column, interval in enumerate(intervals)
    ]


def evidence_rows(
    counts: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    images: Mapping[str, str],
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of evidence.csv of one cell, by the scores of its headline metric."""
    headline = next((m for m in metrics if m["headline"]), {})
    scores = headline.get("scores") or {}
    return evidence_table(counts, scores, images, seed, bool(headline.get("higher_is_better")))
