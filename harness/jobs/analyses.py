"""The analyses of an ordinary run, after its cells and with the same loaded model.

Each finished analysis is stamped in `analysis.json` with a hash over everything that can change
its numbers; one with the same stamp and all its files is kept. Of a failed one the reason is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.common.errors import CellError, StoreError, one_line
from harness.common.forecast import Forecast
from harness.common.jsonfile import read_json
from harness.common.progress import Progressing
from harness.common.roots import ROOT
from harness.common.stops import PROGRAM
from harness.jobs.grid import Cell, Grid
from harness.options.runtime import DENSE
from harness.options.validators import ANALYSES
from harness.store.csvfile import write_json
from harness.store.rundir import Store

STAMPS = "analysis.json"
METHODS = ("plan.py", "probe.py")
FILES = {
    "arank": ("arank.csv", "arank_heads.csv", "layer_samples.csv", "analysis_documents.csv"),
    "damage": ("damage.csv", "damage_samples.csv"),
    "plan": ("plans.csv",),
}


def missing(grid: Grid, folder: Path) -> list[str]:
    """The analyses that were asked for and are not there yet, in the order of work."""
    asked = _asked(grid)
    done = _stamps(folder)
    left: list[str] = []
    for name in asked:
        files = all((folder / file).is_file() for file in FILES[name])
        stale = name == "plan" and left  # what it is made from is measured again
        if stale or not files or done.get(name, {}).get("stamp") != stamp(grid, name):
            left.append(name)
    return left


def stamp(grid: Grid, name: str) -> str:
    """Hash over the code, the dense cells' identities and the settings of one analysis."""
    from harness.store.cells import source_digest

    settings = grid.settings
    facts = {
        "analysis": name,
        "source": source_digest(_sources(name)),
        "cells": [cell.key.cell_id for cell in _dense(grid)],
        "samples": settings.analyse_samples,
        "plan": [settings.analyse_kv, sorted(_asked(grid))] if name == "plan" else None,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Analyses:
    """The analyses that belong to a run on benchmarks."""

    def __init__(self, grid: Grid, out: Path, evaluate: Callable[..., Any]) -> None:
        self.grid, self.folder, self.evaluate = grid, out, evaluate
        self.recorded: dict[str, Any] = {}  # the settings say it all

    def resume(self, out: Path) -> None:
        """Nothing to refuse: what other settings measured is measured again."""

    def methods(self) -> dict[Any, Path | None]:
        """Dense with its weights, where something is left."""
        cells = _dense(self.grid)[:1] if missing(self.grid, self.folder) else []
        return {cell.method: cell.checkpoint for cell in cells}

    def describe(self) -> dict[str, Any]:
        """Nothing beside the settings."""
        return {}

    def plan(self, forecast: Forecast) -> None:
        """Named only: how long one takes is not known before it is over."""
        for name in missing(self.grid, self.folder):
            forecast.part(name)

    def run(self, session: Any, store: Store, show: Progressing) -> bool:
        """Do what is missing; the cells are safe whatever happens."""
        try:
            self._run(session, show)
        except CellError as error:
            show.warn(f"{PROGRAM}: {one_line(error)}")
            return True
        return False

    def _run(self, loaded: Any, show: Progressing) -> None:
        """Do what is missing, then the correlations. Raises CellError and StoreError, one line."""
        grid, folder = self.grid, self.folder
        left = missing(grid, folder)
        if not left:
            return
        from harness.layers.analysis import Analysis
        from harness.layers.aranks import run_arank
        from harness.layers.damage import run_damage
        from harness.layers.dense import DenseModel
        from harness.layers.heldout import run_plan
        from harness.layers.tables import write_correlations

        cells, settings = _dense(grid), grid.settings
        analysis = Analysis(
            dense=DenseModel(loaded, cells[0].checkpoint),
            benches=tuple(cell.bench for cell in cells),
            evaluate=self.evaluate,
            say=show.say,
            folder=folder,
            samples=settings.analyse_samples,
            limit=settings.limit,
            batch_size=cells[0].key.batch_size,
            seed=settings.seed,
            data=settings.data,
            kv=settings.analyse_kv,
            allow=settings.allow,
            parts=folder / "partial" / f"damage-{stamp(grid, 'damage')}",
        )
        work: dict[str, Callable[[Any], None]] = {
            "arank": run_arank, "damage": run_damage, "plan": run_plan,
        }  # fmt: skip
        for name in left:
            started = time.perf_counter()
            try:
                with show.part(f"analysis {name}", show.forecast.part(name)):
                    work[name](analysis)
                if name != "plan":
                    write_correlations(analysis)
            except (StoreError, KeyboardInterrupt):
                raise
            except BaseException as error:
                failed = _stamps(folder) | {name: {"error": one_line(error)}}
                write_json(folder / STAMPS, failed)
                raise CellError(f"analysis {name} failed: {one_line(error)}") from error
            seconds = round(time.perf_counter() - started, 3)
            done = _stamps(folder) | {name: {"stamp": stamp(grid, name), "seconds": seconds}}
            write_json(folder / STAMPS, done)


def _asked(grid: Grid) -> list[str]:
    return [name for name in ANALYSES if name in grid.settings.analyse and name in FILES]


def _dense(grid: Grid) -> list[Cell]:
    """The cells of the first dense row, one a bench."""
    cells = [cell for cell in grid.cells if cell.method.name == DENSE]
    return [cell for cell in cells if cell.method == cells[0].method]


def _sources(name: str) -> list[Path]:
    """The files that an analysis' numbers come from, beside the engine's."""
    room = ROOT / "harness" / "layers"
    only = {"arank": (), "damage": METHODS, "plan": METHODS}[name]
    later = () if name == "plan" else ("plans.py", "heldout.py")
    files = [path for path in room.glob("*.py") if path.name not in later]
    return files + [ROOT / "methods" / file for file in only]


def _stamps(folder: Path) -> dict[str, Any]:
    try:
        found = read_json(folder / STAMPS)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
