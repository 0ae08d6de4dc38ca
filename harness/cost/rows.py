"""Rows of cost.csv from a cell's samples. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.statistics import stats
from harness.store.columns import COUNTED, COUNTERS

# convention -> column of the samples file that holds the prefill under it
PREFILL = {
    "causal": "tflops_prefill",
    "full": "tflops_prefill_full",
    "paper-pmod": "tflops_prefill_paper_pmod",
    "paper-gamma": "tflops_prefill_paper_gamma",
    "paper-fastv": "tflops_prefill_paper_fastv",
}
WHOLE = ("causal", "full")  # conventions that cover every scope; the papers' know prefill only
OF_WHICH = "lm_head"  # stands in llm_prefill and llm_decode already, so no total counts it again
MEANS = {
    "kv_ratio_vision": "kv_ratio_vision",
    "kv_ratio_all": "kv_ratio",
    "skip_mod_layers": "skip_mod_layers",
    "skip_all_layers": "skip_all_layers",
}
CACHES = ("kv_mib", "kv_mib_end")  # of a sample, so a batch has as many times that

Sample = Mapping[str, Any]  # numbers, or their text as read back from a CSV


def cost_rows(
    about: Mapping[str, Any], samples: Sequence[Sample], seed: int, batch: int = 1
) -> list[dict]:
    """All cost rows of one cell; `about` are its identifying columns. [] without routing records.

    TFLOP are means over samples, of one sample, with a bootstrap interval that resamples images;
    cache sizes are those of `batch` such samples together.
    """
    counted = [sample for sample in samples if sample.get("tflops_prefill") not in (None, "")]
    if not counted:
        return []
    common = {**about, "unit": "FLOP"}
    common |= {name: _mean(counted, column) for name, column in MEANS.items()}
    for name in CACHES:
        mean = _mean(counted, name)
        common[name] = None if mean is None else batch * mean
    common["kv_batch"] = batch
    clusters = [sample.get("image_id") for sample in counted]
    known: dict[tuple[float, ...], dict[str, Any]] = {}  # counters agree, so series come again
    rows = []
    for counter, convention, scope, values in _series(counted):
        figures = {"counter": counter, "convention": convention, "scope": scope}
        if values is not None:
            key = tuple(values)
            if key not in known:
                known[key] = _figures(values, clusters, seed)
            figures |= known[key]
        rows.append({**common, **figures})
    return rows


def _figures(values: list[float], clusters: list[Any], seed: int) -> dict[str, Any]:
    interval = stats.quantity_interval(values, clusters, seed)
    assert interval is not None  # there are samples
    return {
        "tflops_mean": interval.value,
        "tflops_ci_low": interval.low,
        "tflops_ci_high": interval.high,
    }


def _series(samples: Sequence[Sample]) -> Iterator[tuple[str, str, str, list[float] | None]]:
    """(counter, convention, scope, TFLOP of every sample, None where a part is not counted).

    What the samples were written without, by an older version, is left out.
    """
    for convention, prefill in PREFILL.items():
        # The tower's attention is never causal and a decode step sees all entries, so the other
        # scopes are the same in both conventions.
        columns = {**COUNTED, "llm_prefill": prefill}
        if convention not in WHOLE:
            columns = {"llm_prefill": prefill}
        for scope, values in _scopes(samples, columns, convention in WHOLE):
            yield "closed_form", convention, scope, values
    for counter in COUNTERS:  # a counter sees all of n^2
        columns = {scope: f"{column}_{counter}" for scope, column in COUNTED.items()}
        for scope, values in _scopes(samples, columns, whole=True):
            yield counter, "full", scope, values


def _scopes(
    samples: Sequence[Sample], columns: Mapping[str, str], whole: bool
) -> Iterator[tuple[str, list[float] | None]]:
    """(scope, values) of the scopes there are, with the `whole`'s total behind them.

    The total stays empty where a part is.
    """
    if samples[0].get(columns["llm_prefill"]) in (None, ""):
        return
    series = {s: _column(samples, name) for s, name in columns.items() if name in samples[0]}
    if whole:
        parts = [values for scope, values in series.items() if scope != OF_WHICH]
        known = [values for values in parts if values is not None]
        complete = len(known) == len(parts)
        series["total"] = [sum(p) for p in zip(*known, strict=True)] if complete else None
    yield from series.items()


def _column(samples: Sequence[Sample], name: str) -> list[float] | None:
    values = [sample.get(name) for sample in samples]
    return None if any(v in (None, "") for v in values) else [float(v) for v in values]  # type: ignore[arg-type]


def _mean(samples: Sequence[Sample], column: str) -> float | None:
    values = [float(v) for sample in samples if (v := sample.get(column)) not in (None, "")]
    return sum(values) / len(values) if values else None
