"""From settings to cells: every name resolved, every cell's key known, nothing written yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import UsageError, one_line
from harness.common.nearest import unknown
from harness.common.roots import DATA
from harness.options.settings import Settings
from harness.store.cells import CellKey, package_versions
from harness.store.rundir import read_run_json

if TYPE_CHECKING:
    from harness.families.shapes import ModelShape
    from harness.jobs.parts import Parts, Runtime

DENSE = "dense"
NO_WEIGHTS = "none"  # as in --checkpoint llavolta=none
# What `--batch-size auto` tries first; a batch that does not fit is halved.
AUTO_BATCH = {"cpu": 8, "mps": 8, "cuda": 32}


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
class Plan:
    """Cells in the order of the settings: bench by bench, dense first."""

    settings: Settings
    source: Any  # harness.model.catalog.ModelSource
    runtime: Runtime
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()  # to be said before the first cell

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings a run directory belongs to, with every `auto` resolved."""
        first = self.cells[0].key
        methods = dict.fromkeys(cell.method.spec for cell in self.cells)
        return {
            **self.settings.recorded(),
            "methods": list(methods),
            "model": self.source.model_id,
            "data": sorted({cell.bench.data for cell in self.cells}),
            "device": self.runtime.device,
            "dtype": self.runtime.dtype,
            "attn": self.runtime.attn,
            "batch_size": first.batch_size,
        }

    @property
    def checkpoints(self) -> dict[str, Any]:
        """Method name -> where its weights came from and their hashes."""
        return {
            cell.method.name: {
                "path": _shown(cell.checkpoint),
                "files": cell.key.weights["checkpoint"],
            }
            for cell in self.cells
            if cell.checkpoint is not None
        }


def _shown(path: Path) -> str:
    """A path as a run that is passed on may name it: shipped weights by their place here."""
    return path.relative_to(DATA).as_posix() if path.is_relative_to(DATA) else str(path)


def make_plan(settings: Settings, parts: Parts) -> Plan:
    """Resolve all names and build the cells. Raises UsageError with one line."""
    methods = with_dense(parts.methods(settings.methods), parts)
    source = parts.source(settings.model)
    benches = [parts.bench(name, settings.data, source) for name in settings.bench]
    for bench in benches:
        bench.require(settings.limit)
    runtime = parts.runtime(settings, source)
    checkpoints = find_checkpoints(settings, methods, source, parts)
    methods = with_trained_parameters(methods, checkpoints, parts)
    check_methods(methods, source.info)
    notes: tuple[str, ...] = ()
    if settings.controls:
        from harness.jobs.matched import with_controls

        methods, notes = with_controls(methods, source.info, parts.methods)
        checkpoints = find_checkpoints(settings, methods, source, parts)  # theirs are dense's
    batch = settings.batch_size
    batch_size = AUTO_BATCH[runtime.device] if isinstance(batch, str) else batch
    cells = []
    for bench in benches:
        for method in methods:
            path = checkpoints.get(method.name)
            weights = {
                "revision": source.revision,
                "files": source.file_hashes,
                "checkpoint": parts.checkpoint_hashes(path) if path else None,
            }
            key = CellKey(
                method=method.name,
                params=method.params(),
                method_source=method.source_hash(),
                engine_source=parts.engine_source(),
                versions=package_versions(),
                model=source.model_id,
                weights=weights,
                processor=source.processor_hash,
                bench=bench.name,
                task=bench.task,
                task_version=bench.task_version,
                data=bench.data,
                fingerprint=bench.fingerprint,
                limit=settings.limit,
                device=runtime.device,
                dtype=runtime.dtype,
                attn=runtime.attn,
                batch_size=batch_size,
                seed=settings.seed,
                allow=settings.allow,
            )
            cells.append(Cell(key, method, bench, path))
    return Plan(settings, source, runtime, tuple(cells), notes)


def check_methods(methods: Sequence[Any], shape: ModelShape) -> None:
    """Refuse methods and parameters that do not fit the model, before its weights are loaded."""
    from harness.instruct.sizes import model_info
    from methods.base import MethodError

    try:
        for method in methods:
            method.fits(model_info(shape))
    except MethodError as error:
        raise UsageError(f"--methods: {one_line(error)}") from None


def too_few(plan: Plan, margin: float) -> str:
    """A line on benches with fewer documents than `non-inferior` within `margin` points needs.

    Empty without such a bench, and where dense stands alone. Before the run the images are not
    known; with several documents an image more are needed, which the report says.
    """
    from harness.statistics.power import smallest_n

    needed = smallest_n(margin / 100)
    benches = {c.bench.name: c.bench.documents for c in plan.cells if c.method.name != DENSE}
    limit = plan.settings.limit
    planned = {
        b: min(n for n in (known, limit) if n) for b, known in benches.items() if known or limit
    }
    few = [f"{bench} has {n}" for bench, n in planned.items() if needed is None or n < needed]
    if not few:
        return ""
    points = f"{margin:g} point{'' if margin == 1 else 's'}"
    least = "no number of documents" if needed is None else f"{needed} documents"
    return (
        f"non-inferior within {points} takes at least {least}, even where nothing changes: "
        f"{', '.join(few)}"
    )


def with_dense(methods: list[Any], parts: Parts) -> list[Any]:
    """The methods with dense in front, added where it was not asked for."""
    dense = [method for method in methods if method.name == DENSE]
    others = [method for method in methods if method.name != DENSE]
    return [*(dense or parts.methods((DENSE,))), *others]


def find_checkpoints(
    settings: Settings, methods: list[Any], source: Any, parts: Parts
) -> dict[str, Path]:
    """Method name -> folder of the weights it runs with, where these are not just the model's.

    A training-free method without weights of its own works on dense's, so that both had the same
    training; `METHOD=none` asks for that where weights of it ship. Raises UsageError for a trained
    method without weights, and for weights nobody asked for.
    """
    named = {method.name: method for method in methods}
    for name in settings.checkpoint:
        if name not in named:
            hint = "it is not among --methods"
            raise UsageError("--checkpoint: " + unknown("method", name, named, hint))
    found: dict[str, Path] = {}
    for name, method in named.items():  # dense comes first
        wish = settings.checkpoint.get(name)
        path = None if wish == NO_WEIGHTS else parts.checkpoint(method, wish, source)
        if path is None and method.trained:
            raise UsageError(
                f"{name} is a trained method and there are no weights of it for "
                f"{source.model_id}: pass --checkpoint {name}=PATH_OR_ID"
            )
        if path is None and method.reads_clip:
            raise UsageError(
                f"--methods: {method.spec} needs the CLIP model of the vision tower: "
                f"pass --checkpoint {name}=PATH_OR_ID, or use relevance=words"
            )
        path = path or found.get(DENSE)
        if path is not None:
            found[name] = path
    return found


def with_trained_parameters(
    methods: list[Any], checkpoints: Mapping[str, Path], parts: Parts
) -> list[Any]:
    """The methods with the parameters their weights were trained with, where the user set none.

    Raises UsageError when two entries turn out to be the same then.
    """
    found: list[Any] = []
    for method in methods:
        path = checkpoints.get(method.name)
        full = method if path is None else parts.trained_method(path, method)
        if full in found:
            raise UsageError(
                f"--methods: '{method.spec}' is given twice: its weights were trained with "
                f"'{full.spec}'"
            )
        found.append(full)
    return found


def require_same_files(out: Path, source: Any, checkpoints: Mapping[str, Any]) -> None:
    """Refuse to go on with a run whose model or checkpoints have changed on disk since.

    ``checkpoints``: method name -> hashes of its files. What an older run.json does not say is not
    compared. Raises UsageError naming the first file.
    """
    about = read_run_json(out)
    model = ("weight_hashes", source.weight_hashes), ("model_files", source.setting_hashes)
    pairs = [(source.model_id, about.get(name), files) for name, files in model]
    for name, said in _table(about.get("checkpoints")).items():
        files = checkpoints.get(name) or {}
        pairs.append((f"the weights of {name}", _table(said).get("files"), files))
    for whose, before, now in pairs:
        known = _table(before)
        for file in [*known, *now] if known else []:
            if known.get(file) != now.get(file):
                raise UsageError(
                    f"--out: {file} of {whose} changed since '{out}' was made: choose another --out"
                )


def _table(value: Any) -> dict[str, Any]:
    """What a run.json holds as an object; empty where it does not."""
    return value if isinstance(value, dict) else {}


def shipped_checkpoint(method_name: str, model_name: str) -> Path | None:
    """The tuned weights that ship for this method and model, if there are any."""
    if "/" in model_name:  # a folder of the user's: what lies beside it was not asked for
        return None
    path = DATA / "assets" / f"{model_name}-{method_name}"
    return path if path.is_dir() else None
