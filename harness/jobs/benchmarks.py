"""The main job: settings -> cells -> the missing ones -> tables and report -> exit code."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import CellError, StoreError, one_line
from harness.common.ownfiles import own_asked
from harness.common.progress import Progressing
from harness.common.stops import PROGRAM
from harness.cost.findings import RefereeError
from harness.jobs.cellrun import record_failure, run_cell, told
from harness.jobs.extra import Extra
from harness.jobs.grid import Cell, Grid, make_grid, too_few
from harness.jobs.parts import Parts
from harness.jobs.planned import part_of, plan_cells
from harness.jobs.resolve import named_methods, require_same_files, with_dense
from harness.jobs.reuse import Reuse, open_sources
from harness.jobs.shards import share
from harness.options.runtime import Runtime
from harness.readouts.derive import Derived
from harness.readouts.ending import Ending
from harness.readouts.stored import read_out_cell, require_readable
from harness.readouts.summary import ending
from harness.store.against import keep, meant
from harness.store.cells import params_json
from harness.store.folder import is_run, read_run_json
from harness.store.rundir import Store
from harness.store.runinfo import CIRCUMSTANCES, versions

if TYPE_CHECKING:
    from harness.jobs.workers import Team

RESOLVED = {  # what `resolve` and `open` found
    "grid", "cells", "reuse", "extras", "against", "recorded", "environments", "damaged",
    "referees", "team",
}  # fmt: skip


class Benchmarks(Parts):
    """Methods on benches."""

    grid: Grid
    reuse: Reuse
    extras: list[Extra]
    cells: list[Cell]  # those of this run: the grid's, or its share of them
    against: list[str]  # labels of the rows that the first table compares with
    team: Team | None = None  # the processes of --jobs

    def __getstate__(self) -> dict[str, Any]:
        """Another process finds and loads for itself."""
        return {k: v for k, v in vars(self).items() if k not in RESOLVED} | {"session": None}

    # --- the steps --------------------------------------------------------------------------------
    def resolve(self, out: Path) -> dict[str, Any]:
        settings = self.settings
        methods = with_dense(named_methods(settings.methods))
        source = self.source()
        benches = self.asked(source, [self.bench(name, source) for name in settings.bench])
        runtime = self.runtime(source)
        self.grid = make_grid(settings, methods, source, benches, runtime, self.engine())
        self.cells = list(self.grid.cells)
        if settings.shard:
            mine = {cell.key.cell_id for cell in share(self.cells, settings.shard)}
            self.cells = [cell for cell in self.cells if cell.key.cell_id in mine]
        self.reuse = open_sources(settings.reuse, out)
        known = [cell for cell in self.grid.cells if cell.method.role != "probe"]
        rows = [(cell.method, cell.key.params) for cell in known]
        self.against = meant(
            settings.against,
            [{"method": m.name, "label": m.label, "params": params_json(p)} for m, p in rows],
        )
        self.extras = list(self._extras(out))
        self.recorded = dict(self.grid.recorded)
        for extra in self.extras:
            self.recorded |= extra.recorded
        if settings.shard:  # they need all cells: the merged run's
            self.extras = []
        self.environments = self._environments(runtime)
        return self.recorded

    def _environments(self, runtime: Runtime) -> list[dict[str, str]]:
        """Of the processes of --jobs; empty for a run in this one. Raises UsageError."""
        if self.settings.jobs == 1 or self.session is not None:
            return []
        from harness.jobs.devices import environments

        return environments(self.settings, runtime, self.settings.jobs)

    def _extras(self, out: Path) -> Sequence[Extra]:
        """Raises UsageError for times that cannot be measured."""
        found: list[Extra] = []
        if set(self.settings.analyse) - {"regret"}:
            from harness.jobs.analyses import Analyses

            found.append(Analyses(self.grid, out, self.evaluate))
        if "regret" in self.settings.analyse:
            from harness.jobs.regret import Regret

            found.append(Regret(self.grid, out))
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
            conditions = {**self.grid.described(""), "versions": versions()}
            for line in self.reuse.said(self.cells, conditions):
                show.say(line)
        used = {cell.method: cell.checkpoint for cell in todo}
        for extra in self.extras:
            used |= extra.methods()
        if not used:
            self.session = None
            return self._taken_up(out)
        loaded = self._loaded(todo, used, out, show)
        about = self.grid.described(loaded.pop("device_name"))
        about |= {**loaded, "settings": self.recorded}
        about["cells"] = self._ids()  # --derive goes by it
        about |= self._shared() | self.reuse.recorded(out)
        for extra in self.extras:
            about |= extra.describe()
        return about

    def _loaded(
        self, todo: list[Cell], used: dict[Any, Path | None], out: Path, show: Progressing
    ) -> dict[str, Any]:
        """What the loaded model says of itself; by itself, or in every process of --jobs."""
        count = min(len(todo), len(self.environments))
        if count < 2:
            return self.load_checked(used, show)
        from harness.jobs.workers import Team

        show.phase(f"loading {self.grid.source.model_id} in {count} processes", soon=True)
        self.team = Team(self, out, self.environments[:count])
        return {**self.team.start(show), "jobs": self.team.described}

    def _shared(self) -> dict[str, Any]:
        """What run.json says of a share: which, and all the cells of the run it is of."""
        if not self.settings.shard:
            return {}
        names = {cell.key.cell_id: cell.name for cell in self.grid.cells}
        return {"shard": {"of": self.settings.shard, "cells": names, "against": self.against}}

    def _ids(self) -> list[str]:
        return [cell.key.cell_id for cell in self.cells]

    def _left(self, out: Path) -> tuple[list[Cell], dict[str, StoreError]]:
        """The cells to answer, and by id what is damaged of those among them that were done."""
        store = Store(out)
        done = store.done() if out.is_dir() else {}
        todo: list[Cell] = []
        damaged: dict[str, StoreError] = {}
        for cell in self.cells:
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
            return self.reuse.described(self.grid.described("")) | {
                "settings": self.recorded, "cells": self._ids(), **self._shared(),
                **self.reuse.recorded(out),
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
        try:
            failed = self._cells(store, show)
        finally:
            if self.team is not None:
                self.team.close()
        failed = self._judged(store, show) or failed
        for extra in self.extras:
            used = extra.methods()
            if used and self.session is None:  # the answers were other processes'
                self.load_checked(used, show)
            failed = (bool(used) and extra.run(self.session, store, show)) or failed
        return failed

    def _judged(self, store: Store, show: Progressing) -> bool:
        """Scores by a judge, where one is given; True when a part of them is missing."""
        url, model = self.settings.judge_url, self.settings.judge_model
        if not url or not model:
            return False
        from harness.jobs.judge import judge_cells

        settings = self.settings
        about = {
            **read_run_json(store.path), "data_asked": settings.data, **own_asked(settings.bench)
        }  # fmt: skip
        failed = judge_cells(store, about, url, model, show)
        show.phase("tables", soon=True)
        Derived(store, self._ids(), self.settings.seed, store.margin(self.settings.margin)).write()
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
        todo = [cell for cell in self.cells if cell.key.cell_id not in done]
        plan_cells(self.cells, done, show.forecast)
        for extra in self.extras:
            extra.plan(show.forecast)
        margin = store.margin(self.settings.margin)
        rows = {cell.method.label for cell in self.cells}  # a share may lack some
        keep(store.path, [label for label in self.against if label in rows])
        derived = Derived(store, self._ids(), self.settings.seed, margin)
        derived.left_out = set(self.damaged)
        failed = False
        for cell in (cell for cell in self.cells if cell.key.cell_id in done):
            try:  # answers stay whatever became of the code that reads them out
                read_out_cell(store, done[cell.key.cell_id]["cell_id"], ())
            except RefereeError as error:
                failed = True
                show.warn(f"{PROGRAM}: {cell.name}: {one_line(error)}")
        for line in filter(None, (*grid.notes, too_few(grid, margin))):
            show.say(line)
        before = len(self.cells) - len(todo)
        here = f", of them {len(self.reuse.taken)} in other runs" if self.reuse.taken else ""
        show.say(f"{store.path}: {len(self.cells)} cells, {before} done before{here}")
        if self.settings.shard:
            of = f"share {self.settings.shard} of {len(grid.cells)} cells"
            show.say(f"{of}: what needs the others (differences, times, analyses) waits for merge")
        for cell in (cell for cell in todo if cell.key.cell_id in self.damaged):
            why = one_line(self.damaged[cell.key.cell_id])
            show.warn(f"{PROGRAM}: {cell.name} is answered again: {why}")
        answers = self._one_by_one if self.team is None else self.team.answers
        for cell, lost in answers(todo, store, show):
            failed = failed or lost
            derived.left_out.discard(cell.key.cell_id)
            show.phase("tables", soon=True)
            derived.write(last=False)
        store.put_in_order(self._ids())  # a cell done again or elsewhere has its row in its place
        show.phase("tables", soon=True)
        derived.write()
        return failed

    def _one_by_one(
        self, todo: Sequence[Cell], store: Store, show: Progressing
    ) -> Iterator[tuple[Cell, bool]]:
        """Every cell when it is over, and whether it failed."""
        any_failed = False
        for number, cell in enumerate(todo, start=1):
            failed = False
            try:
                self._cell(cell, f"[{number}/{len(todo)}] {cell.name}", store, show)
            except CellError as error:
                record_failure(cell, error, store)
                failed = any_failed = True
                show.warn(f"{PROGRAM}: {cell.name} failed: {one_line(error)}")
            if any_failed:
                gc.collect()  # an exception's frames hold tensors; free them before the next cell
            yield cell, failed

    def _cell(self, cell: Cell, title: str, store: Store, show: Progressing) -> None:
        with show.part(title, part_of(cell, show.forecast)) as on_batch:
            verbose, session = self.settings.verbose, self.session
            result = run_cell(cell, session, store, self.evaluate, self.referees, on_batch, verbose)
        show.say(f"{title}: {told(result)}")
        for note in result.notes:
            show.say(f"    {note}")
