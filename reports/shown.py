"""The samples whose routing was recorded: ``routing/`` of a run, checked file by file."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.record import IMAGE, RoutingRecord
from reports.record import PROCESSED, read, token_states
from reports.summary import Series, Summary

DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
ATTENTION = "attention.npz"


@dataclass(frozen=True)
class Shown:
    """One sample under one method; ``about`` is empty where only the routing was kept."""

    series: Series
    bench: str
    cell_id: str
    doc_id: str
    record: RoutingRecord
    about: dict[str, Any]

    @property
    def kept_images(self) -> NDArray[np.bool_]:
        """[L, image tokens] processed in their own slot."""
        return np.asarray(token_states(self.record)[:, self.record.kinds == IMAGE] == PROCESSED)


def load(summary: Summary) -> list[Shown]:
    """Every readable sample of the finished cells; one notice for all that cannot be read."""
    found: list[Shown] = []
    broken = 0
    for series, bench, cell_id, folder in _folders(summary):
        for path in sorted(folder.glob("*.npz")):
            if path.name == ATTENTION:
                continue
            try:
                record = read(path)
                about = _about(path.with_suffix(".json"))
            except DAMAGED:
                broken += 1
                continue
            doc = str(about.get("doc_id") or path.stem.partition("-")[2])
            found.append(Shown(series, bench, cell_id, doc, record, about))
    if broken:
        summary.run.notices.append(
            f"routing/: {broken} recorded sample(s) cannot be read; pictures leave them out."
        )
    return found


def attention(summary: Summary) -> tuple[str, dict[str, Any]] | None:
    """The bench and arrays of the first attention maps there are, or None."""
    for _, bench, _, folder in _folders(summary):
        path = folder / ATTENTION
        if not path.exists():
            continue
        try:
            with np.load(path, allow_pickle=False) as data:
                maps = {name: data[name] for name in ("layers", "maps", "tokens", "doc_id")}
            if maps["maps"].ndim != 3 or len(maps["layers"]) != len(maps["maps"]):
                raise ValueError("shapes")
            if not np.isfinite(maps["maps"].astype(np.float32)).all():
                raise ValueError("not finite")
        except DAMAGED:
            note = f"routing/: the attention maps of {bench} cannot be read, left out."
            summary.run.notices.append(note)
            continue
        return bench, maps
    return None


def _folders(summary: Summary) -> Iterator[tuple[Series, str, str, Path]]:
    for bench in summary.benches:
        for series in summary.series:
            cell = summary.cell(series, bench)
            if cell.status == "done" and cell.cell_id.isalnum():
                yield series, bench, cell.cell_id, summary.run.path / "routing" / cell.cell_id


def _about(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    about = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(about, dict) or not isinstance(about.get("words", []), list):
        raise ValueError("no description")
    return about
