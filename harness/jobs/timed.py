"""From settings to what is going to be timed: all names resolved, nothing built yet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.bench.benches import resolve_bench
from harness.common.conditions import BAD_ROWS, OVER_LENGTH
from harness.common.errors import UsageError
from harness.common.ownfiles import is_own
from harness.common.processor import lacks
from harness.families.catalog import shape_from_config
from harness.jobs.budgets import with_budgets
from harness.jobs.resolve import (
    check_methods,
    checkpoint_hashes,
    find_checkpoints,
    named_methods,
    runtime_of,
    with_dense,
    with_trained_parameters,
)
from harness.model.catalog import find_model
from harness.model.convert.use import config_behind
from harness.options.load import Load
from harness.options.settings import Settings
from harness.options.workload import Workload, parse_workload
from harness.timing.grid import TimingGrid, device_name
from harness.timing.ratios import FEWEST
from harness.timing.shape import random_config, random_name


def make_timing_grid(settings: Settings) -> TimingGrid:
    """Resolve names, sizes and the device. Raises UsageError with one line; builds nothing."""
    check_rounds(settings)
    if OVER_LENGTH in settings.allow:  # nothing is answered
        raise UsageError(f"--allow has no meaning with --throughput but for {BAD_ROWS}")
    methods = with_dense(named_methods(settings.methods))
    work = _workloads(settings)
    grid = _random(settings, methods) if settings.random_weights else _real(settings, methods)
    grid = replace(grid, workloads=tuple(work), **_data(settings, work, grid))
    check_methods(grid.methods, grid.shape)
    methods, _ = with_budgets(grid.methods, settings.budgets, grid.shape)
    slow = lacks(grid.runtime.dtype) if grid.runtime.device == "cpu" else ""
    notes = (*grid.notes, slow) if slow else grid.notes
    return replace(grid, methods=tuple(methods), notes=notes)


def _data(settings: Settings, work: list[Workload | Load], grid: TimingGrid) -> dict[str, Any]:
    """What the grid says of its benches. Raises UsageError for those that there are not."""
    names, source = dict.fromkeys(one.bench for one in work if one.bench), grid.source
    if names and source is None:
        raise UsageError("--workload: documents need a processor: leave out --random-weights")
    found = {}
    for name in names:
        found[name] = resolve_bench(name, settings.data, source.mini, settings.allow)
    own = {name: bench.fingerprint() for name, bench in found.items() if is_own(name)}
    notes = (note for bench in found.values() for note in bench.notes)
    return {
        "data": {name: bench.data for name, bench in found.items()},
        "content": own,
        "notes": (*grid.notes, *notes),
    }


def check_rounds(settings: Settings) -> None:
    """Refuse rounds and settings that no time can be had with. Raises UsageError, one line."""
    if settings.repeats < FEWEST:
        raise UsageError(
            f"--repeats: {settings.repeats} rounds are too few for a 95 % interval of a median "
            f"ratio; at least {FEWEST}, the protocol asks for {Settings().repeats}"
        )
    if settings.batch == "auto":
        raise UsageError("--batch-size: a time belongs to one batch size; give a number")
    for name in ("layers", "width"):
        if getattr(settings, name) is not None and not settings.random_weights:
            raise UsageError(f"--{name} has no meaning without --random-weights")
    if settings.random_weights and settings.bench:
        raise UsageError("--bench: documents need a processor: leave out --random-weights")
    if settings.random_weights and settings.checkpoint:
        raise UsageError("--checkpoint has no meaning with --random-weights")


def of_benches(settings: Settings) -> list[Workload]:
    """One workload a bench, at the run's answer length and batch size."""
    batch = int(settings.batch)
    return [Workload(bench=name, n_out=settings.n_out, batch=batch) for name in settings.bench]


def _workloads(settings: Settings) -> list[Workload | Load]:
    """What is timed; under load, each as the middle of what is drawn, once for each number of
    requests in flight. Raises UsageError, one line."""
    single = _single(settings)
    if not settings.concurrency:
        return [*single]
    crowded = next((one for one in single if one.batch != 1), None)
    if crowded is not None:
        raise UsageError(
            f"--concurrency: all requests in flight are answered together: batch={crowded.batch} "
            "has no meaning beside it; leave it out"
        )
    return [Load(one, count) for one in single for count in settings.concurrency]


def _single(settings: Settings) -> list[Workload]:
    found = [parse_workload(text) for text in settings.workload] + of_benches(settings)
    if found and (settings.n_text != Settings().n_text):
        raise UsageError("--n-text has no meaning beside --workload or --bench")
    return found or [Workload(settings.n_text, None, settings.n_out, int(settings.batch))]


def _random(settings: Settings, methods: list[Any]) -> TimingGrid:
    name = random_name(settings.model, settings.layers, settings.width)
    config = random_config(config_behind(settings.model), name, settings.layers, settings.width)
    shape = shape_from_config(config, name)
    runtime = runtime_of(settings, mini=False, hidden=shape.hidden)
    changed = [method.for_random_weights() for method in methods]
    return TimingGrid(
        settings=settings,
        methods=tuple(method for method, _ in changed),
        workloads=(),
        model=name,
        shape=shape,
        config=config,
        source=None,
        runtime=runtime,
        device_name=device_name(settings.device),
        notes=tuple(note for _, note in changed if note),
    )


def _real(settings: Settings, methods: list[Any]) -> TimingGrid:
    source = find_model(settings.model)
    checkpoints = find_checkpoints(settings, methods, source)
    methods = with_trained_parameters(methods, checkpoints)
    runtime = runtime_of(settings, source.mini, source.info.hidden)
    return TimingGrid(
        settings=settings,
        methods=tuple(methods),
        workloads=(),
        model=source.model_id,
        shape=source.info,
        config=source.config,
        source=source,
        runtime=runtime,
        device_name=device_name(settings.device),
        checkpoints=checkpoints,
        trained={name: checkpoint_hashes(path) for name, path in checkpoints.items()},
    )
