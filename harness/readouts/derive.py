"""The derived CSVs, rebuilt from the finished cells' files. Torch-free.

accuracy.csv, cost.csv, routing.csv, fronts.csv, controls.csv, curves.csv, comparisons.csv,
averages.csv, evidence.csv, images.csv, reference.csv, hard.csv and slices.csv.

Rows come in the order of the run's settings, whatever order the cells were computed in, so an
interrupted and resumed run writes the same bytes as one that ran through.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.cost.rows import cost_rows
from harness.readouts.accuracy import (
    SAMPLE_MEAN,
    Against,
    CellData,
    MetricRow,
    accuracy_lines,
    metric_rows,
)
from harness.readouts.averages import average_rows
from harness.readouts.beside import reference_rows
from harness.readouts.budgets import budget_columns
from harness.readouts.comparisons import Comparisons
from harness.readouts.controls import Contender, Controls, positions_of
from harness.readouts.curves import Curves
from harness.readouts.documents import Column, Documents, Images, Library, Texts
from harness.readouts.evidence import evidence_rows
from harness.readouts.fronts import Fronts, Subject
from harness.readouts.hard import Hard
from harness.readouts.kept import Kept
from harness.readouts.matrix import Matrix
from harness.readouts.stored import read_samples
from harness.statistics import stats
from harness.store import columns
from harness.store.csvfile import (
    csv_lines,
    csv_text,
    to_csv,
    write_atomic,
    write_csv,
    write_lines,
)
from harness.store.folder import is_run, read_run_json
from harness.store.images import image_rows
from harness.store.rundir import Store
from methods import BLIND, PROBE, REFERENCE

BY_CELL = {
    "cost": columns.COST,
    "routing": columns.ROUTING,
    "evidence": columns.EVIDENCE,
    "images": columns.IMAGES,
}
SOMETIMES = ("evidence", "images")  # files that there are only where they have rows
SELDOM = 20  # times as long as they take lies between two writings of tables of pairs


class Derived:
    """Rebuilds the derived CSVs; keeps what it computed, for the next finished cell."""

    def __init__(
        self,
        store: Store,
        order: Sequence[str],
        seed: int,
        margin: float = stats.MARGIN_POINTS,
        fresh: bool = False,
    ) -> None:
        """`fresh`: whatever earlier tables have kept of the cells is made again."""
        self.store = store
        self.margin = margin  # of non-inferiority, in points
        self.fresh = fresh
        self._kept: dict[str, Kept] = {}
        self.library = Library()
        self._fronts = Fronts(seed, self.library)
        self._controls = Controls(seed, self.library)
        self._curves = Curves(seed)
        self._matrix = Matrix(seed, self.library)
        self._hard = Hard(seed, self.library)
        self._comparisons = Comparisons(seed, margin)
        self.order = list(order)  # requested ids, in the order of the settings
        self.seed = seed
        self.left_out: set[str] = set()  # requested ids of cells whose files are damaged
        self._cells: dict[str, CellData] = {}
        self._accuracy: dict[tuple[str, ...], list[MetricRow]] = {}
        self._texts: dict[str, dict[str, str]] = {}  # by cell and table
        self._compared, self._comparing = -math.inf, 0.0  # when last, and how long it took

    def write(self, last: bool = True) -> None:
        """Write the files, each atomically.

        Before the `last` cell of a run: always those that have rows by cell; those that hold cells
        against each other only while that is a small part of the run's time.
        """
        found = self._finished()
        cells = [cell for cell in found if cell.row["method"] != PROBE]
        self._write_rows(cells)
        begun = time.monotonic()
        if last or begun - self._compared >= SELDOM * self._comparing:
            self._write_pairs(cells, [cell for cell in found if cell.row["method"] == PROBE])
            self._compared = time.monotonic()
            self._comparing = self._compared - begun

    def _write_rows(self, cells: Sequence[CellData]) -> None:
        """accuracy.csv, cost.csv and routing.csv.

        Only where a bench has boxes evidence.csv, where a prompt has several images images.csv.
        """
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
        write_lines(self.store.path / "accuracy.csv", accuracy_lines(rows), durable=False)
        for name, table in BY_CELL.items():
            path = self.store.path / table.file
            texts = [self._texts[cell.row["cell_id"]][name] for cell in cells]
            if any(texts) or name not in SOMETIMES or path.exists():
                header = to_csv(table, [])
                write_atomic(path, [header, *(text.encode() for text in texts)], durable=False)
        self._write_reference(cells, rows)

    def _write_reference(self, cells: Sequence[CellData], rows: Sequence[MetricRow]) -> None:
        """reference.csv, only where something published is of the run's model."""
        path = self.store.path / columns.REFERENCE.file
        about = read_run_json(self.store.path) if is_run(self.store.path) else {}
        settings = about.get("settings") or {}
        found = reference_rows([r.row for r in rows], [c.row for c in cells], settings)
        if found or path.exists():
            write_csv(path, columns.REFERENCE, found, durable=False)

    def _write_pairs(self, cells: Sequence[CellData], probes: Sequence[CellData]) -> None:
        """The files that hold cells against each other.

        curves.csv only where a method has two budgets, hard.csv and slices.csv only where dense
        answered at a quarter of the pixels (`probes`).
        """
        path = self.store.path
        found = by_one_judge([*cells, *probes])
        subjects, lesser = found[: len(cells)], found[len(cells) :]
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
        if probes or (path / "hard.csv").exists():
            self._hard.update(contenders, lesser)
            write_csv(path / "hard.csv", columns.HARD, self._hard.rows(), durable=False)
            write_csv(path / "slices.csv", columns.SLICES, self._hard.documents(), durable=False)
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
                kept = Kept(self.store, row["cell_id"], row, self.seed, self.margin, self.fresh)
                cell = read_cell(self.store, row, self.seed, self.library, kept.known)
                self._kept[row["cell_id"]] = kept
                self._texts[row["cell_id"]] = {name: _text(cell, name) for name in BY_CELL}
                self._cells[row["cell_id"]] = replace(cell, routing=[], evidence=[], images=[])
        return [self._cells[row["cell_id"]] for row in found]

    def _accuracy_rows(
        self, cell: CellData, dense: CellData | None, blind: CellData | None
    ) -> list[MetricRow]:
        key = tuple(one.row["cell_id"] if one else "" for one in (cell, dense, blind))
        if key not in self._accuracy:
            against = Against(dense, blind, self.seed, self.margin, self.library)
            kept = self._kept[key[0]]
            sides = " ".join(self._kept[one].key if one else "-" for one in key)
            found = kept.rows_of(sides)
            if found is None:
                found = [row for m in cell.metrics for row in metric_rows(cell, m, against)]
                kept.keep(sides, found)
            self._accuracy[key] = found
        return self._accuracy[key]


def read_cell(
    store: Store,
    row: dict[str, str],
    seed: int,
    library: Library,
    kept: dict[str, Any] | None = None,
) -> CellData:
    """One finished cell; its samples are reduced to cost rows and a few columns at once.

    `kept` has the rows of it that are known already, and gets the others.
    """
    kept = {} if kept is None else kept
    cell_id = row["cell_id"]
    samples = read_samples(store, row)
    about = {name: row.get(name, "") for name in columns.CELL}
    docs = library.documents(samples.texts("doc_id").to_pylist(), samples.clusters())
    metrics = [_scored(one, docs, library) for one in store.read_metrics(cell_id)]
    prefill = samples.numbers("tflops_prefill")
    counted = ~np.isnan(prefill)
    if "cost" not in kept:
        found = store.read_evidence(cell_id)
        kept["evidence"] = evidence_rows(found, metrics, Images(docs), seed)
        kept["budget"] = budget_columns(row.get("params", ""), samples)
        kept["images"] = image_rows(samples)
        kept["cost"] = cost_rows(about, samples, seed)
    return CellData(
        row=row,
        docs=docs,
        metrics=metrics,
        routing=store.read_routing(cell_id),
        cost=kept["cost"],
        evidence=kept["evidence"],
        images=kept["images"],
        prefill=Column(_part(docs, counted, library), prefill[counted]),
        answers=Texts(docs, samples.texts("prediction")),
        budget=kept["budget"],
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


def by_one_judge(cells: Sequence[CellData]) -> list[Subject]:
    """What is held against each other: of a bench with several judges only scores of the first.

    Dense stands first in a run. The scores of the others stay in accuracy.csv.
    """
    found, judges = [], dict[str, str]()
    for cell in cells:
        one = subject(cell)
        judge = next((m.get("judge", "") for m in cell.metrics if m["headline"]), "")
        if one.scores and judges.setdefault(cell.row["bench"], judge) != judge:
            one = replace(one, scores={})
        found.append(one)
    return found


def _text(cell: CellData, name: str) -> str:
    """The rows of a cell in one of the tables `BY_CELL`, as CSV."""
    about = {"cell_id": cell.row["cell_id"], "bench": cell.row["bench"]}
    rows = cell.cost if name == "cost" else [{**about, **row} for row in getattr(cell, name)]
    return csv_text(csv_lines(BY_CELL[name], rows, header=False))
