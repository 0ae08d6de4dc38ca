"""`--derive RUN`: readouts, tables and report again from a run's stored records. No weights.

A packed run has no records: its tables are made again, from costs as they were counted.
Torch-free, unless the counters of FLOPs have changed and count again on modules without weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.common.errors import (
    EXIT_CELLS_FAILED,
    EXIT_OK,
    HarnessError,
    StoreError,
    UsageError,
    one_line,
)
from harness.common.progress import Progressing
from harness.common.stops import PROGRAM
from harness.cost.findings import RefereeError
from harness.options.workload import is_workload
from harness.readouts.derive import Derived, read_cell
from harness.readouts.ending import conclude
from harness.readouts.regret import derive_regret
from harness.readouts.stored import read_out_cell
from harness.readouts.summary import ending
from harness.store.against import in_run, keep
from harness.store.folder import open_for_reading, read_run_json
from harness.store.pack import settle
from harness.store.rundir import DONE, Store
from harness.store.tables import is_packed, read_rows

FLAG = "--derive"


def run_derive(
    target: str, quiet: bool = False, against: Sequence[str] = (), form: str | None = None
) -> int:
    """Read every finished cell out again; the exit code is that of a run.

    ``form``: of the final table, see `harness.readouts.ending`.

    Raises UsageError, before anything is written, for a run in progress and for one whose cells
    have no records.
    """
    path = open_for_reading(target, FLAG)
    about = read_run_json(path)
    require_records(path)
    packed = is_packed(path)
    references = in_run(against, path)
    with Progressing(quiet) as show, Store(path, FLAG) as store:
        if packed:
            show.say(f"{FLAG}: a packed run: tables again, costs as they were counted")
        keep(path, references)
        done = store.done()
        order = [cell for cell in about["cells"] if cell in done]
        derived = Derived(store, order, about["seed"], store.margin(None), fresh=True)
        failed = len(about["cells"]) - len(order)
        names = {cell: f"{done[cell]['label']} on {done[cell]['bench']}" for cell in order}
        for requested in show.each("reading out", order, names):
            row, name = done[requested], names[requested]
            try:
                if packed:
                    read_cell(store, row, about["seed"], derived.library)
                else:
                    read_out_cell(store, row["cell_id"])
            except (RefereeError, StoreError) as error:  # it keeps the readouts that it has
                failed += 1
                show.warn(f"{PROGRAM}: {name}: {one_line(error)}")
                _leave_out(derived, requested, row)
        show.phase("tables")
        derived.write()
        derive_regret(path)
        if packed:
            settle(path)
        show.phase("drawing the report")
        shown = conclude(_report(path), lambda: ending(path), show, form)
    if len(order) < len(about["cells"]):
        show.warn(f"{PROGRAM}: {_missing(store, about['cells'])}")
    return EXIT_CELLS_FAILED if failed or not shown else EXIT_OK


def _leave_out(derived: Derived, requested: str, row: dict[str, str]) -> None:
    """Take a cell out of the tables if what it had cannot be read either."""
    try:
        read_cell(derived.store, row, derived.seed, derived.library)
    except StoreError:
        derived.left_out.add(requested)


def _missing(store: Store, asked: list[str]) -> str:
    """How many of the cells that were asked for failed, and how many have no answers."""
    done = store.done()
    rows = {row.get("requested_id") or row["cell_id"]: row for row in store.cells()}
    left = [cell for cell in asked if cell not in done]
    failed = [f"{rows[c]['label']} on {rows[c]['bench']}" for c in left if c in rows]
    parts = [f"{len(failed)} failed ({', '.join(failed)})"] if failed else []
    absent = len(left) - len(failed)
    parts += [f"{absent} not answered"] if absent else []
    return (
        f"{FLAG}: of {len(asked)} cells {', '.join(parts)}; the run's own command goes on with them"
    )


def require_records(path: Path) -> None:
    """Refuse a run that cannot be derived again. Raises UsageError naming the first such cell."""
    try:
        rows = read_rows(path / "cells.csv")
    except StoreError as error:
        raise UsageError(f"{FLAG}: {one_line(error)}") from None
    order = read_run_json(path).get("cells")
    done = [r for r in rows if r.get("status") == DONE and not is_workload(r.get("bench", ""))]
    if not done:
        raise UsageError(f"{FLAG}: '{path}' has no finished cell of a benchmark")
    here = [r for r in done if order and (r.get("requested_id") or r["cell_id"]) in order]
    if here and is_packed(path):
        return
    for row in here or done:
        if not here or not Store(path).records_gz(row["cell_id"]).is_file():
            raise UsageError(
                f"{FLAG}: there are no routing records of {row['label']} on {row['bench']} in "
                f"'{path}': an older version kept none, or they were removed; --plots-only works"
            )


def _report(path: Path) -> Path:
    from reports.build import build_report
    from reports.errors import ReportError

    try:
        return Path(build_report(path))
    except ReportError as error:
        raise HarnessError(f"{FLAG}: no report: {one_line(error)}") from None
