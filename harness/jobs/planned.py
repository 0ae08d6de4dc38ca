"""The cells of a run in the forecast of the time that it still takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from harness.common.forecast import Forecast, Part
from harness.jobs.grid import Cell, planned_documents


def plan_cells(
    cells: Iterable[Cell], done: Mapping[str, Mapping[str, str]], forecast: Forecast
) -> None:
    """Every cell, with what `cells.csv` says of those that are done (rows by the cell's id)."""
    for cell in cells:
        part = part_of(cell, forecast)
        if row := done.get(cell.key.cell_id):
            part.finished = True
            with contextlib.suppress(ValueError):  # not measured: it is done all the same
                part.seconds = float(row["seconds"])
                part.done = part.measured = int(row["n"])


def part_of(cell: Cell, forecast: Forecast) -> Part:
    """Answering one cell: methods are rows, benches columns, documents units."""
    return forecast.part("answers", cell.method.spec, cell.bench.name, planned_documents(cell))
