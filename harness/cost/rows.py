"""Rows of cost.csv from a cell's samples. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness import stats

# convention -> column of the samples file that holds the prefill under it
PREFILL = {
    "causal": "tflops_prefill",
    "full": "tflops_prefill_full",
    "paper-pmod": "tflops_prefill_paper_pmod",
    "paper-gamma": "tflops_prefill_paper_gamma",
}
WHOLE = ("causal", "full")  # conventions that cover every scope; the papers' know prefill only
# The tower's attention is never causal and a decode step sees all entries: same in both.
BEFORE = {"vision": "tflops_vision", "projector": "tflops_projector"}
AFTER = {"llm_decode": "tflops_decode"}
MEANS = {
    "kv_ratio_vision": "kv_ratio_vision",
    "kv_ratio_all": "kv_ratio",
    "kv_mib": "kv_mib",
    "skip_mod_layers": "skip_mod_layers",
    "skip_all_layers": "skip_all_layers",
}

Sample = Mapping[str, Any]  # numbers, or their text as read back from a CSV


def cost_rows(about: Mapping[str, Any], samples: Sequence[Sample], seed: int) -> list[dict]:
    """All cost rows of one cell; `about` are its identifying columns. [] without routing records.

    TFLOP are means over samples with a bootstrap interval that resamples images.
    """
    counted = [sample for sample in samples if sample.get("tflops_prefill") not in (None, "")]
    if not counted:
        return []
    common = {**about, "unit": "FLOP", "counter": "closed_form"}
    common |= {name: _mean(counted, column) for name, column in MEANS.items()}
    clusters = [sample.get("image_id") for sample in counted]
    rows = []
    for convention, scope, values in _series(counted):
        interval = stats.quantity_interval(values, clusters, seed)
        assert interval is not None  # `counted` is not empty
        figures = {
            "scope": scope,
            "convention": convention,
            "tflops_mean": interval.value,
            "tflops_ci_low": interval.low,
            "tflops_ci_high": interval.high,
        }
        rows.append({**common, **figures})
    return rows


def _series(samples: Sequence[Sample]) -> Iterator[tuple[str, str, list[float]]]:
    """(convention, scope, TFLOP of every sample)."""
    for convention, prefill in PREFILL.items():
        columns = {"llm_prefill": prefill}
        if convention in WHOLE:
            columns = {**BEFORE, **columns, **AFTER}
        series = {scope: [float(s[name]) for s in samples] for scope, name in columns.items()}
        if convention in WHOLE:
            series["total"] = [sum(parts) for parts in zip(*series.values(), strict=True)]
        for scope, values in series.items():
            yield convention, scope, values


def _mean(samples: Sequence[Sample], column: str) -> float | None:
    values = [float(v) for sample in samples if (v := sample.get(column)) not in (None, "")]
    return sum(values) / len(values) if values else None
