"""`modsuite merge RUN... --out RUN`: shares of a run as one run. Weights are not loaded.

A cell's id is a hash over all that can change its numbers, and a share knows the ids of the whole
run: runs whose lists agree are of one kind, whatever machines they ran on. Cells are copied as
`--reuse` copies them, tables and report are made from what is there. The same merge again, or with
more finished, adds what is new and leaves the rest byte for byte.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.common.errors import (
    EXIT_CELLS_FAILED,
    EXIT_OK,
    HarnessError,
    StoreError,
    UsageError,
    one_line,
)
from harness.common.progress import Progressing
from harness.common.stops import COMMAND, PROGRAM
from harness.cost.findings import RefereeError
from harness.jobs.merged import all_cells, described, full_command, require_same
from harness.jobs.reuse import Source, copy_cell, is_whole, open_source
from harness.readouts.derive import Derived
from harness.readouts.ending import conclude
from harness.readouts.stored import read_out_cell
from harness.readouts.summary import ending
from harness.store import columns
from harness.store.against import keep
from harness.store.csvfile import is_torn, read_rows, write_csv, write_json
from harness.store.folder import RUN_JSON, check_out, is_busy, is_run, read_run_json
from harness.store.rundir import FAILED, Store
from harness.store.tables import is_packed

WORD = "merge"
MOST = 6  # cells that a line names


@dataclass
class Merge:
    """What goes where: `taken`, by the id that was asked for, and what no run has whole."""

    sources: list[Source]  # that of the merged run itself first, where there is one
    cells: dict[str, str]  # id -> name, of the whole run in the order of its settings
    taken: dict[str, Source] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)  # rows

    @property
    def missing(self) -> list[str]:
        return [c for c in self.cells if c not in self.taken and c not in self.failed]


def run_merge(
    targets: Sequence[str], out: Path, quiet: bool = False, form: str | None = None
) -> int:
    """Merge runs into `out`; the exit code is that of a run.

    Raises UsageError, before anything is written, for runs that are not of one kind.
    """
    open_merge(targets, out)
    with Progressing(quiet) as show, Store(out) as store:
        found = open_merge(targets, out)  # nobody else writes to it from here on
        return merge_into(found, store, show, form)


def open_merge(targets: Sequence[str], out: Path) -> Merge:
    """The runs, checked against each other and against `out`. Raises UsageError."""
    sources = [*([open_source(str(out), "--out")] if is_run(out) else [])]
    for target in targets:
        path = Path(target).expanduser()
        if is_run(out) and path.resolve() == out.resolve():
            continue  # it is there already
        source = open_source(str(path), WORD, {one.name for one in sources})
        if is_packed(path):
            raise UsageError(f"{WORD}: '{target}' is a packed run: give the run's own directory")
        sources.append(source)
    for source in sources:
        if not isinstance(source.about.get("cells"), list):
            raise UsageError(f"{WORD}: '{source.target}' is no run on benchmarks")
    for other in sources[1:]:
        require_same(sources[0], other)
    check_out(out, {k: v for k, v in sources[0].about["settings"].items() if k != "shard"})
    return Merge(sources, all_cells(sources))


def merge_into(found: Merge, store: Store, show: Progressing, form: str | None = None) -> int:
    """Copy, describe, make tables and report; returns the exit code."""
    out = store.path
    _find(found, show)
    _say(found, out, show)
    _copy(found, store, show)
    about = read_run_json(out)
    keep(out, about.get("against", ()))
    done = store.done()
    order = [cell for cell in found.cells if cell in done]
    derived = Derived(store, order, about["seed"], store.margin(None))
    unread = 0
    for requested in order:
        try:  # nothing is taken again but what other code had taken
            read_out_cell(store, done[requested]["cell_id"], ())
        except (RefereeError, StoreError) as error:
            unread += 1
            show.warn(f"{PROGRAM}: {found.cells[requested]}: {one_line(error)}")
            if isinstance(error, StoreError):
                derived.left_out.add(requested)
    show.phase("tables")
    derived.write()
    show.phase("drawing the report")
    shown = conclude(_draw(out), lambda: ending(out), show, form)
    for line in _left(found, about, out):
        show.warn(f"{PROGRAM}: {line}")
    whole = not (found.missing or found.failed or unread) and shown
    return EXIT_OK if whole else EXIT_CELLS_FAILED


def _find(found: Merge, show: Progressing) -> None:
    """Read every cell through, first run first: what cannot be read there is taken from another."""
    for cell in show.each("reading", list(found.cells), found.cells):
        source = next((s for s in found.sources if is_whole(s, cell, found.cells[cell])), None)
        if source is not None:
            found.taken[cell] = source
    for source in found.sources:
        for row in source.store.cells():
            cell = row.get("requested_id") or row["cell_id"]
            if row.get("status") == FAILED and cell in found.cells and cell not in found.taken:
                found.failed.setdefault(cell, row)


def _say(found: Merge, out: Path, show: Progressing) -> None:
    """A line a run: what is taken from it, and what is wrong with it."""
    for source in found.sources:
        path = source.store.path
        mine = sum(one is source for one in found.taken.values())
        line = f"{WORD}: {mine} of {len(found.cells)} cells from {path}"
        if path.resolve() == out.resolve():
            line = f"{WORD}: {mine} of {len(found.cells)} cells are in {path} already"
        elif is_busy(path):
            line += "; it is being written now, merge again when it has ended"
        show.say(line)
        half = [name for cell, name in found.cells.items() if cell in source.half]
        wrong = [f"damaged: {text}" for text in source.damaged]
        if is_torn(source.store.cells_csv) and not is_busy(path):
            wrong += ["cells.csv ends with a line that was cut off, which is left out"]
        wrong += [f"files are missing: {listed(half)}"] if half else []
        for text in wrong:
            show.warn(f"{PROGRAM}: {WORD}: {path}: {text}")
    devices = dict.fromkeys(str(s.about.get("device_name")) for s in found.sources)
    if len(devices) > 1:
        show.say(f"{WORD}: answered on {' and '.join(devices)}, each cell on one of them")


def _copy(found: Merge, store: Store, show: Progressing) -> None:
    """The description first, files next, rows last: a merge that was stopped is made again."""
    out = store.path
    about = described(found.sources, found.taken, found.cells, out)
    if not is_run(out) or read_run_json(out) != about:
        write_json(out / RUN_JSON, about)
    rows = {}
    for cell in show.each("copying", list(found.taken), found.cells):
        source = found.taken[cell]
        row = source.done[cell]
        if source.store.path.resolve() != out.resolve():
            copy_cell(source.store, store, row["cell_id"])
        rows[cell] = row
        store.drop_partial(cell)
    rows |= found.failed
    ordered = [{n: rows[c].get(n, "") for n in columns.CELLS} for c in found.cells if c in rows]
    before = read_rows(store.cells_csv)
    mine = {row["cell_id"] for row in ordered}
    others = [  # times, and cells of other code
        {name: row.get(name, "") for name in columns.CELLS}
        for row in before
        if row["cell_id"] not in mine and (row.get("requested_id") or "") not in found.cells
    ]
    if before != [*ordered, *others]:
        write_csv(store.cells_csv, columns.CELLS, [*ordered, *others])


def _draw(out: Path) -> Path:
    from reports.build import build_report
    from reports.errors import ReportError

    try:
        return Path(build_report(out))
    except ReportError as error:
        raise HarnessError(f"{WORD}: no report: {one_line(error)}") from None


def _left(found: Merge, about: Mapping[str, Any], out: Path) -> Iterator[str]:
    """What is missing, and the command that computes it."""
    parts = [f"{len(found.failed)} failed ({listed([found.cells[c] for c in found.failed])})"]
    parts = parts if found.failed else []
    if found.missing:
        names = listed([found.cells[cell] for cell in found.missing])
        parts += [f"{len(found.missing)} missing ({names})"]
    if parts:
        again = f"{COMMAND} {shlex.join(full_command(about.get('argv', ()), out))}"
        said = f"{WORD}: of {len(found.cells)} cells {', '.join(parts)}"
        yield f"{said}; merge again when they are done, or compute them here: {again}"


def listed(names: Sequence[str]) -> str:
    """The first of many names."""
    more = len(names) - MOST
    return ", ".join([*names[:MOST], *([f"and {more} more"] if more > 0 else [])])
