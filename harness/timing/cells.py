"""Which timed cells a run directory holds already, and writing new ones down. Torch-free.

A cell is a method on a workload. Its rows in throughput.csv (under load, load.csv) come first and
its row in cells.csv last: rows without that one belong to a run that was killed, and are taken out
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.ownfiles import own_name
from harness.common.threads import in_use
from harness.options.load import Load
from harness.options.workload import Workload
from harness.store import columns
from harness.store.cells import params_json
from harness.store.columns.table import Table
from harness.store.csvfile import append_row, has_header, read_rows, repair, write_csv
from harness.store.rundir import DONE, FAILED, Store
from harness.store.runinfo import now
from harness.timing.grid import TimingGrid


@dataclass
class TimedCell:
    """A method on a workload, under one attention backend."""

    method: Any
    work: Workload | Load
    attn: str
    cell_id: str
    error: str = ""


class TimedCells:
    """The timed cells of one run directory; ``table`` is the file of their rows."""

    table: Table = columns.THROUGHPUT

    def __init__(self, path: Path, grid: TimingGrid, engine: str) -> None:
        self.path, self.grid, self.engine = path, grid, engine

    @property
    def rows_csv(self) -> Path:
        return self.path / self.table.file

    def rounds_csv(self, cell_id: str) -> Path:
        """The raw times of a cell."""
        return self.path / "rounds" / f"{cell_id}.csv"

    def cell(self, method: Any, work: Workload | Load, attn: str | None = None) -> TimedCell:
        """The cell of a method on a workload, at the run's backend or another."""
        attn = attn or self.grid.runtime.attn
        return TimedCell(method, work, attn, self.grid.cell_id(method, work, attn, self.engine))

    def done(self) -> set[str]:
        """Ids of the cells that are complete."""
        timed = {row.get("cell_id", "") for row in read_rows(self.rows_csv)}
        rows = read_rows(self.path / "cells.csv")
        return {r["cell_id"] for r in rows if r.get("status") == DONE and r["cell_id"] in timed}

    def missing(self, work: Workload | Load) -> list[Any]:
        """The methods that are not done on a workload."""
        done = self.done()
        return [m for m in self.grid.methods if self.cell(m, work).cell_id not in done]

    def tidy(self) -> None:
        """Take out what a killed run left behind: a torn line, rows of unfinished cells."""
        repair(self.rows_csv)
        done = self.done()
        rows = read_rows(self.rows_csv)
        kept = [row for row in rows if row["cell_id"] in done]
        if len(kept) < len(rows) or not has_header(self.rows_csv, self.table):
            known = [{name: row.get(name, "") for name in self.table} for row in kept]
            write_csv(self.rows_csv, self.table, known)

    def about(self, cell: TimedCell, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """The identifying columns of a row; ``sizes`` are n_text and n_image."""
        return {
            **self._named(cell),
            "bench": own_name(cell.work.bench),
            "workload": cell.work.spec,
            "device": self.grid.device_name,
            "batch": cell.work.batch,
            "n_out": cell.work.n_out,
            **sizes,
        }

    def write(
        self,
        store: Store,
        cell: TimedCell,
        rows: Iterable[Mapping[str, Any]],
        raw: Iterable[Mapping[str, Any]],
        seconds: float,
        notes: Sequence[str],
        rounds: int,
    ) -> None:
        """A finished cell: raw times, its rows, and last the row that makes it count."""
        write_csv(self.rounds_csv(cell.cell_id), columns.ROUNDS, raw)
        for row in rows:
            append_row(self.rows_csv, self.table, row)
        done = {"status": DONE, "n": rounds, "seconds": round(seconds, 3)}
        store.record({**self._identity(cell), **done, "notes": "; ".join(notes)})

    def fail(self, store: Store, cell: TimedCell, error: str) -> None:
        """The row of a cell that could not be timed."""
        cell.error = error
        store.record({**self._identity(cell), "status": FAILED, "error": error})

    def _named(self, cell: TimedCell) -> dict[str, Any]:
        """The columns that throughput.csv and cells.csv share."""
        return {
            "cell_id": cell.cell_id,
            "model": self.grid.model,
            "method": cell.method.name,
            "params": params_json(cell.method.params()),
            "label": label(cell, self.grid.runtime.attn),
            "attn": cell.attn,
            "dtype": self.grid.runtime.dtype,
            "threads": in_use() if self.grid.runtime.device == "cpu" else None,
        }

    def _data(self, bench: str) -> str:
        if not bench:
            return "synthetic"
        if bench in self.grid.data:
            return self.grid.data[bench]
        from harness.bench.benches import resolve_bench

        return resolve_bench(bench, self.grid.settings.data, self.grid.mini).data

    def _identity(self, cell: TimedCell) -> dict[str, Any]:
        return {
            **self._named(cell),
            "bench": cell.work.spec,
            "data": self._data(cell.work.bench),
            "requested_id": cell.cell_id,
            "batch_size": cell.work.batch,
            "protocol": self.grid.protocol(cell.work),
            "device": self.grid.runtime.device,
            "finished_at": now(),
        }


class LoadCells(TimedCells):
    """The cells of loads: a row of load.csv each."""

    table = columns.LOAD


def label(cell: TimedCell, usual: str) -> str:
    """The method's label, with the backend where it is not the run's."""
    return str(cell.method.label) + ("" if cell.attn == usual else f" ({cell.attn})")
