"""From settings to cells: every name resolved, every cell's key known, nothing written yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.ownfiles import own_asked
from harness.common.processor import lacks
from harness.common.roots import DATA
from harness.jobs.budgets import with_budgets
from harness.jobs.resolve import (
    check_methods,
    checkpoint_hashes,
    find_checkpoints,
    named_methods,
    on_cpu,
    with_trained_parameters,
)
from harness.options.runtime import AUTO_BATCH, DENSE, Runtime
from harness.options.settings import Settings
from harness.store.cells import CellKey, package_versions


@dataclass(frozen=True)
class Cell:
    """One cell to compute: its key, and the objects that compute it."""

    key: CellKey
    method: Any  # methods.base.Method
    bench: Any  # harness.bench.benches.Bench
    checkpoint: Path | None

    @property
    def name(self) -> str:
        """How progress lines call it."""
        return f"{self.method.label} on {self.bench.name}"


@dataclass(frozen=True)
class Grid:
    """Cells in the order of the settings: bench by bench, dense first."""

    settings: Settings
    source: Any  # harness.model.source.ModelSource
    runtime: Runtime
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()  # to be said before the first cell

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings a run directory belongs to, with every `auto` resolved."""
        first = self.cells[0].key
        shown = (cell.method for cell in self.cells if cell.method.role != "probe")
        methods = dict.fromkeys(method.spec for method in shown)
        return {
            **self.settings.recorded(),
            "methods": list(methods),
            "bench": list(dict.fromkeys(cell.bench.name for cell in self.cells)),
            "model": self.source.model_id,
            "data": sorted({cell.bench.data for cell in self.cells}),
            "device": self.runtime.device,
            "dtype": self.runtime.dtype,
            "attn": self.runtime.attn,
            "batch_size": first.batch_size,
            "threads": self.runtime.threads,
        }

    @property
    def checkpoints(self) -> dict[str, Any]:
        """Method name -> where its weights came from and their hashes.

        The probe's are dense's: a run goes on with and without it.
        """
        return {
            cell.method.name: {
                "path": _shown(cell.checkpoint),
                "files": cell.key.weights["checkpoint"],
            }
            for cell in self.cells
            if cell.checkpoint is not None and cell.method.role != "probe"
        }

    def described(self, device_name: str) -> dict[str, Any]:
        """What `run.json` says of the model and the conditions."""
        return {
            "device_name": device_name,
            "dtype": self.runtime.dtype,
            "attn": self.runtime.attn,
            **on_cpu(self.runtime),
            "seed": self.settings.seed,
            "protocol": str(self.settings.asking),
            "model_id": self.source.model_id,
            "mini": bool(self.source.mini),
            "data_asked": self.settings.data,
            **own_asked(self.settings.bench),
            "revision": self.source.revision,
            "weight_hashes": self.source.weight_hashes,
            "model_files": self.source.setting_hashes,
            "processor_hash": self.source.processor_hash,
            "engine_hash": self.cells[0].key.engine_source,
            "checkpoints": self.checkpoints,
            "settings": self.recorded,
        }


def _shown(path: Path) -> str:
    """A path as a run that is passed on may name it: shipped weights by their place here."""
    return path.relative_to(DATA).as_posix() if path.is_relative_to(DATA) else str(path)


def make_grid(
    settings: Settings,
    methods: list[Any],
    source: Any,
    benches: Sequence[Any],
    runtime: Runtime,
    engine: str,
) -> Grid:
    """The cells of methods (dense first) on benches, with their weights and keys.

    `engine` is the hash of the code between a method's decision and a score. Raises UsageError.
    """
    for bench in benches:
        bench.require(settings.limit)
    checkpoints = find_checkpoints(settings, methods, source)
    methods = with_trained_parameters(methods, checkpoints)
    check_methods(methods, source.info)
    methods, notes = with_budgets(methods, settings.budgets, source.info)
    if settings.controls:
        from harness.jobs.matched import with_controls

        methods, said = with_controls(methods, source.info, named_methods)
        notes += said
        checkpoints = find_checkpoints(settings, methods, source)  # theirs are dense's
    if settings.slice:
        from methods.quarter import Quarter

        methods = [*methods, Quarter()]
        checkpoints = find_checkpoints(settings, methods, source)  # dense's
    batch = settings.batch
    batch_size = AUTO_BATCH[runtime.device] if isinstance(batch, str) else batch
    cells = []
    for bench in benches:
        fingerprint = bench.fingerprint(settings.limit)
        for method in methods:
            path = checkpoints.get(method.name)
            weights = {
                "revision": source.revision,
                "files": source.file_hashes,
                "checkpoint": checkpoint_hashes(path) if path else None,
            }
            key = CellKey(
                method=method.name,
                params=method.params(),
                method_source=method.source_hash(),
                engine_source=engine,
                versions=package_versions(),
                model=source.model_id,
                weights=weights,
                processor=source.processor_hash,
                bench=bench.name,
                task=bench.task,
                task_version=bench.task_version,
                data=bench.data,
                fingerprint=fingerprint,
                limit=settings.limit,
                device=runtime.device,
                dtype=runtime.dtype,
                attn=runtime.attn,
                batch_size=batch_size,
                seed=settings.seed,
                allow=settings.allow,
                sample=settings.sample,
                device_map=settings.device_map,
                protocol=str(settings.asking),
            )
            cells.append(Cell(key, method, bench, path))
    if runtime.device == "cpu":
        notes = (*notes, *filter(None, [lacks(runtime.dtype)]))
    return Grid(settings, source, runtime, tuple(cells), notes)


def planned_documents(cell: Cell) -> int | None:
    """How many documents a cell is going to answer; None where that is not known yet."""
    return min((n for n in (cell.bench.documents, cell.key.limit) if n), default=None)


def too_few(grid: Grid, margin: float) -> str:
    """A line on benches with fewer documents than `non-inferior` within `margin` points needs.

    Empty without such a bench, and where dense stands alone. Before the run the images are not
    known; with several documents an image more are needed, which the report says.
    """
    from harness.statistics.power import smallest_n

    needed = smallest_n(margin / 100)
    planned = {c.bench.name: planned_documents(c) for c in grid.cells if c.method.name != DENSE}
    few = [
        f"{bench} has {n}" for bench, n in planned.items() if n and (needed is None or n < needed)
    ]
    if not few:
        return ""
    points = f"{margin:g} point{'' if margin == 1 else 's'}"
    least = "no number of documents" if needed is None else f"{needed} documents"
    return (
        f"non-inferior within {points} takes at least {least}, even where nothing changes: "
        f"{', '.join(few)}"
    )
