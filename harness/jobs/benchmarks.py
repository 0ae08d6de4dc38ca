"""The main job: settings -> cells -> the missing ones -> tables and report -> exit code."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.common.errors import CellError, StoreError, one_line
from harness.common.forecast import Forecast
from harness.common.progress import Progressing
from harness.common.stops import PROGRAM
from harness.cost.findings import RefereeError
from harness.jobs.cellrun import record_failure, run_cell
from harness.jobs.grid import Cell, Grid, make_grid, too_few
from harness.jobs.planned import part_of, plan_cells
from harness.jobs.resolve import (
    named_methods,
    on_cpu,
    require_same_files,
    runtime_of,
    use_threads,
    with_dense,
)
from harness.jobs.reuse import Reuse, open_sources
from harness.jobs.runner import Job
from harness.model.session import Session
from harness.options.runtime import Runtime
from harness.options.settings import Settings
from harness.readouts.derive import Derived
from harness.readouts.ending import Ending
from harness.readouts.stored import read_out_cell, require_readable
from harness.readouts.summary import ending
from harness.store.against import keep, meant
from harness.store.cells import engine_digest, params_json
from harness.store.rundir import Store, is_run, read_run_json
from harness.store.runinfo import CIRCUMSTANCES, versions


class Extra(Protocol):
    """What else is done after a run's answers, on the same loaded model and in its directory."""

    @property
    def recorded(self) -> dict[str, Any]:
        """What the settings of the run directory say of it."""

    def resume(self, out: Path) -> None:
        """Refuse a directory that it cannot go on with. Raises UsageError."""

    def methods(self) -> dict[Any, Path | None]:
        """Method -> folder of its weights, of all that will run; empty when nothing is left."""

    def describe(self) -> dict[str, Any]:
        """What run.json says of it."""

    def plan(self, forecast: Forecast) -> None:
        """What is left of it, for the time that the run still takes."""

    def run(self, session: Any, store: Store, show: Progressing) -> bool:
        """Do what is missing; True when a part of it failed."""


class Benchmarks(Job):
    """Methods on benches. `session`: a model that is loaded already, used instead of a name."""

    grid: Grid
    reuse: Reuse
    extras: list[Extra]
    against: list[str]  # labels of the rows that the first table compares with
    referees: Any = None

    def __init__(
        self, settings: Settings, argv: Sequence[str], session: Session | None = None
    ) -> None:
        super().__init__(settings, argv)
        self.session = session

    # --- what a run is made of: real things here, stand-ins in tests ------------------------------
    def source(self) -> Any:
        """The model's files, found and checked. Raises UsageError."""
        from harness.model.catalog import find_model

        return find_model(self.settings.model) if self.session is None else self.session.source

    def runtime(self, source: Any) -> Runtime:
        """Device, dtype and backend. Raises UsageError."""
        if self.session is None:
            return runtime_of(self.settings, source.mini, source.info.hidden)
        device = self.session.model.device.type
        threads = use_threads(self.settings, source.info.hidden) if device == "cpu" else None
        return Runtime(device, self.session.dtype, self.session.attn, threads)

    def bench(self, name: str, source: Any) -> Any:
        """A bench on concrete data. Raises UsageError."""
        from harness.bench.benches import resolve_bench

        return resolve_bench(name, self.settings.data, mini_model=source.mini)

    def engine(self) -> str:
        """Hash of the code between a method's decision and a score."""
        return engine_digest()

    def load(self, show: Progressing) -> Any:
        """The one session of this run. Raises UsageError."""
        from harness.common.torchvision_ops import declare_missing_ops
        from harness.model.catalog import load_model

        if self.session is not None:
            return self.session
        asked = self.settings
        # What asks the questions: a third of a start, and cheapest while nothing is collected.
        declare_missing_ops()
        import harness.bench.upstream  # noqa: F401

        how = (asked.device, asked.dtype, asked.attn, show.say)
        return load_model(self.grid.source, *how, device_map=asked.device_map)

    def counters(self) -> Any:
        """The counters of FLOPs on the model's parts, see `harness.cost.referees.Referees`."""
        from harness.cost.modules import decoder_like
        from harness.cost.referees import referees_for
        from harness.engine.model import find_parts

        assert self.session is not None
        found = find_parts(self.session.model)
        return referees_for(self.session.info, decoder_like(found.layers[0], found.config))

    def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
        """One cell: see `harness.bench.loop.evaluate`."""
        from harness.bench.loop import evaluate

        return evaluate(session, method, bench, **options)

    # --- the steps --------------------------------------------------------------------------------
    def resolve(self, out: Path) -> dict[str, Any]:
        settings = self.settings
        methods = with_dense(named_methods(settings.methods))
        source = self.source()
        benches = [self.bench(name, source) for name in settings.bench]
        runtime = self.runtime(source)
        self.grid = make_grid(settings, methods, source, benches, runtime, self.engine())
        self.reuse = open_sources(settings.reuse, out)
        rows = [(cell.method, cell.key.params) for cell in self.grid.cells]
        self.against = meant(
            settings.against,
            [{"method": m.name, "label": m.label, "params": params_json(p)} for m, p in rows],
        )
        self.extras = list(self._extras(out))
        self.recorded = dict(self.grid.recorded)
        for extra in self.extras:
            self.recorded |= extra.recorded
        return self.recorded

    def _extras(self, out: Path) -> Sequence[Extra]:
        """Raises UsageError for times that cannot be measured."""
        found: list[Extra] = []
        if self.settings.analyse:
            from harness.jobs.analyses import Analyses

            found.append(Analyses(self.grid, out, self.evaluate))
        if self.settings.with_throughput:
            from harness.jobs.within import Within

            found.append(Within(self.grid, out))
        return found

    def resume(self, out: Path) -> None:
        for extra in self.extras:
            extra.resume(out)
        tuned = {name: said["files"] for name, said in self.grid.checkpoints.items()}
        require_same_files(out, self.grid.source, tuned)

    def open(self, out: Path, show: Progressing) -> dict[str, Any] | None:
        """The loaded model, with every method and its weights checked on it, where work is left.

        With it the counters of FLOPs, and what they say of the model's parts (RefereeError where
        they disagree).
        """
        todo, self.damaged = self._left(out)
        todo = self.reuse.find(todo)
        if self.reuse.sources:
            conditions = {**describe_run(self.grid, ""), "versions": versions()}
            for line in self.reuse.said(self.grid.cells, conditions):
                show.say(line)
        used = {cell.method: cell.checkpoint for cell in todo}
        for extra in self.extras:
            used |= extra.methods()
        if not used:
            self.session = None
            return self._taken_up(out)
        show.phase(f"loading {self.grid.source.model_id}", soon=True)
        self.session = self.load(show)
        show.phase("checking methods", soon=True)
        for method, checkpoint in used.items():
            self.session.check(method, checkpoint)
        show.phase("checking the counters of FLOPs", soon=True)
        self.referees = self.counters()
        about = describe_run(self.grid, self.session.device_name)
        about |= {"referees": self.referees.described(), "settings": self.recorded}
        about["image_processor"] = self.session.image_processor
        about["cells"] = self._ids()  # --derive goes by it
        about |= self.reuse.recorded(out)
        for extra in self.extras:
            about |= extra.describe()
        return about

    def _ids(self) -> list[str]:
        return [cell.key.cell_id for cell in self.grid.cells]

    def _left(self, out: Path) -> tuple[list[Cell], dict[str, StoreError]]:
        """The cells to answer, and by id what is damaged of those among them that were done."""
        store = Store(out)
        done = store.done() if out.is_dir() else {}
        todo: list[Cell] = []
        damaged: dict[str, StoreError] = {}
        for cell in self.grid.cells:
            try:
                if cell.key.cell_id in done:
                    require_readable(store, done[cell.key.cell_id])
                    continue
            except StoreError as error:
                damaged[cell.key.cell_id] = error
            todo.append(cell)
        return todo, damaged

    def _taken_up(self, out: Path) -> dict[str, Any] | None:
        """What run.json says where all is done already; None where it says so.

        Cells of other code may have been the last, when that code is back.
        """
        if not is_run(out):  # every cell is another run's
            return self.reuse.described(describe_run(self.grid, "")) | {
                "settings": self.recorded, "cells": self._ids(), **self.reuse.recorded(out)
            }  # fmt: skip
        before = {k: v for k, v in read_run_json(out).items() if k not in CIRCUMSTANCES}
        about = {
            "cells": self._ids(),
            "engine_hash": self.grid.cells[0].key.engine_source,
            "checkpoints": self.grid.checkpoints,
            **self.reuse.recorded(out),
        }
        return {**before, **about} if any(before.get(k) != about[k] for k in about) else None

    def work(self, store: Store, show: Progressing) -> bool:
        failed = self._cells(store, show)
        for extra in self.extras if self.session is not None else ():
            failed = extra.run(self.session, store, show) or failed
        return failed

    def ending(self, out: Path) -> Ending | None:
        return ending(out)

    def _cells(self, store: Store, show: Progressing) -> bool:
        grid = self.grid
        self.reuse.take(store)
        self.damaged = {i: why for i, why in self.damaged.items() if i not in self.reuse.taken}
        done = store.done()
        for cell_id in self.damaged:
            done.pop(cell_id, None)
        todo = [cell for cell in grid.cells if cell.key.cell_id not in done]
        plan_cells(grid.cells, done, show.forecast)
        for extra in self.extras if self.session is not None else ():
            extra.plan(show.forecast)
        margin = store.margin(self.settings.margin)
        keep(store.path, self.against)
        derived = Derived(store, self._ids(), self.settings.seed, margin)
        derived.left_out = set(self.damaged)
        failed = False
        for cell in (cell for cell in grid.cells if cell.key.cell_id in done):
            try:  # answers stay whatever became of the code that reads them out
                read_out_cell(store, done[cell.key.cell_id]["cell_id"], ())
            except RefereeError as error:
                failed = True
                show.warn(f"{PROGRAM}: {cell.name}: {one_line(error)}")
        for line in filter(None, (*grid.notes, too_few(grid, margin))):
            show.say(line)
        before = len(grid.cells) - len(todo)
        here = f", of them {len(self.reuse.taken)} in other runs" if self.reuse.taken else ""
        show.say(f"{store.path}: {len(grid.cells)} cells, {before} done before{here}")
        for cell in (cell for cell in todo if cell.key.cell_id in self.damaged):
            why = one_line(self.damaged[cell.key.cell_id])
            show.warn(f"{PROGRAM}: {cell.name} is answered again: {why}")
        for number, cell in enumerate(todo, start=1):
            try:
                self._cell(cell, f"[{number}/{len(todo)}] {cell.name}", store, show)
            except CellError as error:
                record_failure(cell, error, store)
                failed = True
                show.warn(f"{PROGRAM}: {cell.name} failed: {one_line(error)}")
            if failed:
                gc.collect()  # an exception's frames hold tensors; free them before the next cell
            derived.left_out.discard(cell.key.cell_id)
            show.phase("tables", soon=True)
            derived.write()
        if not todo:
            show.phase("tables", soon=True)
            derived.write()
        return failed

    def _cell(self, cell: Cell, title: str, store: Store, show: Progressing) -> None:
        with show.part(title, part_of(cell, show.forecast)) as on_batch:
            verbose, session = self.settings.verbose, self.session
            result = run_cell(cell, session, store, self.evaluate, self.referees, on_batch, verbose)
        headline = result.headline
        show.say(
            f"{title}: {headline.metric} {headline.value:.4g} "
            f"({result.n} samples, {result.seconds:.1f} s)"
        )
        for note in result.notes:
            show.say(f"    {note}")


def describe_run(grid: Grid, device_name: str) -> dict[str, Any]:
    """What `run.json` says of the model and the conditions."""
    return {
        "device_name": device_name,
        "dtype": grid.runtime.dtype,
        "attn": grid.runtime.attn,
        **on_cpu(grid.runtime),
        "seed": grid.settings.seed,
        "model_id": grid.source.model_id,
        "mini": bool(grid.source.mini),
        "revision": grid.source.revision,
        "weight_hashes": grid.source.weight_hashes,
        "model_files": grid.source.setting_hashes,
        "processor_hash": grid.source.processor_hash,
        "engine_hash": grid.cells[0].key.engine_source,
        "checkpoints": grid.checkpoints,
        "settings": grid.recorded,
    }
