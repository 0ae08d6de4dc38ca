"""The run directory: opened once per run, resumable after a kill at any moment. Torch-free.

A cell's row in `cells.csv` is its commit point: samples, records, metrics and routing pictures are
in place before it. Everything else (cost columns of the samples, accuracy.csv, cost.csv,
routing.csv, report) is derived from those files and may be rebuilt at any time.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.common.errors import StoreError, UsageError, one_line
from harness.common.jsonfile import parse_json, read_json
from harness.common.place import check_place
from harness.options.option import flag
from harness.statistics.stats import MARGIN_POINTS
from harness.store import columns, submissions, tables
from harness.store.csvfile import (
    TEMPORARY,
    append_row,
    cannot_write,
    has_header,
    read_rows,
    remove_leftovers,
    repair,
    write_csv,
    write_json,
)

RUN_JSON = "run.json"
LOCK = "run.lock"
SHARES, CLUSTER = "shares", "cluster"  # folders of --cluster: unfinished shares, its tasks' logs
DONE, FAILED = "done", "failed"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)  # of the file system: go on without this protection


def default_out() -> Path:
    """`runs/<timestamp>`, with a number when two runs start within a second."""
    base = Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def read_run_json(path: Path) -> dict[str, Any]:
    """`run.json` of a run directory; UsageError when it is missing, damaged or from the future."""
    file = path / RUN_JSON
    try:
        content = read_json(file)
    except FileNotFoundError:
        raise UsageError(f"{path}: not a run directory (no {RUN_JSON})") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read ({one_line(error, 120)})") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UsageError(f"{file}: not a run description (no schema_version)")
    if version != columns.SCHEMA_VERSION:
        raise UsageError(
            f"{file}: schema_version {version}, this program knows {columns.SCHEMA_VERSION}"
        )
    return content


def is_run(path: Path) -> bool:
    """Whether there is a run's description."""
    return (path / RUN_JSON).is_file()


def open_for_reading(target: str, asked: str = "--plots-only") -> Path:
    """An existing run directory, checked, for the flag `asked`."""
    path = Path(target)
    if not path.is_dir():
        raise UsageError(f"{asked}: there is no run directory '{target}'")
    read_run_json(path)
    return path


def check_out(path: Path, recorded: Mapping[str, Any]) -> bool:
    """Whether `path` is a run with exactly these settings (True: resume) or still free (False).

    Raises UsageError when it is a run with other settings (naming the first that differs), some
    other non-empty folder, or a place that cannot be written. Writes nothing.
    """
    try:
        check_place(path)
    except UsageError as error:
        raise UsageError(f"--out: {error}") from None
    if not path.exists():
        return False
    if not path.is_dir():
        raise UsageError(f"--out: '{path}' is a file")
    if not (path / RUN_JSON).exists():
        ours = (LOCK, SHARES, CLUSTER)
        others = [p.name for p in path.iterdir() if p.name not in ours and TEMPORARY not in p.name]
        if others:
            raise UsageError(f"--out: '{path}' holds other files and no run; choose another folder")
        return False
    if tables.is_packed(path):
        raise UsageError(
            f"--out: '{path}' is a packed run and has no room for new answers; choose another "
            "folder (--plots-only, --derive and --diff read it)"
        )
    try:
        read_rows(path / "cells.csv")
    except StoreError as error:
        raise UsageError(f"--out: {error}; restore it, or choose another --out") from None
    before = read_run_json(path).get("settings")
    before = before if isinstance(before, dict) else {}
    for name in [*recorded, *(name for name in before if name not in recorded)]:
        if before.get(name) != recorded.get(name):
            raise UsageError(
                f"--out: '{path}' was made with {shown(name, before.get(name))}, now it is "
                f"{shown(name, recorded.get(name))}: choose another --out, or the old settings"
            )
    return True


def shown(name: str, value: Any) -> str:
    """A recorded setting as it would be given."""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if isinstance(value, dict):
        value = " ".join(f"{k}={v}" for k, v in value.items()) or None
    return f"no {flag(name)}" if value in (None, "") else f"{flag(name)} {value}"


class RunLock(FileLock):
    """`FileLock` under a name of its own.

    lmms-eval makes `FileLock` itself re-entrant for the whole process, and a second `Store` on the
    same directory would be let in.
    """


def is_busy(path: Path) -> bool:
    """Whether another process is writing to a run directory now."""
    if not (path / LOCK).exists():
        return False
    try:
        with RunLock(path / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written: nobody writes there
        return False


class Store:
    """One open run directory. Use as a context manager; a second process is kept out.

    Errors of opening name the flag `asked`.
    """

    def __init__(self, path: Path, asked: str = "--out") -> None:
        self.path, self.asked = path, asked
        self.warnings: list[str] = []
        self._lock = RunLock(path / LOCK)

    def __enter__(self) -> Store:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"{self.asked}: another run is writing to '{self.path}' now") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise UsageError(f"{self.asked}: {cannot_write(self.path, error)}") from None
        for place in self.path.iterdir():
            if place.is_dir() and place.name not in (SHARES, CLUSTER):  # others may write there
                remove_leftovers(place)
            elif TEMPORARY in place.name:
                place.unlink(missing_ok=True)
        if repair(self.cells_csv):
            self.warnings.append(f"{self.cells_csv}: removed a last line that was cut off")
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    # --- places -----------------------------------------------------------------------------
    @property
    def cells_csv(self) -> Path:
        return self.path / "cells.csv"

    def samples_csv(self, cell_id: str) -> Path:
        return self.path / "samples" / f"{cell_id}.csv"

    def metrics_json(self, cell_id: str) -> Path:
        return self.path / "samples" / f"{cell_id}.metrics.json"

    def routing_dir(self, cell_id: str) -> Path:
        return self.path / "routing" / cell_id

    def routing_json(self, cell_id: str) -> Path:
        return self.path / "samples" / f"{cell_id}.routing.json"

    def evidence_json(self, cell_id: str) -> Path:
        return self.path / "samples" / f"{cell_id}.evidence.json"

    def records_gz(self, cell_id: str) -> Path:
        return self.path / "records" / f"{cell_id}.gz"

    def submissions_dir(self, cell_id: str) -> Path:
        """What a cell hands in to a server or a judge, see `harness.store.submissions`."""
        return self.path / submissions.FOLDER / cell_id

    def stamp_json(self, cell_id: str) -> Path:
        """Under which code each readout of a cell was taken."""
        return self.path / "samples" / f"{cell_id}.readouts.json"

    def partial_dir(self, cell_id: str) -> Path:
        """Where an unfinished cell keeps what it has; removed when the cell is done."""
        return self.path / "partial" / cell_id

    def _has_files(self, row: Mapping[str, str]) -> bool:
        places = (self.samples_csv, self.metrics_json, self.routing_json, self.records_gz)
        cell = row.get("cell_id", "")
        if tables.is_packed(self.path):
            return all(tables.exists(place(cell)) for place in places[:2])
        return all(place(cell).is_file() for place in places)

    # --- the run ----------------------------------------------------------------------------
    def write_run_json(self, content: Mapping[str, Any]) -> None:
        """Describe the run; a resumed one keeps `created_at`, `argv` and its list of resumes."""
        new = {"schema_version": columns.SCHEMA_VERSION, **content}
        if (self.path / RUN_JSON).exists():
            old = read_run_json(self.path)
            this = {"at": new["created_at"], "argv": new["argv"]}
            new["resumed"] = [*old.get("resumed", []), this]
            kept = ("created_at", "argv", "margin", "against", "merged")
            new |= {name: old[name] for name in kept if name in old}
        write_json(self.path / RUN_JSON, new)

    def margin(self, asked: float | None) -> float:
        """The margin of non-inferiority in points: as asked, else as recorded; kept in run.json."""
        about = read_run_json(self.path) if (self.path / RUN_JSON).exists() else {}
        recorded = about.get("margin")
        known = recorded if isinstance(recorded, (int, float)) and recorded > 0 else MARGIN_POINTS
        margin = float(known if asked is None else asked)
        if about and recorded != margin:
            write_json(self.path / RUN_JSON, {**about, "margin": margin})
        return margin

    # --- cells ------------------------------------------------------------------------------
    def cells(self) -> list[dict[str, str]]:
        """Rows of `cells.csv`; done rows whose files are gone do not count."""
        rows = read_rows(self.cells_csv)
        return [row for row in rows if row.get("status") == FAILED or self._has_files(row)]

    def done(self) -> dict[str, dict[str, str]]:
        """Finished cells by the id that was asked for (see `requested_id`)."""
        rows = [row for row in self.cells() if row.get("status") == DONE]
        return {row.get("requested_id") or row["cell_id"]: row for row in rows}

    def write_samples(self, cell_id: str, samples: Iterable[Mapping[str, Any]]) -> None:
        """The samples of a cell; their readouts may still be missing."""
        write_csv(self.samples_csv(cell_id), columns.SAMPLES, samples)

    def write_answers(self, cell_id: str, samples: Iterable[Mapping[str, Any]]) -> None:
        """The samples of a cell before anything was read out of their records."""
        self.stamp_json(cell_id).unlink(missing_ok=True)
        self.write_samples(cell_id, samples)

    def write_metrics(self, cell_id: str, metrics: Sequence[Mapping[str, Any]]) -> None:
        """What the bench's scoring made of a cell's answers."""
        write_json(self.metrics_json(cell_id), list(metrics))

    def write_scores(self, cell_id: str, scores: Mapping[str, float]) -> None:
        """Scores of a cell's samples in place of those it had; all else of them stays."""
        path = self.samples_csv(cell_id)
        rows = [{**row, "score": scores.get(row["doc_id"])} for row in tables.each_row(path)]
        self.write_samples(cell_id, rows)

    def write_routing(self, cell_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """The routing table of a cell."""
        write_json(self.routing_json(cell_id), list(rows))

    def write_evidence(self, cell_id: str, found: Sequence[Mapping[str, Any]]) -> None:
        """Answer-bearing patches by sample; no file where no sample has any."""
        if found:
            write_json(self.evidence_json(cell_id), list(found))
        else:
            self.evidence_json(cell_id).unlink(missing_ok=True)

    def record(self, row: Mapping[str, Any]) -> None:
        """Append the row of a done or failed cell; an earlier row of it is replaced."""
        rows: list[dict[str, str]] = read_rows(self.cells_csv)
        others = [
            old
            for old in rows
            if row["cell_id"] != old.get("cell_id")
            and row["requested_id"] != (old.get("requested_id") or old.get("cell_id"))
        ]
        if len(others) == len(rows) and has_header(self.cells_csv, columns.CELLS):
            append_row(self.cells_csv, columns.CELLS, row)
        else:
            write_csv(self.cells_csv, columns.CELLS, [*map(_known, others), row])

    def put_in_order(self, order: Sequence[str]) -> None:
        """The rows of these cells (by the id that was asked for) in this order, others behind."""
        rows = read_rows(self.cells_csv)
        place = {requested: number for number, requested in enumerate(order)}
        wanted = sorted(rows, key=lambda r: place.get(r.get("requested_id", ""), len(place)))
        if rows != wanted:
            write_csv(self.cells_csv, columns.CELLS, map(_known, wanted))

    def drop_partial(self, cell_id: str) -> None:
        """Forget the intermediate files of a finished cell."""
        shutil.rmtree(self.partial_dir(cell_id), ignore_errors=True)
        with contextlib.suppress(OSError):  # other cells still have theirs
            (self.path / "partial").rmdir()

    def read_metrics(self, cell_id: str) -> list[dict[str, Any]]:
        """What `write_metrics` stored; StoreError when damaged."""
        return _read_json_list(self.metrics_json(cell_id))

    def read_routing(self, cell_id: str) -> list[dict[str, Any]]:
        """What `write_routing` stored; StoreError when damaged."""
        return _read_json_list(self.routing_json(cell_id))

    def read_evidence(self, cell_id: str) -> list[dict[str, Any]]:
        """Answer-bearing patches by sample, empty without boxes; StoreError when damaged."""
        path = self.evidence_json(cell_id)
        return _read_json_list(path) if tables.exists(path) else []


def _known(row: Mapping[str, str]) -> dict[str, str]:
    return {name: row.get(name, "") for name in columns.CELLS}


def _read_json_list(path: Path) -> list[dict[str, Any]]:
    try:
        content = tables.content(path)
        if content is None:
            raise StoreError(f"{path}: cannot be read (no such file)")
        return list(parse_json(content))
    except ValueError as error:
        raise StoreError(f"{path}: cannot be read ({one_line(error, 120)})") from None
