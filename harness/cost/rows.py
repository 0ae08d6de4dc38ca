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
    "paper-fastv": "tflops_prefill_paper_fastv",
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
        figures: dict[str, Any] = {"scope": scope, "convention": convention}
        if values is not None:
            interval = stats.quantity_interval(values, clusters, seed)
            assert interval is not None  # `counted` is not empty
            figures["tflops_mean"] = interval.value
            figures |= {"tflops_ci_low": interval.low, "tflops_ci_high": interval.high}
        rows.append({**common, **figures})
    return rows


def counter_rows(
    about: Mapping[str, Any], sample: Sample, counted: Mapping[str, Mapping[str, float | None]]
) -> list[dict[str, Any]]:
    """Cost rows of one sample by other counters: counter -> scope -> TFLOP, None not counted.

    A counter sees all of n^2, so its convention is `full`; the total stays empty where a part is.
    """
    common = {**about, "unit": "FLOP", "convention": "full"}
    common |= {name: _mean([sample], column) for name, column in MEANS.items()}
    rows = []
    for counter, scopes in counted.items():
        parts = list(scopes.values())
        known = [part for part in parts if part is not None]
        total = sum(known) if len(known) == len(parts) else None
        for scope, value in {**scopes, "total": total}.items():
            rows.append({**common, "counter": counter, "scope": scope, "tflops_mean": value})
    return rows


def _series(samples: Sequence[Sample]) -> Iterator[tuple[str, str, list[float] | None]]:
    """(convention, scope, TFLOP of every sample, None where a part is not counted).

    A convention that the samples were written without, by an older version, is left out.
    """
    for convention, prefill in PREFILL.items():
        if prefill not in samples[0]:
            continue
        columns = {"llm_prefill": prefill}
        if convention in WHOLE:
            columns = {**BEFORE, **columns, **AFTER}
        series = {scope: _column(samples, name) for scope, name in columns.items()}
        if convention in WHOLE:
            parts = [part for part in series.values() if part is not None]
            whole = len(parts) == len(series)
            series["total"] = [sum(p) for p in zip(*parts, strict=True)] if whole else None
        for scope, values in series.items():
            yield convention, scope, values


def _column(samples: Sequence[Sample], name: str) -> list[float] | None:
    values = [sample.get(name) for sample in samples]
    return None if any(v in (None, "") for v in values) else [float(v) for v in values]  # type: ignore[arg-type]


def _mean(samples: Sequence[Sample], column: str) -> float | None:
    values = [float(v) for sample in samples if (v := sample.get(column)) not in (None, "")]
    return sum(values) / len(values) if values else None
