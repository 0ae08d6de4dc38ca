"""All answers of a run in one SQLite file, built once and read in pieces.

The file lies in a folder of its own that goes with the server: memory stays flat whatever the run's
size, and the run directory is left as it is. Cells are seen one after the other.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.common.errors import StoreError
from reports.errors import ReportError
from reports.rundata import load_run
from reports.samples import documents
from reports.samples.files import answers_of, evidence_of, json_of, packed_records, there
from reports.summary import Summary, summarise

SCHEMA = """
CREATE TABLE docs (id INTEGER PRIMARY KEY, bench TEXT, doc TEXT, question TEXT, target TEXT,
    image TEXT, images INTEGER, hay TEXT DEFAULT '', UNIQUE (bench, doc));
CREATE TABLE series (id INTEGER PRIMARY KEY, ref INTEGER, control INTEGER);
CREATE TABLE answers (doc INTEGER, series INTEGER, answer TEXT, score REAL, rank REAL,
    ok INTEGER, n_image REAL, n_text REAL, n_out REAL, kv_vision REAL, kv REAL, prefill REAL,
    decode REAL, evidence REAL, PRIMARY KEY (doc, series)) WITHOUT ROWID;
CREATE TABLE records (cell TEXT, doc TEXT, data BLOB, PRIMARY KEY (cell, doc)) WITHOUT ROWID;
"""
RIGHT = 0.5  # as evidence recall counts a right answer
PIECE = 2000  # rows written together


@dataclass
class Progress:
    """What is there so far; written by the builder alone."""

    benches: list[str] = field(default_factory=list)  # that are whole
    documents: dict[str, int] = field(default_factory=dict)
    cells: int = 0
    answers: bool = False
    records: bool = False
    notices: list[str] = field(default_factory=list)


class Index:
    """The samples of one run. ``build`` fills it; ``connect`` reads what is there already."""

    def __init__(self, run: Path, folder: Path) -> None:
        """Raises ReportError, one line, for what is no run and for a run without samples."""
        self.run, self.file = run, folder / "samples.sqlite"
        self.summary: Summary = summarise(load_run(run))
        self.progress = Progress()
        self.cells = {
            key: cell.cell_id
            for key, cell in self.summary.cells.items()
            if cell.status == "done" and there(self._file(cell.cell_id, "csv"))
        }
        if not self.cells:
            raise ReportError(
                f"{run} holds no samples (samples/<cell_id>.csv): give the directory of a run that "
                "answered benchmarks, as its command wrote it"
            )
        rows, benches = {key[0] for key in self.cells}, {key[1] for key in self.cells}
        self.series = [s for s in self.summary.series if s in rows]
        self.benches = [b for b in self.summary.benches if b in benches]
        self.mini = {b for b in self.benches if self.summary.is_mini_bench(b)}
        self._data = _data_sources(self.summary)
        self._stop = threading.Event()
        with closing(self._open()) as base, base:
            base.execute("PRAGMA journal_mode = WAL")
            base.executescript(SCHEMA)
            pairs = [(i, self.reference(i), s.is_control) for i, s in enumerate(self.series)]
            base.executemany("INSERT INTO series VALUES (?, ?, ?)", pairs)

    def _file(self, cell_id: str, kind: str) -> Path:
        return self.run / "samples" / f"{cell_id if cell_id.isalnum() else 'none'}.{kind}"

    def _open(self) -> sqlite3.Connection:
        base = sqlite3.connect(self.file, timeout=30)
        base.execute("PRAGMA synchronous = OFF")  # nothing here has to outlive the server
        base.create_function("casefold", 1, str.casefold, deterministic=True)
        return base

    def connect(self) -> sqlite3.Connection:
        """A connection for reading, whose rows are read by name."""
        base = self._open()
        base.row_factory = sqlite3.Row
        return base

    def reference(self, number: int) -> int | None:
        """The place of dense on the same model, None where the run has none."""
        own = self.series[number]
        found = (i for i, s in enumerate(self.series) if s.is_reference and s.model == own.model)
        return next(found, None)

    def source(self, bench: str) -> documents.Source:
        """Where questions and images of a bench come from."""
        return self._data[bench]

    def image(self, bench: str, doc: str, number: int = 0) -> tuple[bytes, str] | str:
        """Content and media type of a document's image, by its place in the prompt from 0, or why
        there is none.
        """
        with closing(self._open()) as base:
            row = base.execute(
                "SELECT image FROM docs WHERE bench = ? AND doc = ?", (bench, doc)
            ).fetchone()
        if row is None:
            return "No such document."
        names = (row[0] or "").split("+")
        if not 0 <= number < len(names):
            return f"This document has no image {number}."
        return self._data[bench].image(doc, names[number])

    def stop(self) -> None:
        """Ask the builder to end at the next piece."""
        self._stop.set()

    # --- building -----------------------------------------------------------------------------
    def build(self) -> None:
        """Read answers bench by bench, then the records; what cannot be read is a notice."""
        try:
            self._build()
        except (OSError, sqlite3.Error) as error:
            why = f"The index cannot be written ({error}): what follows is missing."
            self.progress.notices.insert(0, why)
        self.progress.answers = True

    def _build(self) -> None:
        with closing(self._open()) as base:
            for bench in self.benches:
                self._bench(base, bench)
                if self._stop.is_set():
                    return
            self.progress.answers = True
            for cell_id in dict.fromkeys(self.cells.values()):
                if self._stop.is_set():
                    return
                self._records(base, cell_id)
            self.progress.records = True

    def _bench(self, base: sqlite3.Connection, bench: str) -> None:
        first = base.execute("SELECT coalesce(max(id), 0) + 1 FROM docs").fetchone()[0]
        known: dict[str, int] = {}
        lower = False
        for number, series in enumerate(self.series):
            cell_id = self.cells.get((series, bench))
            if cell_id is None:
                continue
            falls = self._lower_is_better(cell_id)
            lower |= falls
            with base:  # its answers are seen from here on
                self._cell(base, (cell_id, bench), number, -1 if falls else 1, known, first)
            if self._stop.is_set():
                return
            self.progress.documents[bench] = len(known)
            self.progress.cells += 1
        self.source(bench).forget()
        with base:
            _finish(base, bench, lower)
        self.progress.benches = [*self.progress.benches, bench]

    def _cell(
        self,
        base: sqlite3.Connection,
        cell: tuple[str, str],
        number: int,
        sign: int,
        known: dict[str, int],
        first: int,
    ) -> None:
        """Write the answers of method ``number``; documents are numbered from ``first``."""
        cell_id, bench = cell
        evidence, source = self._evidence(cell_id), self.source(bench)
        docs, rows = [], []
        for row in self._answers(cell_id):
            name, score = row["doc_id"], row["score"]
            if name not in known:
                known[name] = first + len(known)
                asked = source.question(name)
                hay = f"{asked or ''}\n{row['target']}".casefold()  # answers follow at the end
                docs.append((known[name], bench, name, asked, row["target"], row["image_id"],
                             row["n_images"], hay))  # fmt: skip
            rank = None if score is None else sign * score
            rows.append((known[name], number, row["prediction"], score, rank, None,
                         row["n_image"], row["n_text"], row["n_out"], row["kv_ratio_vision"],
                         row["kv_ratio"], row["tflops_prefill"], row["tflops_decode"],
                         evidence.get(name)))  # fmt: skip
            if len(rows) == PIECE:
                _write(base, docs, rows)
                docs, rows = [], []
                if self._stop.is_set():
                    return
        _write(base, docs, rows)

    def _answers(self, cell_id: str) -> Iterator[dict[str, Any]]:
        return answers_of(self._file(cell_id, "csv"), self.progress.notices)

    def _evidence(self, cell_id: str) -> dict[str, float]:
        path = self._file(cell_id, "evidence.json")
        return evidence_of(path, self.progress.notices) if there(path) else {}

    def _lower_is_better(self, cell_id: str) -> bool:
        try:
            metrics = json_of(self._file(cell_id, "metrics.json"))
            return any(m["headline"] and m["higher_is_better"] is False for m in metrics)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _records(self, base: sqlite3.Connection, cell_id: str) -> None:
        path = self.run / "records" / f"{cell_id}.gz"
        if not path.is_file():
            return
        rows: list[tuple[str, str, bytes]] = []
        try:
            for name, packed in packed_records(path):
                rows.append((cell_id, name, packed))
                if len(rows) == PIECE // 10:
                    _keep(base, rows)
                    rows = []
                    if self._stop.is_set():
                        return
        except StoreError as error:
            self.progress.notices.append(str(error))
        _keep(base, rows)


def _write(base: sqlite3.Connection, docs: list[Any], rows: list[Any]) -> None:
    base.executemany("INSERT INTO docs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", docs)
    places = ", ".join("?" * 14)
    base.executemany(f"INSERT OR REPLACE INTO answers VALUES ({places})", rows)


def _keep(base: sqlite3.Connection, rows: list[tuple[str, str, bytes]]) -> None:
    with base:
        base.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", rows)


def _finish(base: sqlite3.Connection, bench: str, lower: bool) -> None:
    """What is right, where scores are on a scale of 0 to 1; and what is searched."""
    own = "doc IN (SELECT id FROM docs WHERE bench = ?)"
    low, high = base.execute(
        f"SELECT min(score), max(score) FROM answers WHERE {own}", (bench,)
    ).fetchone()
    if low is not None and not lower and low >= 0 and high <= 1:
        base.execute(f"UPDATE answers SET ok = score >= {RIGHT} WHERE {own}", (bench,))
    said = "(SELECT group_concat(answer, char(10)) FROM answers WHERE answers.doc = docs.id)"
    base.execute(
        "UPDATE docs SET hay = casefold(coalesce(question, '') || char(10) || target || char(10) "
        f"|| coalesce({said}, '')) WHERE bench = ?",
        (bench,),
    )


def _data_sources(summary: Summary) -> dict[str, documents.Source]:
    """A source a bench; benches whose cells read other data than what is here have none."""
    cells = summary.run.cells
    found = {}
    for bench in summary.benches:
        own = cells[cells["bench"] == bench]
        said = set(own["data_source"]) if "data_source" in own else set()
        mini = summary.is_mini_bench(bench)
        found[bench] = documents.source(summary.run.path, bench, mini, said)
    return found
