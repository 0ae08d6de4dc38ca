"""`--reuse RUN`: answers of finished cells with the same id, from other runs. Torch-free.

A cell's id is a hash over all that can change its numbers, so one that is whole in another run need
not be answered again. It is found and read through before the model is loaded, and copied when this
run's directory is open: its files first, its row of `cells.csv` last, as when it had been answered.
The other run is only read. What is damaged there is answered here.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.common.errors import StoreError, UsageError, one_line
from harness.jobs.grid import Cell
from harness.readouts.stored import require_readable
from harness.store import columns
from harness.store.csvfile import read_rows, write_atomic
from harness.store.folder import is_run, open_for_reading, read_run_json
from harness.store.records import AGAIN
from harness.store.rundir import DONE, Store
from harness.store.submissions import copy_files

FLAG = "--reuse"
PROVENANCE = ("device_name", "created_at", "git_commit", "reused")  # what is kept of another run
SAME = (
    "engine_hash", "versions", "model_id", "weight_hashes", "model_files", "processor_hash",
    "protocol",
)  # fmt: skip
SETTINGS = ("data", "limit", "batch_size", "device", "dtype", "attn", "seed", "sample", "allow")

FILES = (  # of a cell, in the order in which they are copied
    Store.metrics_json,
    Store.records_gz,
    Store.samples_csv,
    Store.routing_json,
    Store.evidence_json,
    Store.stamp_json,
)


@dataclass
class Source:
    """Another run: its description, and its finished cells by the id that was asked for."""

    target: str  # as the user wrote it
    name: str  # as this run calls it
    store: Store
    about: dict[str, Any]
    done: dict[str, dict[str, str]]
    half: set[str]  # that the run says are done, without all of their files
    damaged: list[str] = field(default_factory=list)


@dataclass
class Reuse:
    """The other runs of a run, and which of its cells are taken from where."""

    sources: list[Source]
    taken: dict[str, Source] = field(default_factory=dict)  # by requested id

    def find(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that no other run has whole; the others are noted, first run first."""
        left = []
        for cell in cells:
            cell_id = cell.key.cell_id
            source = next((s for s in self.sources if is_whole(s, cell_id, cell.name)), None)
            if source is None:
                left.append(cell)
            else:
                self.taken[cell_id] = source
        return left

    def said(self, cells: Sequence[Cell], about: Mapping[str, Any]) -> Iterator[str]:
        """A line a run: how many of this run's cells are taken from it, or why none could be."""
        ids = {cell.key.cell_id for cell in cells}
        for source in self.sources:
            taken = sum(one is source for one in self.taken.values())
            half = len(ids & source.half)
            parts = [f"{FLAG}: {taken} of {len(ids)} cells taken from {source.target}"]
            parts += [f"{half} lack{'s' * (half == 1)} files there"] if half else []
            parts += [f"damaged there, so not taken: {text}" for text in source.damaged]
            if not ids & {*source.done} and len(parts) == 1:
                parts = [f"{FLAG}: {source.target} has no cell of this run{_why(source, about)}"]
            yield "; ".join(parts)

    def take(self, store: Store) -> None:
        """Copy the cells into an open run. Raises StoreError, those before it are kept."""
        for requested, source in self.taken.items():
            row = source.done[requested]
            copy_cell(source.store, store, row["cell_id"])
            require_readable(store, row)
            known = {name: row.get(name, "") for name in columns.CELLS}
            store.record({**known, "requested_id": requested, "reused_from": source.name})

    def described(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """A run's description where nothing was loaded: what a loaded model knows is theirs."""
        sources = [s for s in self.sources if any(t is s for t in self.taken.values())]
        names = dict.fromkeys(str(source.about.get("device_name", "")) for source in sources)
        theirs = sources[0].about
        known = ("referees", "image_processor")
        loaded: dict[str, Any] = {name: theirs[name] for name in known if name in theirs}
        return {**about, **loaded, "device_name": ", ".join(filter(None, names))}

    def recorded(self, out: Path) -> dict[str, Any]:
        """`reused` of run.json: run -> what it says of itself, and the cells that came from it."""
        before = read_run_json(out).get("reused") if is_run(out) else None
        found: dict[str, Any] = dict(before) if isinstance(before, dict) else {}
        for source in self.sources:
            ids = [cell for cell, one in self.taken.items() if one is source]
            if ids:
                said = {name: source.about[name] for name in PROVENANCE if source.about.get(name)}
                old = found.get(source.name, {}).get("cells", [])
                found[source.name] = {**said, "cells": [*dict.fromkeys([*old, *ids])]}
        return {"reused": found} if found else {}


def open_sources(targets: Sequence[str], out: Path) -> Reuse:
    """The runs named by `--reuse`. Raises UsageError for one that is no run, or is this one."""
    found: list[Source] = []
    for target in targets:
        path = open_for_reading(target, FLAG)
        if path.resolve() == out.resolve():
            raise UsageError(f"{FLAG}: '{target}' is this run itself, which is resumed anyway")
        found.append(open_source(target, FLAG, {one.name for one in found}))
    return Reuse(found)


def open_source(target: str, asked: str, names: Collection[str] = ()) -> Source:
    """A run to take cells from, under a name that is not among `names`. Raises UsageError."""
    path = open_for_reading(target, asked)
    store = Store(path)
    try:
        done = store.done()
        rows = read_rows(store.cells_csv)
    except StoreError as error:
        raise UsageError(f"{asked}: {one_line(error)}") from None
    name = path.resolve().name
    if name in names:
        name = f"{path.resolve().parent.name}/{name}"
    said = {r.get("requested_id") or r["cell_id"] for r in rows if r.get("status") == DONE}
    return Source(target, name, store, read_run_json(path), done, said - {*done})


def is_whole(source: Source, cell_id: str, name: str) -> bool:
    """Whether a run has a cell and all of it can be read; what is damaged there is noted."""
    row = source.done.get(cell_id)
    if row is None:
        return False
    try:
        require_readable(source.store, row)
        _read_through(source.store.records_gz(row["cell_id"]))
    except StoreError as error:
        source.damaged.append(f"{name} ({one_line(error).removesuffix('; ' + AGAIN)})")
        return False
    return True


def _read_through(path: Path) -> None:
    """Raise StoreError for a compressed file that is cut off or altered."""
    try:
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"{path}: cannot be read ({one_line(error, 120)})") from None


def _why(source: Source, about: Mapping[str, Any]) -> str:
    """The conditions that differ by run.json; empty where it is the methods or the benches."""
    there = source.about
    other = [n for n in SAME if n in there and there[n] != about.get(n)]
    settings, ours = there.get("settings") or {}, about["settings"]
    other += [f"{n} ({settings.get(n)})" for n in SETTINGS if settings.get(n) != ours.get(n)]
    return f": its {', '.join(other)} {'differs' if len(other) == 1 else 'differ'}" if other else ""


def copy_cell(source: Store, target: Store, cell_id: str) -> None:
    """All files of a cell, each whole. Raises StoreError."""
    for shown in sorted(source.routing_dir(cell_id).glob("*.json")):
        for image in _images(shown):
            place = Path("routing") / "images" / f"{image}.jpg"
            if (source.path / place).is_file() and not (target.path / place).exists():
                _copy(source.path / place, target.path / place)
    for file in sorted(source.routing_dir(cell_id).glob("*")):
        if file.suffix in (".npz", ".json"):
            _copy(file, target.routing_dir(cell_id) / file.name)
    copy_files(source.submissions_dir(cell_id), target.submissions_dir(cell_id))
    target.stamp_json(cell_id).unlink(missing_ok=True)
    target.evidence_json(cell_id).unlink(missing_ok=True)
    for file_of in FILES:
        if file_of(source, cell_id).is_file():
            _copy(file_of(source, cell_id), file_of(target, cell_id))


def _images(shown: Path) -> Iterable[str]:
    """Names of the pictures that a shown sample has."""
    try:
        names = json.loads(shown.read_text(encoding="utf-8")).get("images", [])
    except (OSError, ValueError, AttributeError):
        return ()
    return [name for name in names if isinstance(name, str) and Path(name).name == name]


def _copy(source: Path, target: Path) -> None:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {source}: {error.strerror or error}") from error
    write_atomic(target, content)
