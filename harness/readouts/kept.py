"""Rows that tables have of a cell, kept beside it, so that a resumed run does not draw them again.

``samples/<cell_id>.tables.json``: its rows of cost.csv, evidence.csv and accuracy.csv. They count
only under the code, seed and margin that made them and for the same bytes of samples, metrics and
evidence, those of accuracy.csv also for the same bytes of the cells that they are held against;
else they are made again. The file may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.common.errors import StoreError
from harness.common.jsonfile import read_json
from harness.common.roots import ROOT
from harness.readouts.accuracy import MetricRow
from harness.statistics.stats import Interval, Paired
from harness.store import tables
from harness.store.cells import source_digest
from harness.store.csvfile import write_atomic
from harness.store.rundir import Store
from methods.sources import with_imports

MADE_BY = "harness/readouts/derive.py"
PACKAGES = ("numpy", "scipy")
APART = {"seconds", "finished_at", "rank_count", "threads", "reused_from"}  # in no table of a cell


@cache
def _code() -> str:
    versions = " ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return source_digest(with_imports([ROOT / MADE_BY])) + versions


class Kept:
    """What is kept of one cell. `fresh`: nothing that was kept before counts."""

    def __init__(self, store: Store, cell_id: str, row: dict[str, str], seed: int, margin: float,
                 fresh: bool) -> None:  # fmt: skip
        self.path = store.samples_csv(cell_id).with_name(f"{cell_id}.tables.json")
        self.is_packed = tables.is_packed(store.path)
        places = (store.samples_csv, store.metrics_json, store.evidence_json)
        said = {name: value for name, value in row.items() if name not in APART}
        digest = hashlib.sha256(json.dumps([_code(), seed, margin, said], sort_keys=True).encode())
        for place in places if not self.is_packed else ():
            content = tables.content(place(cell_id)) if tables.exists(place(cell_id)) else None
            digest.update(hashlib.sha256(content or b"").digest())
        self.key = digest.hexdigest()
        self.known: dict[str, Any] = {} if fresh or self.is_packed else self._read()
        self.accuracy: dict[str, Any] = self.known.setdefault("accuracy", {})

    def _read(self) -> dict[str, Any]:
        try:
            found = read_json(self.path)
        except (OSError, ValueError):
            return {}
        same = isinstance(found, dict) and found.get("key") == self.key
        return found["rows"] if same and isinstance(found.get("rows"), dict) else {}

    def rows_of(self, against: str) -> list[MetricRow] | None:
        """Rows of accuracy.csv against cells, given by their `key`."""
        found = self.accuracy.get(against)
        return None if found is None else [_metric_row(one) for one in found]

    def keep(self, against: str, rows: list[MetricRow]) -> None:
        """Take rows of accuracy.csv, the last of a cell, and write everything down."""
        self.accuracy.clear()
        self.accuracy[against] = [_plain(one) for one in rows]
        if self.is_packed:
            return
        text = json.dumps({"key": self.key, "rows": self.known}, default=lambda v: v.item())
        try:
            write_atomic(self.path, text.encode(), durable=False)
        except StoreError:  # tables that cannot be written say so themselves
            Path(self.path).unlink(missing_ok=True)


def _plain(one: MetricRow) -> dict[str, Any]:
    about = (one.margin, one.higher_is_better, one.in_family)
    return {"row": one.row, "about": about, "paired": one.paired and asdict(one.paired)}


def _metric_row(kept: dict[str, Any]) -> MetricRow:
    paired = kept["paired"]
    if paired is not None:
        paired = Paired(**{**paired, "delta": Interval(**paired["delta"])})
    return MetricRow(kept["row"], paired, *kept["about"])
