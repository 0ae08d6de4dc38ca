"""The derived CSVs, rebuilt from the finished cells' files. Torch-free.

accuracy.csv, cost.csv, routing.csv, fronts.csv, controls.csv and evidence.csv.

Rows come in the order of the run's settings, whatever order the cells were computed in, so an
interrupted and resumed run writes the same bytes as one that ran through.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.common.errors import StoreError
from harness.cost.rows import cost_rows
from harness.readouts.budgets import budget_columns
from harness.readouts.controls import Contender, Controls, positions_of
from harness.readouts.evidence import evidence_rows
from harness.readouts.fronts import BLIND, Fronts, Subject, prefill_of
from harness.statistics import joint, stats
from harness.statistics.changes import changes, same_answers
from harness.statistics.power import detectable, smallest_n
from harness.store import columns
from harness.store.csvfile import read_rows, write_csv
from harness.store.rundir import Store

DENSE = "dense"
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


class Derived:
    """Rebuilds the derived CSVs; keeps what it computed, for the next finished cell."""

    def __init__(
        self,
        store: Store,
        order: Sequence[str],
        seed: int,
        margin: float = stats.MARGIN_POINTS,
    ) -> None:
        self.store = store
        self.margin = margin  # of non-inferiority, in points
        self._fronts = Fronts(seed)
        self._controls = Controls(seed)
        self.order = list(order)  # requested ids, in the order of the settings
        self.seed = seed
        self._cells: dict[str, CellData] = {}
        self._accuracy: dict[tuple[str, ...], list[MetricRow]] = {}

    def write(self) -> None:
        """Write all files, each atomically; evidence.csv only where some bench has boxes."""
        cells = self._finished()
        dense, blind = (
            {cell.row["bench"]: cell for cell in cells if cell.row["method"] == name}
            for name in (DENSE, BLIND)
        )
        rows = [
            row
            for cell in cells
            for row in self._accuracy_rows(
                cell, dense.get(cell.row["bench"]), blind.get(cell.row["bench"])
            )
        ]
        path = self.store.path
        cost = [row for cell in cells for row in cell.cost]
        write_csv(path / "accuracy.csv", columns.ACCURACY, adjusted(rows), durable=False)
        write_csv(path / "cost.csv", columns.COST, cost, durable=False)
        write_csv(path / "routing.csv", columns.ROUTING, rows_of(cells, "routing"), durable=False)
        evidence = list(rows_of(cells, "evidence"))
        if evidence or (path / "evidence.csv").exists():
            write_csv(path / "evidence.csv", columns.EVIDENCE, evidence, durable=False)
        subjects = [subject(cell) for cell in cells]
        write_csv(path / "fronts.csv", columns.FRONTS, self._fronts.rows(subjects), durable=False)
        contenders = [
            Contender(s, c.kv, positions_of(c.row)) for s, c in zip(subjects, cells, strict=True)
        ]
        beaten = self._controls.rows(contenders)
        write_csv(path / "controls.csv", columns.CONTROLS, beaten, durable=False)

    def _finished(self) -> list[CellData]:
        done = self.store.done()
        found = [done[requested] for requested in self.order if requested in done]
        for row in found:
            if row["cell_id"] not in self._cells:
                self._cells[row["cell_id"]] = read_cell(self.store, row, self.seed)
        return [self._cells[row["cell_id"]] for row in found]

    def _accuracy_rows(
        self, cell: CellData, dense: CellData | None, blind: CellData | None
    ) -> list[MetricRow]:
        key = tuple(one.row["cell_id"] if one else "" for one in (cell, dense, blind))
        if key not in self._accuracy:
            against = Against(dense, blind, self.seed, self.margin)
            self._accuracy[key] = [
                row for m in cell.metrics for row in metric_rows(cell, m, against)
            ]
        return self._accuracy[key]


def read_cell(store: Store, row: dict[str, str], seed: int) -> CellData:
    """One finished cell; its samples are reduced to cost rows and image ids at once."""
    cell_id = row["cell_id"]
    try:
        samples = read_rows(store.samples_csv(cell_id))
    except StoreError as error:
        raise StoreError(f"{error}; without it, its cell is computed again") from None
    about = {name: row.get(name, "") for name in columns.CELL}
    images = {sample["doc_id"]: sample.get("image_id", "") for sample in samples}
    metrics = store.read_metrics(cell_id)
    return CellData(
        row=row,
        n=len(samples),
        images=images,
        metrics=metrics,
        routing=store.read_routing(cell_id),
        cost=cost_rows(about, samples, seed),
        evidence=evidence_rows(store.read_evidence(cell_id), metrics, images, seed),
        prefill=prefill_of(samples),
        budget=budget_columns(row.get("params", ""), samples),
        answers={sample["doc_id"]: sys.intern(sample["prediction"]) for sample in samples},
    )


def subject(cell: CellData) -> Subject:
    """What the accuracy-cost front needs of a cell."""
    main = next((m for m in cell.metrics if m["headline"] and m.get("scores")), None)
    name = f"{main['metric']}{'' if main['is_mean'] else SAMPLE_MEAN}" if main else ""
    scores, better = (main["scores"], main["higher_is_better"]) if main else ({}, True)
    return Subject(cell.about, name, scores, bool(better), cell.prefill, cell.images)


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
        if cell.row["method"] != DENSE:
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
    if cell.row["method"] == DENSE or not shared:
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


def rows_of(cells: Sequence[CellData], table: str) -> Iterator[dict[str, Any]]:
    """Rows of routing.csv or evidence.csv of all cells."""
    for cell in cells:
        for row in getattr(cell, table):
            yield {"cell_id": cell.row["cell_id"], "bench": cell.row["bench"], **row}
