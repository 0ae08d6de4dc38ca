"""Rows of accuracy.csv: metrics with intervals, differences to dense, verdicts. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from harness.readouts.controls import positions_of
from harness.readouts.documents import Column, Documents, Library, Texts, mean, numbers
from harness.statistics import joint, stats
from harness.statistics.changes import changes
from harness.statistics.power import detectable, smallest_n
from harness.store import columns
from harness.store.csvfile import cell_text, csv_lines
from harness.store.tables import SOMETIMES
from methods import BLIND, REFERENCE

SAMPLE_MEAN = " (mean of samples)"


@dataclass
class CellData:
    """What the tables need of a finished cell."""

    row: dict[str, str]  # its row of cells.csv
    docs: Documents  # that it answered
    metrics: list[dict[str, Any]]  # their scores as a Column
    routing: list[dict[str, Any]]
    cost: list[dict[str, Any]]
    evidence: list[dict[str, Any]]
    prefill: Column  # TFLOP, causal
    answers: Texts
    budget: dict[str, Any] = field(default_factory=dict)  # columns of accuracy.csv
    images: list[dict[str, Any]] = field(default_factory=list)  # rows of images.csv

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

    @cached_property
    def fields(self) -> list[str]:
        """Its line in the file, without what the correction adds."""
        return list(*csv_lines(columns.ACCURACY, [self.row], header=False))


@dataclass(frozen=True)
class Against:
    """What a cell is compared with, and how."""

    dense: CellData | None
    blind: CellData | None
    seed: int
    margin: float = stats.MARGIN_POINTS
    library: Library = field(default_factory=Library)


def metric_rows(cell: CellData, metric: Mapping[str, Any], against: Against) -> Iterator[MetricRow]:
    """One metric of one cell, with its interval and its difference to dense.

    Intervals exist only where the metric is the plain mean of per-sample scores. Where the
    headline metric is something else (F1, MME's pair score), the mean of its samples' plain
    scores follows as a row of its own and is what the tests speak about.
    """
    other = _same_metric(against.dense, metric)
    scores: Column = metric["scores"]
    value = metric["value"]
    row: dict[str, Any] = {
        **cell.about,
        "task": metric["task"],
        "metric": metric["metric"],
        "value": value,
        "n": len(scores) or len(cell.docs),
        "headline": int(bool(metric["headline"])),
        "positions": positions_of(cell.row),
        "protocol": cell.row.get("protocol", ""),
        **{name: metric.get(name, "") for name in SOMETIMES},
        **cell.budget,
    }
    if value is None:  # whoever scores it has not yet
        yield MetricRow(row)
        return
    if metric["is_mean"] and scores:
        yield _tested(row, metric, other, cell, against)
        return
    if other is not None and against.dense is not None:
        row["dense_value"] = other["value"]
        if cell.row["method"] != REFERENCE:
            row["delta"] = value - other["value"]
            row["same_answers"] = cell.answers.same(against.dense.answers, cell.docs)
    yield MetricRow(row)
    if scores:
        value = mean(scores.numbers)
        name = f"{metric['metric']}{SAMPLE_MEAN}"
        plain = {**row, "metric": name, "value": value, "headline": 0}
        yield _tested(plain, metric, other, cell, against)


def _tested(
    row: dict[str, Any],
    metric: Mapping[str, Any],
    other: Mapping[str, Any] | None,
    cell: CellData,
    against: Against,
) -> MetricRow:
    """`row`, a mean of scores, with interval, paired difference and p-value where there are any."""
    ours: Column = metric["scores"]
    interval = stats.mean_interval(ours.numbers, ours.docs.groups, against.seed)
    assert interval is not None  # there are scores
    row |= {"ci_low": interval.low, "ci_high": interval.high}
    theirs: Column | None = other["scores"] if other is not None else None
    if not theirs or against.dense is None:
        return MetricRow(row)
    row["dense_value"] = mean(theirs.numbers)
    shared = against.library.shared(ours.docs, theirs)
    if cell.row["method"] == REFERENCE or not len(shared):
        return MetricRow(row)
    scores = numbers(ours, shared), numbers(theirs, shared)
    images = shared.groups
    paired = stats.paired(*scores, images, against.seed)
    assert paired is not None  # there are shared documents
    better = bool(metric["higher_is_better"])
    margin = stats.margin_for(np.append(ours.numbers, theirs.numbers), against.margin)
    row |= {
        "delta": paired.delta.value,
        "delta_ci_low": paired.delta.low,
        "delta_ci_high": paired.delta.high,
        "p_value": paired.p_value,
        **changes(*scores, better).row(),
        "detectable": detectable(*scores, images),
        "margin": margin,
        "same_answers": cell.answers.same(against.dense.answers, shared),
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
    rows: list[Column] = [one["scores"] for one in (metric, dense, floor)]
    shared = against.library.shared(rows[0].docs, *rows[1:])
    sign = 1.0 if metric["higher_is_better"] else -1.0
    values = [sign * numbers(row, shared) for row in rows]
    kept = joint.skill(values[0], values[1], values[2], shared.groups, against.seed)
    if kept is None:
        return {}
    return {"skill": kept.value, "skill_ci_low": kept.low, "skill_ci_high": kept.high}


def accuracy_lines(rows: Sequence[MetricRow]) -> Iterator[Sequence[str]]:
    """accuracy.csv as lines of fields; a row's own are made once."""
    yield columns.ACCURACY
    for one, extra in zip(rows, adjusted(rows), strict=True):
        line = list(one.fields)
        for name, value in extra.items():
            line[columns.ACCURACY.index(name)] = cell_text(value)
        yield line


def adjusted(rows: Sequence[MetricRow]) -> list[dict[str, Any]]:
    """What Holm over all methods x benches (one test a bench) adds to each row, and verdicts."""
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
    return [extra.get(id(one), {}) for one in rows]


def _same_metric(dense: CellData | None, metric: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The same metric of another cell, by the same judge, where it has a value."""
    names = ("task", "metric", "judge")
    for other in dense.metrics if dense else ():
        same = all(other.get(name, "") == metric.get(name, "") for name in names)
        if same and other["value"] is not None:
            return other
    return None
