"""Times inside a run on benchmarks (``--with-throughput``): after its answers, on the same model.

The protocol is `harness.timing`'s own. Nothing is timed while an answer is scored, and no timed
call leaves a score: the two share the loaded model, the methods with their weights, and the run
directory.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.bench.benches import resolve_bench
from harness.common.errors import UsageError
from harness.common.forecast import Forecast
from harness.common.ownfiles import is_own, own_name
from harness.common.progress import Progressing
from harness.common.stops import PROGRAM
from harness.jobs.grid import Grid
from harness.jobs.throughput import bus_id, conditions, same_device, time_all, workload_part
from harness.jobs.timed import check_rounds, of_benches
from harness.options.option import flag
from harness.options.settings import Settings
from harness.options.workload import Workload, parse_workload
from harness.store.rundir import Store
from harness.timing.cells import TimedCells
from harness.timing.device import Watch, busy_now
from harness.timing.grid import TimingGrid, check_fit, device_name

OURS = ("harness", "methods")
DOCUMENTS = 8  # of a bench that are timed; an evaluation's --limit may be far more


class Within:
    """The times that belong to a run on benchmarks."""

    def __init__(self, grid: Grid, out: Path) -> None:
        """Raises UsageError, one line, before anything was built or written."""
        self.grid = grid_within(grid)
        self.cells = TimedCells(out, self.grid, grid.cells[0].key.engine_source)
        self.todo = [work for work in self.grid.workloads if self.cells.missing(work)]
        check_fit(self.grid, self.todo)

    @property
    def recorded(self) -> dict[str, Any]:
        """What the run's settings say beyond those of a run on benchmarks."""
        return {"workload": [work.spec for work in self.grid.workloads]}

    def resume(self, out: Path) -> None:
        """Refuse to add times of another device. Raises UsageError."""
        same_device(out, self.grid.device_name, "timing")

    def methods(self) -> dict[Any, Path | None]:
        """Method -> folder of its weights, of all methods that are not timed everywhere yet."""
        missing = [method for work in self.todo for method in self.cells.missing(work)]
        return {method: self.grid.checkpoints.get(method.name) for method in missing}

    def describe(self) -> dict[str, Any]:
        """The conditions of the times, for run.json."""
        return {"timing": conditions(self.grid, Watch(bus_id(self.grid)))}

    def plan(self, forecast: Forecast) -> None:
        """A part a workload."""
        for work in self.todo:
            workload_part(work, self.grid, forecast)

    def run(self, session: Any, store: Store, show: Progressing) -> bool:
        """Time what is missing; True when a cell failed."""
        if not self.todo:
            return False
        from harness.timing.subject import Bench

        release(session)
        left = left_behind(session.model)
        if left:
            return self._fail(store, f"nothing was timed: {left}", show)
        bench = Bench(session.model, self.grid.shape, session.processor, session)
        watch = Watch(bus_id(self.grid))
        show.say(f"times: {len(self.grid.workloads)} workloads, {len(self.todo)} to do")
        return time_all(self.grid, bench, self.todo, self.cells, store, watch, busy_now(), show)

    def _fail(self, store: Store, reason: str, show: Progressing) -> bool:
        show.warn(f"{PROGRAM}: {reason}")
        for work in self.todo:
            for method in self.cells.missing(work):
                self.cells.fail(store, self.cells.cell(method, work), reason)
        return True


def grid_within(grid: Grid) -> TimingGrid:
    """The timing of a planned run: its methods, weights and conditions, on its benches.

    Raises UsageError for a workload on a bench that there is not.
    """
    settings = grid.settings
    # A time belongs to one batch size: that of the answers where it was asked for, else 1, which
    # documents of unequally many images can be timed at too.
    batch = 1 if settings.batch_size is None else grid.cells[0].key.batch_size
    settings = replace(settings, batch_size=batch)
    check_rounds(settings)
    known = {cell.bench.name: cell.bench for cell in grid.cells}
    found = {}
    workloads = tuple(_workloads(settings))
    for work in workloads:
        if name := work.bench:
            # A file of another folder may have the name of one of the run's.
            asked = known.get(own_name(name)) if name in settings.bench else None
            found[name] = asked or resolve_bench(
                name, settings.data, grid.source.mini, settings.allow
            )
    checkpoints = {c.method.name: c.checkpoint for c in grid.cells if c.checkpoint is not None}
    return TimingGrid(
        settings=replace(settings, limit=min(settings.limit or DOCUMENTS, DOCUMENTS)),
        methods=tuple(dict.fromkeys(c.method for c in grid.cells if c.method.role != "probe")),
        workloads=workloads,
        model=grid.source.model_id,
        shape=grid.source.info,
        config=grid.source.config,
        source=grid.source,
        runtime=grid.runtime,
        device_name=device_name(settings.device),
        checkpoints=checkpoints,
        trained={cell.method.name: cell.key.weights["checkpoint"] for cell in grid.cells},
        data={name: bench.data for name, bench in found.items()},
        content={name: one.fingerprint() for name, one in found.items() if is_own(name)},
    )


def _workloads(settings: Settings) -> Sequence[Workload]:
    """One of every bench, or those that ``--workload`` names."""
    if not settings.workload:
        return of_benches(settings)
    if settings.n_out != Settings().n_out:
        raise UsageError(f"{flag('n_out')} has no meaning beside --workload, which says it itself")
    return [parse_workload(text) for text in settings.workload]


def release(loaded: Any) -> None:
    """Give back what the answers left in memory: it would count as a method's peak."""
    if loaded.features is not None:
        loaded.features.clear()
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def left_behind(model: Any) -> str:
    """What an evaluation forgot to take off the model and would lie inside every time, in words.

    Hooks of the model's own library are part of it, with or without us.
    """
    for name, module in model.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        shadows = [vars(module).get(n) for n in ("forward", "get_image_features")]
        if any(map(_ours, [*hooks, *shadows])):
            return f"a hook of ours is left on {name or 'the model'}"
    return ""


def _ours(function: Any) -> bool:
    inner = getattr(function, "func", function)  # of a functools.partial
    return (getattr(inner, "__module__", None) or "").partition(".")[0] in OURS
