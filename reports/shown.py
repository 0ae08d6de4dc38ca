"""The samples whose routing was recorded: ``routing/`` of a run, checked file by file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.store.record import DAMAGED, IMAGE, QUESTION, RoutingRecord
from reports.cell import Series
from reports.csvio import read_object
from reports.record import read
from reports.summary import Summary

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
    def is_mixed(self) -> bool:
        """Whether its image tokens were made of several grids: none stands for a place."""
        return any(grid.get("mixed") for grid in self.record.grid)

    @cached_property
    def kept_images(self) -> NDArray[np.bool_]:
        """[L, image tokens] processed in their own slot."""
        return self.record.keep[:, self.record.kinds == IMAGE]


def question(sample: Shown) -> str:
    """The words of the prompt that stand for the question, on one line."""
    words = [str(w) for w in sample.about.get("words") or []]
    kinds = sample.record.kinds
    kinds = kinds[kinds != IMAGE].tolist()
    own = [w for w, kind in zip(words, kinds, strict=False) if kind == QUESTION]
    joined = "".join(own).strip()
    return " ".join(joined.partition("\n")[0].split())


def load(summary: Summary) -> list[Shown]:
    """Every readable sample of the finished cells; one notice for all that cannot be read."""
    found: list[Shown] = []
    broken: list[str] = []
    for series, bench, cell_id, folder in _folders(summary):
        for path in sorted(folder.glob("*.npz")):
            if path.name == ATTENTION:
                continue
            try:
                record = read(path)
                about = _about(path.with_suffix(".json"))
            except (OSError, ValueError) as error:
                broken.append(f"{folder.name}/{path.stem} ({error})")
                continue
            doc = str(about.get("doc_id") or path.stem.partition("-")[2])
            found.append(Shown(series, bench, cell_id, doc, record, about))
    if broken:
        summary.run.notices.append(
            f"routing/: {len(broken)} recorded sample(s) cannot be read; pictures leave them out. "
            f"The first is {broken[0]}."
        )
    return found


def attention(summary: Summary) -> tuple[str, dict[str, Any]] | None:
    """The bench and arrays of the first attention maps there are, or None."""
    for _, bench, _, folder in _folders(summary):
        path = folder / ATTENTION
        if not path.exists():
            continue
        try:
            maps = _maps(path)
        except (OSError, ValueError, *DAMAGED):
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


def _maps(path: Path) -> dict[str, Any]:
    """Layers and tokens as ints, maps [layers, side, side]; raises when they are not that."""
    with np.load(path, allow_pickle=False) as data:
        maps, layers = data["maps"].astype(np.float64), [int(layer) for layer in data["layers"]]
        tokens, doc_id = int(data["tokens"]), str(data["doc_id"])
    if maps.ndim != 3 or not maps.size or maps.shape[1] != maps.shape[2] or tokens < 1:
        raise ValueError("no maps")
    if len(layers) != len(maps) or not np.isfinite(maps).all():
        raise ValueError("maps of other layers, or not finite")
    return {"layers": layers, "maps": maps, "tokens": tokens, "doc_id": doc_id}


def _about(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    about = read_object(path)
    lists = (about.get("words"), about.get("images"))
    if not all(isinstance(value, list | None) for value in lists):
        raise ValueError("no description")
    return about
