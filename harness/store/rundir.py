"""The run directory: opened once per run, resumable after a kill at any moment. Torch-free.

A cell's row in `cells.csv` is its commit point: samples, records, metrics and routing pictures are
in place before it. Everything else (cost columns of the samples, accuracy.csv, cost.csv,
routing.csv, report) is derived from those files and may be rebuilt at any time.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import Timeout

from harness.common.errors import StoreError, UsageError, one_line
from harness.common.jsonfile import parse_json
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
from harness.store.folder import CLUSTER, LOCK, RUN_JSON, SHARES, RunLock, read_run_json

DONE, FAILED = "done", "failed"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)  # of the file system: go on without this protection


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
