"""Rows of accuracy.csv: metrics with intervals, differences to dense, verdicts. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.readouts.controls import positions_of
from harness.statistics import joint, stats
from harness.statistics.changes import changes, same_answers
from harness.statistics.power import detectable, smallest_n
from harness.store import columns
from methods import BLIND, REFERENCE

SAMPLE_MEAN = " (mean of samples)"


@dataclass
class CellData:
    """What the tables need of a finished cell."""

    row: dict[str, str]  # its row of cells.csv
    n: int
    images: dict[str, str]  # doc_id -> image id, "" when the bench has none
    metrics: list[dict[str, Any]]
    routing: list[dict[str, Any]]
    cost: list[dict[str, Any]]
    evidence: list[dict[str, Any]] = field(default_factory=list)
    prefill: dict[str, float] = field(default_factory=dict)  # doc_id -> TFLOP, causal
    budget: dict[str, Any] = field(default_factory=dict)  # columns of accuracy.csv
    answers: dict[str, str] = field(default_factory=dict)  # doc_id -> what was answered

    @property
    def about(self) -> dict[str, str]:
        """The identifying columns every derived file starts with."""
        return {name: self.row.get(name, "") for name in columns.CELL}

    @property
    def kv(self) -> float | None:
        """Mean share of the image's KV cache, as cost.csv has it; None where nobody recorded it."""
        return next((row["kv_ratio_vision"] for row in self.cost), None)


@dataclass
class MetricRow:
    """A row of accuracy.csv before the correction for many comparisons."""

    row: dict[str, Any]
    paired: stats.Paired | None = None
    margin: float = 0.0
    higher_is_better: bool = True
    in_family: bool = False  # the one test of its bench


@dataclass(frozen=True)
class Against:
    """What a cell is compared with, and how."""

    dense: CellData | None
    blind: CellData | None
    seed: int
    margin: float = stats.MARGIN_POINTS


def metric_rows(cell: CellData, metric: Mapping[str, Any], against: Against) -> Iterator[MetricRow]:
    """One metric of one cell, with its interval and its difference to dense.

    Intervals exist only where the metric is the plain mean of per-sample scores. Where the
    headline metric is something else (F1, MME's pair score), the mean of its samples' plain
    scores follows as a row of its own and is what the tests speak about.
    """
    other = _same_metric(against.dense, metric)
    scores, value = metric.get("scores") or {}, metric["value"]
    row: dict[str, Any] = {
        **cell.about,
        "task": metric["task"],
        "metric": metric["metric"],
        "value": value,
        "n": len(scores) or cell.n,
        "headline": int(bool(metric["headline"])),
        "positions": positions_of(cell.row),
        **cell.budget,
    }
    if metric["is_mean"] and scores:
        yield _tested(row, metric, other, cell, against)
        return
    if other is not None and against.dense is not None:
        row["dense_value"] = other["value"]
        if cell.row["method"] != REFERENCE:
            row["delta"] = value - other["value"]
            row["same_answers"] = same_answers(cell.answers, against.dense.answers, cell.answers)
    yield MetricRow(row)
    if scores:
        value = sum(scores.values()) / len(scores)
        name = f"{metric['metric']}{SAMPLE_MEAN}"
        mean = {**row, "metric": name, "value": value, "headline": 0}
        yield _tested(mean, metric, other, cell, against)


def _tested(
    row: dict[str, Any],
    metric: Mapping[str, Any],
    other: Mapping[str, Any] | None,
    cell: CellData,
    against: Against,
) -> MetricRow:
    """`row`, a mean of scores, with interval, paired difference and p-value where there are any."""
    ours: Mapping[str, float] = metric["scores"]
    interval = stats.mean_interval(list(ours.values()), _images(cell, ours), against.seed)
    assert interval is not None  # there are scores
    row |= {"ci_low": interval.low, "ci_high": interval.high}
    theirs = (other.get("scores") or {}) if other is not None else {}
    if not theirs or against.dense is None:
        return MetricRow(row)
    row["dense_value"] = sum(theirs.values()) / len(theirs)
    shared = [doc for doc in ours if doc in theirs]
    if cell.row["method"] == REFERENCE or not shared:
        return MetricRow(row)
    scores = [ours[doc] for doc in shared], [theirs[doc] for doc in shared]
    images = _images(cell, shared)
    paired = stats.paired(*scores, images, against.seed)
    assert paired is not None  # there are shared documents
    better = bool(metric["higher_is_better"])
    margin = stats.margin_for([*ours.values(), *theirs.values()], against.margin)
    row |= {
        "delta": paired.delta.value,
        "delta_ci_low": paired.delta.low,
        "delta_ci_high": paired.delta.high,
        "p_value": paired.p_value,
        **changes(*scores, better).row(),
        "detectable": detectable(*scores, images),
        "margin": margin,
        "same_answers": same_answers(cell.answers, against.dense.answers, shared),
        "smallest_n": smallest_n(against.margin / 100, images),
        **_skill(metric, other, cell, against),
    }
    return MetricRow(
        row,
        paired,
        margin=margin,
        higher_is_better=better,
        in_family=bool(metric["headline"]),
    )


def _skill(
    metric: Mapping[str, Any],
    dense: Mapping[str, Any] | None,
    cell: CellData,
    against: Against,
) -> dict[str, Any]:
    """The share of dense's lead over blind that a bench's main metric keeps."""
    floor = _same_metric(against.blind, metric)
    if dense is None or floor is None or not metric["headline"] or cell.row["method"] == BLIND:
        return {}
    rows = [one.get("scores") or {} for one in (metric, dense, floor)]
    shared = [doc for doc in rows[0] if doc in rows[1] and doc in rows[2]]
    sign = 1.0 if metric["higher_is_better"] else -1.0
    values = [[sign * row[doc] for doc in shared] for row in rows]
    kept = joint.skill(values[0], values[1], values[2], _images(cell, shared), against.seed)
    if kept is None:
        return {}
    return {"skill": kept.value, "skill_ci_low": kept.low, "skill_ci_high": kept.high}


def _images(cell: CellData, docs: Iterable[str]) -> list[str | None]:
    return [cell.images.get(doc) for doc in docs]


def adjusted(rows: Sequence[MetricRow]) -> list[dict[str, Any]]:
    """The rows with Holm over all methods x benches (one test a bench) and the verdicts."""
    family = [one for one in rows if one.in_family and one.paired is not None]
    p_values = stats.holm([one.paired.p_value for one in family if one.paired])
    extra: dict[int, dict[str, Any]] = {}
    for one, p_value in zip(family, p_values, strict=True):
        assert one.paired is not None  # by the choice of the family
        gain = one.paired.delta if one.higher_is_better else -one.paired.delta
        word = stats.verdict(gain, p_value, one.margin)
        extra[id(one)] = {"p_adjusted": p_value}
        if one.row.get("budget_within") != 0:  # else it is no row at the budget asked for
            extra[id(one)]["verdict"] = word
    return [{**one.row, **extra.get(id(one), {})} for one in rows]


def _same_metric(dense: CellData | None, metric: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for other in dense.metrics if dense else ():
        if (other["task"], other["metric"]) == (metric["task"], metric["metric"]):
            return other
    return None
