"""Rows of cost.csv from a cell's samples. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.statistics import stats
from harness.store.columns import COUNTED, COUNTERS
from harness.store.samples import Samples

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
    about: Mapping[str, Any], samples: Sequence[Sample] | Samples, seed: int, batch: int = 1
) -> list[dict]:
    """All cost rows of one cell; `about` are its identifying columns. [] without routing records.

    TFLOP are means over samples, of one sample, with a bootstrap interval that resamples images;
    cache sizes are those of `batch` such samples together.
    """
    every = samples if isinstance(samples, Samples) else Samples.of(samples)
    counted = every.where(~np.isnan(every.numbers("tflops_prefill")))
    if not counted.count:
        return []
    common = {**about, "unit": "FLOP"}
    common |= {name: _mean(counted, column) for name, column in MEANS.items()}
    for name in CACHES:
        mean = _mean(counted, name)
        common[name] = None if mean is None else batch * mean
    common["kv_batch"] = batch
    series = list(_series(counted))
    known = {v.tobytes(): v for *_, v in series if v is not None}  # counters agree: once each
    images = counted.clusters()
    drawn = stats.quantity_intervals([*known.values()], images, seed)
    figures = {key: _figures(one) for key, one in zip(known, drawn, strict=True)}
    return [
        {
            **common,
            "counter": counter,
            "convention": convention,
            "scope": scope,
            **(figures[values.tobytes()] if values is not None else {}),
        }
        for counter, convention, scope, values in series
    ]


def _figures(interval: stats.Interval) -> dict[str, Any]:
    return {
        "tflops_mean": interval.value,
        "tflops_ci_low": interval.low,
        "tflops_ci_high": interval.high,
    }


def _series(samples: Samples) -> Iterator[tuple[str, str, str, stats.Floats | None]]:
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
    samples: Samples, columns: Mapping[str, str], whole: bool
) -> Iterator[tuple[str, stats.Floats | None]]:
    """(scope, values) of the scopes there are, with the `whole`'s total behind them.

    The total stays empty where a part is.
    """
    if np.isnan(samples.numbers(columns["llm_prefill"])[0]):
        return
    series = {s: _column(samples, name) for s, name in columns.items() if name in samples}
    if whole:
        parts = [values for scope, values in series.items() if scope != OF_WHICH]
        known = [values for values in parts if values is not None]
        complete = len(known) == len(parts)
        series["total"] = sum(known[1:], known[0]) if complete else None
    yield from series.items()


def _column(samples: Samples, name: str) -> stats.Floats | None:
    values = samples.numbers(name)
    return None if np.isnan(values).any() else values


def _mean(samples: Samples, column: str) -> float | None:
    values = samples.known(column).tolist()
    return sum(values) / len(values) if values else None
