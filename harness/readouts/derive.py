"""The derived CSVs, rebuilt from the finished cells' files. Torch-free.

accuracy.csv, cost.csv, routing.csv, fronts.csv, controls.csv, curves.csv, comparisons.csv,
averages.csv and evidence.csv.

Rows come in the order of the run's settings, whatever order the cells were computed in, so an
interrupted and resumed run writes the same bytes as one that ran through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.cost.rows import cost_rows
from harness.readouts.accuracy import (
    SAMPLE_MEAN,
    Against,
    CellData,
    MetricRow,
    adjusted,
    metric_rows,
)
from harness.readouts.averages import average_rows
from harness.readouts.budgets import budget_columns
from harness.readouts.comparisons import Comparisons
from harness.readouts.controls import Contender, Controls, positions_of
from harness.readouts.curves import Curves
from harness.readouts.documents import Column, Documents, Images, Library, Texts
from harness.readouts.evidence import evidence_rows
from harness.readouts.fronts import Fronts, Subject
from harness.readouts.matrix import Matrix
from harness.readouts.stored import read_samples
from harness.statistics import stats
from harness.store import columns
from harness.store.csvfile import write_csv
from harness.store.rundir import Store
from methods import BLIND, REFERENCE


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
        self.library = Library()
        self._fronts = Fronts(seed, self.library)
        self._controls = Controls(seed, self.library)
        self._curves = Curves(seed)
        self._matrix = Matrix(seed, self.library)
        self._comparisons = Comparisons(seed, margin)
        self.order = list(order)  # requested ids, in the order of the settings
        self.seed = seed
        self.left_out: set[str] = set()  # requested ids of cells whose files are damaged
        self._cells: dict[str, CellData] = {}
        self._accuracy: dict[tuple[str, ...], list[MetricRow]] = {}

    def write(self) -> None:
        """Write all files, each atomically.

        curves.csv only where a method has two budgets, evidence.csv only where a bench has boxes.
        """
        cells = self._finished()
        dense, blind = (
            {cell.row["bench"]: cell for cell in cells if cell.row["method"] == name}
            for name in (REFERENCE, BLIND)
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
        curves = self._curves.rows(contenders)
        if curves or (path / "curves.csv").exists():
            write_csv(path / "curves.csv", columns.CURVES, curves, durable=False)
        self._matrix.update(contenders)
        pairs = self._comparisons.rows(self._matrix, several=len(self._benches()) > 1)
        write_csv(path / "comparisons.csv", columns.COMPARISONS, pairs, durable=False)
        averages = average_rows(self._matrix)
        write_csv(path / "averages.csv", columns.AVERAGES, averages, durable=False)

    def _benches(self) -> set[str]:
        """Those of the run, also where every cell of one failed."""
        rows = self.store.cells()
        asked = [r for r in rows if (r.get("requested_id") or r["cell_id"]) in self.order]
        return {row["bench"] for row in asked}

    def _finished(self) -> list[CellData]:
        done = self.store.done()
        order = (requested for requested in self.order if requested not in self.left_out)
        found = [done[requested] for requested in order if requested in done]
        for row in found:
            if row["cell_id"] not in self._cells:
                self._cells[row["cell_id"]] = read_cell(self.store, row, self.seed, self.library)
        return [self._cells[row["cell_id"]] for row in found]

    def _accuracy_rows(
        self, cell: CellData, dense: CellData | None, blind: CellData | None
    ) -> list[MetricRow]:
        key = tuple(one.row["cell_id"] if one else "" for one in (cell, dense, blind))
        if key not in self._accuracy:
            against = Against(dense, blind, self.seed, self.margin, self.library)
            self._accuracy[key] = [
                row for m in cell.metrics for row in metric_rows(cell, m, against)
            ]
        return self._accuracy[key]


def read_cell(store: Store, row: dict[str, str], seed: int, library: Library) -> CellData:
    """One finished cell; its samples are reduced to cost rows and a few columns at once."""
    cell_id = row["cell_id"]
    samples = read_samples(store, row)
    about = {name: row.get(name, "") for name in columns.CELL}
    ids, images = (samples.texts(name).to_pylist() for name in ("doc_id", "image_id"))
    docs = library.documents(ids, images)
    metrics = [_scored(one, docs, library) for one in store.read_metrics(cell_id)]
    prefill = samples.numbers("tflops_prefill")
    counted = ~np.isnan(prefill)
    return CellData(
        row=row,
        docs=docs,
        metrics=metrics,
        routing=store.read_routing(cell_id),
        cost=cost_rows(about, samples, seed),
        evidence=evidence_rows(store.read_evidence(cell_id), metrics, Images(docs), seed),
        prefill=Column(_part(docs, counted, library), prefill[counted]),
        answers=Texts(docs, samples.texts("prediction")),
        budget=budget_columns(row.get("params", ""), samples),
    )


def _scored(metric: dict[str, Any], docs: Documents, library: Library) -> dict[str, Any]:
    """A metric with its scores as an array."""
    scores = metric.get("scores") or {}
    own = docs if tuple(scores) == docs.ids else library.of(scores, Images(docs))
    return {**metric, "scores": Column(own, np.fromiter(scores.values(), np.float64))}


def _part(docs: Documents, known: NDArray[np.bool_], library: Library) -> Documents:
    if known.all():
        return docs
    there = np.flatnonzero(known).tolist()
    return library.documents([docs.ids[i] for i in there], [docs.images[i] for i in there])


def subject(cell: CellData) -> Subject:
    """What the accuracy-cost front needs of a cell."""
    main = next((m for m in cell.metrics if m["headline"] and m.get("scores")), None)
    name = f"{main['metric']}{'' if main['is_mean'] else SAMPLE_MEAN}" if main else ""
    scores, better = (main["scores"], main["higher_is_better"]) if main else ({}, True)
    return Subject(cell.about, name, scores, bool(better), cell.prefill, Images(cell.docs))


def rows_of(cells: Sequence[CellData], table: str) -> Iterator[dict[str, Any]]:
    """Rows of routing.csv or evidence.csv of all cells."""
    for cell in cells:
        for row in getattr(cell, table):
            yield {"cell_id": cell.row["cell_id"], "bench": cell.row["bench"], **row}
