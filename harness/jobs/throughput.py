"""``--throughput``: workloads times methods, to throughput.csv, run.json and the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.forecast import Forecast, Part
from harness.common.progress import Progressing
from harness.common.stops import PROGRAM
from harness.jobs.resolve import require_same_files
from harness.jobs.runner import Job
from harness.jobs.timed import make_timing_grid
from harness.options.load import Load
from harness.options.settings import Settings
from harness.options.workload import Workload
from harness.readouts import times
from harness.readouts.ending import Ending
from harness.store.cells import engine_digest
from harness.store.folder import read_run_json
from harness.store.rundir import Store
from harness.timing.cells import LoadCells, TimedCell, TimedCells
from harness.timing.device import Watch, busy_host, cores
from harness.timing.grid import TimingGrid, check_fit


class Throughput(Job):
    """Methods on workloads, timed; with ``--concurrency`` under load."""

    grid: TimingGrid
    cells: TimedCells
    todo: list[Workload | Load]
    bench: Any = None
    busy = ""

    def resolve(self, out: Path) -> dict[str, Any]:
        self.grid = make_timing_grid(self.settings)
        return self.grid.recorded

    def resume(self, out: Path) -> None:
        same_device(out, self.grid.device_name)
        same_model(out, self.grid)

    def open(self, out: Path, show: Progressing) -> dict[str, Any] | None:
        grid = self.grid
        kind = LoadCells if self.settings.concurrency else TimedCells
        self.cells = kind(out, grid, engine_digest())
        self.todo = [work for work in grid.workloads if self.cells.missing(work)]
        self.busy = busy_host()  # before our own work counts as load
        self.watch = Watch(bus_id(grid) if self.todo else None)
        if not self.todo:
            return None
        check_fit(grid, self.todo)
        self.bench = build(grid, show)
        return describe(grid, self.watch)

    def work(self, store: Store, show: Progressing) -> bool:
        grid, todo = self.grid, self.todo
        count = len(grid.workloads)
        what = "loads" if self.settings.concurrency else "workloads"
        show.say(f"{store.path}: {count} {what}, {count - len(todo)} done before")
        for work in todo:
            workload_part(work, grid, show.forecast)
        return time_all(grid, self.bench, todo, self.cells, store, self.watch, self.busy, show)

    def ending(self, out: Path) -> Ending | None:
        return times.ending(out)


def same_device(out: Path, name: str, part: str = "") -> None:
    """Refuse to add times of one device to a run of another. Raises UsageError.

    ``part``: where run.json describes the times, when it describes more than them.
    """
    about = read_run_json(out)
    before = (about.get(part) or {} if part else about).get("device_name")
    if before and before != name:
        raise UsageError(
            f"--out: '{out}' was timed on {before}, this is {name}: times of two devices do not "
            "mix; choose another --out"
        )


def same_model(out: Path, grid: TimingGrid) -> None:
    """Refuse to add times of another model, checkpoint or config. Raises UsageError."""
    if grid.source is not None:
        require_same_files(out, grid.source, grid.trained)
        return
    before = read_run_json(out).get("config")
    if before and before != json.loads(json.dumps(dict(grid.config))):
        raise UsageError(
            f"--out: the config of {grid.model} changed since '{out}' was made: "
            "choose another --out"
        )


def time_all(
    grid: TimingGrid,
    bench: Any,
    todo: Sequence[Workload | Load],
    cells: TimedCells,
    store: Store,
    watch: Watch,
    busy: str,
    show: Progressing,
) -> bool:
    """Time what is missing of some workloads, one after the other; True when a cell failed."""
    failed = False
    for number, work in enumerate(todo, start=1):
        from harness.timing.workrun import run_workload

        how: dict[str, Any] = {}
        if isinstance(work, Load):
            from harness.timing.loadrun import LOADED

            how = {"how": LOADED}
        title = f"[{number}/{len(todo)}] {work.spec}"
        with show.part(title, workload_part(work, grid, show.forecast), still=True) as on_round:
            notes = notes_before(grid, watch, busy)
            stage = partial(_stage, show, title)
            results = run_workload(
                grid, bench, work, cells, store, watch, notes, on_round, stage, **how
            )
        failed = _say(results, title, show) or failed
    return failed


def _stage(show: Progressing, title: str, text: str) -> None:
    """Say what is being done of a workload; its rounds go by its title alone."""
    show.phase(f"{title}: {text}" if text else title, soon=True)


def workload_part(work: Workload | Load, grid: TimingGrid, forecast: Forecast) -> Part:
    """The workload in the forecast of the run; its units are rounds."""
    return forecast.part("times", "", work.spec, grid.settings.repeats)


def _say(results: Sequence[tuple[TimedCell, str]], title: str, show: Progressing) -> bool:
    """A line a method; True when one failed."""
    failed = False
    for cell, text in results:
        if cell.error:
            failed = True
            show.warn(f"{PROGRAM}: {cell.method.label} on {cell.work.spec} failed: {cell.error}")
        else:
            show.say(f"{title} {text}")
    return failed


def build(grid: TimingGrid, show: Progressing) -> Any:
    """The model on its device. Raises UsageError."""
    import torch

    from harness.model.catalog import load_model
    from harness.model.loading import pick_device
    from harness.timing.subject import Bench, build_random

    if grid.source is not None:
        asked = grid.settings
        show.phase(f"loading {grid.model}", soon=True)
        loaded = load_model(grid.source, asked.device, asked.dtype, asked.attn, show.say)
        return Bench(loaded.model, grid.shape, loaded.processor, loaded)
    device, dtype = pick_device(grid.settings.device), getattr(torch, grid.runtime.dtype)
    show.phase(f"building {grid.model} on {device}, {grid.runtime.dtype}, {grid.runtime.attn}")
    try:
        model = build_random(grid.config, device, dtype, grid.runtime.attn, grid.settings.seed)
    except torch.OutOfMemoryError:
        raise UsageError(
            f"--model: {grid.model} does not fit on {grid.device_name}; another process may hold "
            "its memory"
        ) from None
    return Bench(model, grid.shape)


def notes_before(grid: TimingGrid, watch: Watch, busy: str) -> tuple[str, ...]:
    """Watermarks: what makes these times less than the protocol asks for."""
    found = [busy] if busy else []
    others = watch.others()
    if others:
        found.append(f"busy device: {others} other process{'es' if others > 1 else ''} on it")
    asked = grid.settings
    for name in ("repeats", "warmup"):
        if getattr(asked, name) < getattr(Settings(), name):
            found.append(f"{name} {getattr(asked, name)}, the protocol asks for "
                         f"{getattr(Settings(), name)}")  # fmt: skip
    return tuple(found)


def bus_id(grid: TimingGrid) -> str | None:
    """PCI address of the CUDA device, by which NVML knows it; None elsewhere."""
    if grid.runtime.device != "cuda":
        return None
    import torch

    from harness.model.loading import pick_device

    at = torch.cuda.get_device_properties(pick_device(grid.settings.device))
    if not hasattr(at, "pci_bus_id"):
        return None
    return f"{at.pci_domain_id:08X}:{at.pci_bus_id:02X}:{at.pci_device_id:02X}.0"


def describe(grid: TimingGrid, watch: Watch) -> dict[str, Any]:
    """What run.json says of the model and the conditions."""
    return {
        **conditions(grid, watch),
        "dtype": grid.runtime.dtype,
        "attn": grid.runtime.attn,
        "seed": grid.settings.seed,
        "model_id": grid.model,
        "mini": grid.mini,
        "weights": "random" if grid.source is None else "loaded",
        "revision": None if grid.source is None else grid.source.revision,
        "weight_hashes": {} if grid.source is None else grid.source.weight_hashes,
        "model_files": {} if grid.source is None else grid.source.setting_hashes,
        "checkpoints": {name: {"files": files} for name, files in grid.trained.items() if files},
        "config": dict(grid.config) if grid.source is None else None,
        "settings": grid.recorded,
    }


def conditions(grid: TimingGrid, watch: Watch) -> dict[str, Any]:
    """What run.json says about the clock and the device."""
    import torch

    clocks = {"cuda": "CUDA events; host clock end to end", "mps": "host clock, device waited for"}
    return {
        "device_name": grid.device_name,
        "threads": torch.get_num_threads(),
        "cores": cores(),
        "clock": clocks.get(grid.runtime.device, "host clock (CPU)"),
        "device_state": "recorded by NVML" if watch.there else "clocks not recorded",
        "processes": 1,
        "notes": list(grid.notes),
    }
