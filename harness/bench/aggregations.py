"""Upstream aggregations that cannot be asked about one sample alone, by the name of the function.

Most say of a single sample what it scored. These keep counts from call to call, change what they
are given, ask a judge again, or weigh samples by group; what they gave a sample is read instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Apart:
    """``score`` of one sample's value on the metric's scale, None where it has none of its own.

    ``step``: half of the last place the aggregation rounds to. ``mean``: whether the metric is the
    mean of these scores. ``none_is_zero``: None is returned in place of a 0.
    """

    score: Callable[[Mapping[str, Any]], float | None]
    step: float = 0.0
    mean: bool = True
    none_is_zero: bool = False


APART = {
    # Counts in a global that is never set back: the second call holds the first one's too.
    "ocrbench_aggregate_accuracy": Apart(lambda value: float(value["score"])),
    # A mean over abilities, whose shares of the documents differ.
    "mmstar_aggregate_results": Apart(lambda value: float(value["score"]), mean=False),
    # Takes `metadata` out of the values; no right answer at all comes back as None.
    "mathvista_aggregate_results": Apart(
        lambda value: 100.0 * bool(value["true_false"]), step=0.005, none_is_zero=True
    ),
    # Ask the judge, and leave its verdict in the values.
    "hb_aggregation_result_aAcc": Apart(lambda value: _verdict(value), step=0.00005),
    "hb_aggregation_result_qAcc": Apart(lambda value: None, mean=False),
    "hb_aggregation_result_fAcc": Apart(lambda value: None, mean=False),
}


def _verdict(value: Mapping[str, Any]) -> float | None:
    return 100.0 * value["correct"] if "correct" in value else None
