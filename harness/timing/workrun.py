"""One workload: every method checked, recorded, timed with dense in turn, and written down."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from harness.common.errors import CellError, StoreError, one_line
from harness.families.shapes import ModelShape
from harness.store.rundir import Store
from harness.timing.agreement import Agreement, answer, check_batch, tokens_per_sample
from harness.timing.cells import TimedCell, TimedCells
from harness.timing.device import Watch
from harness.timing.grid import BEST_ATTN, TimingGrid, is_dense
from harness.timing.measure import Budget, Measured, Times, measure
from harness.timing.prompts import Prompts, make_prompts
from harness.timing.rows import (
    MIB,
    PREPROCESS,
    TimedRow,
    extra_row,
    phase_tflops,
    round_rows,
    throughput_rows,
)
from harness.timing.subject import Bench, Subject, fresh, trained

MORE_THAN_HALF = 0.5


@dataclass
class Contender:
    """One method on the way through a workload."""

    cell: TimedCell
    subject: Subject = field(init=False)  # built when it is recorded
    sizes: Mapping[str, Any] = field(default_factory=dict)
    tflops: Mapping[str, float] = field(default_factory=dict)
    kv_mib: float = 0.0
    agreement: Agreement | None = None
    serving: Any = None  # under load: harness.timing.loadrun.Serving


@dataclass(frozen=True)
class Protocol:
    """What is measured of a workload; the steps are called in the order they stand here."""

    prompts: Callable[[TimingGrid, Bench, Any], Any]
    record: Callable[[TimingGrid, Bench, Contender, Any], None]
    measure: Callable[..., Measured]
    write: Callable[..., list[tuple[TimedCell, str]]]


def run_workload(
    grid: TimingGrid,
    bench: Any,
    work: Any,
    cells: TimedCells,
    store: Store,
    watch: Watch,
    notes: Sequence[str],
    on_round: Callable[[int, int], None] | None = None,
    on_stage: Callable[[str], object] = str,
    how: Protocol | None = None,
) -> list[tuple[TimedCell, str]]:
    """Time what is missing of a workload; dense always runs along. ``how``: phases, or a load.

    Returns every cell with a line on its result; a failed one carries its error. Only a disk that
    does not take the rows is raised (StoreError).
    """
    cells.tidy()
    how = how or PHASES
    wanted = {method.spec for method in cells.missing(work)}
    began = time.perf_counter()
    contenders: list[Contender] = []
    failed: dict[str, TimedCell] = {}

    def fail(cell: TimedCell, reason: str) -> None:
        if cell.method.spec in wanted:  # dense runs along where it is done: its row is kept
            cells.fail(store, cell, reason)
            failed[cell.cell_id] = cell

    try:
        on_stage("preparing prompts")
        prompts = how.prompts(grid, bench, work)
        for cell in _cells(grid, work, cells, wanted):
            contender = Contender(cell)
            on_stage(f"counting {cell.method.label}")
            error = _attempt(store, cell, partial(how.record, grid, bench, contender, prompts))
            if error:
                fail(cell, error)
            else:
                contenders.append(contender)
            if error and is_dense(cell.method) and cell.attn == grid.runtime.attn:
                raise CellError(f"nothing to compare with: dense could not be run: {error}")
        found = how.measure(grid, bench, work, contenders, prompts, watch, on_round, on_stage)
        seconds = time.perf_counter() - began
        lines = how.write(grid, cells, store, contenders, found, prompts, notes, seconds, wanted)
    except (StoreError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: a workload may not end the run
        reason = _reason(store, cells.cell(grid.methods[0], work), error)
        done = cells.done()
        for cell in _cells(grid, work, cells, wanted):
            if cell.cell_id not in (*failed, *done):  # a reason of its own is not written over
                fail(cell, reason)
        lines = []
    return [*lines, *((cell, "") for cell in failed.values())]


def _cells(grid: TimingGrid, work: Any, cells: TimedCells, wanted: set[str]) -> list[TimedCell]:
    """Dense, dense on the best backend where the run has another, and the missing methods."""
    found = []
    for method in grid.methods:
        if method.spec not in wanted and not is_dense(method):
            continue
        found.append(cells.cell(method, work))
        if is_dense(method) and grid.runtime.attn == "eager":
            found.append(cells.cell(method, work, BEST_ATTN))
    return found


def subject_of(grid: TimingGrid, bench: Bench, cell: TimedCell) -> Subject:
    """The method with its weights, trained or freshly drawn."""
    method = cell.method
    if cell.attn != grid.runtime.attn:
        return Subject(method, attn=cell.attn)
    if grid.source is None:
        return fresh(method, bench.model, grid.settings.seed)
    return trained(method, bench, grid.checkpoints.get(method.name))


def _prompts(grid: TimingGrid, bench: Bench, work: Any) -> Prompts:
    asked = grid.settings
    return make_prompts(bench, work, asked.limit, asked.data, asked.seed)


def _record(grid: TimingGrid, bench: Bench, contender: Contender, prompts: Prompts) -> None:
    """One untimed call a batch: token counts, FLOPs, cache bytes, and whether batching is exact."""
    contender.subject = subject_of(grid, bench, contender.cell)
    n_out, batch = contender.cell.work.n_out, contender.cell.work.batch
    answers = [answer(bench, contender.subject, prompt, n_out) for prompt in prompts.batches]
    records = [record for one in answers for record in one.records]
    shape = grid.shape
    if prompts.pictures is not None and not prompts.pictures.native:
        shape = _seen_at(shape, prompts.pictures.size[0])
    contender.sizes = tokens_per_sample(records)
    runs = contender.cell.method.needs_images
    contender.tflops = phase_tflops(records, shape, grid.itemsize, runs)
    contender.kv_mib = float(np.mean([one.cache_bytes for one in answers])) / MIB
    if batch > 1:
        first = prompts.batches[0]
        contender.agreement = check_batch(bench, contender.subject, first, answers[0], n_out)


def _seen_at(shape: ModelShape, pixels: int) -> ModelShape:
    """The shape whose tower sees images of another resolution."""
    return replace(shape, vision=replace(shape.vision, image_size=pixels))


def _measure(
    grid: TimingGrid,
    bench: Bench,
    work: Any,
    contenders: Sequence[Contender],
    prompts: Prompts,
    watch: Watch,
    on_round: Any,
    on_stage: Callable[[str], object],
) -> Measured:
    subjects, seed = [contender.subject for contender in contenders], grid.settings.seed
    return measure(
        bench,
        subjects,
        prompts.batches,
        work.n_out,
        budget_of(grid),
        watch,
        seed,
        on_round,
        on_stage,
    )


def budget_of(grid: TimingGrid) -> Budget:
    """How often, as the settings say."""
    asked = grid.settings
    return Budget(asked.repeats, asked.warmup, asked.min_seconds, asked.max_seconds)


def _write(
    grid: TimingGrid,
    cells: TimedCells,
    store: Store,
    contenders: Sequence[Contender],
    found: Measured,
    prompts: Prompts,
    notes: Sequence[str],
    seconds: float,
    wanted: set[str],
) -> list[tuple[TimedCell, str]]:
    """Rows of all contenders; dense's own only when they are not there yet."""
    seed, lines = grid.settings.seed, []
    dense = found.times[0]
    best = next((t for e, t in zip(contenders, found.times, strict=True) if e.subject.attn), None)
    for contender, times in zip(contenders, found.times, strict=True):
        if contender.cell.method.spec not in wanted:
            continue
        row = _row(cells, contender, times, found, notes)
        rows = list(
            throughput_rows(row, times, dense, contenders[0].tflops, found.readings, seed, best)
        )
        if times is dense and prompts.preprocess_ms:
            rows.append(extra_row(row, PREPROCESS, prompts.preprocess_ms))
        raw = round_rows(row.about, times, found.readings)
        share = seconds / len(contenders)
        cells.write(store, contender.cell, rows, raw, share, row.notes, len(found.readings))
        lines.append((contender.cell, _line(row, rows)))
    return lines


def _row(
    cells: TimedCells, contender: Contender, times: Times, found: Measured, notes: Sequence[str]
) -> TimedRow:
    return TimedRow(
        about=cells.about(contender.cell, contender.sizes),
        tflops=contender.tflops,
        batch=contender.cell.work.batch,
        n_out=contender.cell.work.n_out,
        kv_mib=contender.kv_mib,
        agreement=None if contender.agreement is None else contender.agreement.share,
        notes=remarks(contender.agreement, times, found, notes),
    )


def remarks(
    agreed: Agreement | None, times: Times, found: Measured, notes: Sequence[str]
) -> tuple[str, ...]:
    """What a row says of its own conditions, behind the run's ``notes``."""
    said = list(notes)
    slowed = sorted({word for reading in found.readings for word in reading.slowed})
    if slowed:
        said.append(f"throttled device: {', '.join(slowed)}")
    if found.stopped:
        said.append(f"stopped by --max-seconds after {len(found.readings)} rounds")
    if not times.settled:
        said.append("the warm-up had not settled to 1 %")
    if times.launch_bound and np.mean(times.launch_bound) > MORE_THAN_HALF:
        said.append("launch-bound: host and device times differ by more than 5 %")
    if agreed is not None and agreed.note:
        said.append(agreed.note)
    return tuple(said)


def _line(row: TimedRow, rows: Sequence[Mapping[str, Any]]) -> str:
    whole = next(one for one in rows if one["phase"] == "end_to_end")
    text = f"{row.about['label']}: {whole['median_ms']:.1f} ms"
    gain = whole["speedup_vs_dense"]
    if gain is not None:
        text += f", {gain:.2f}x [{whole['speedup_ci_low']:.2f}, {whole['speedup_ci_high']:.2f}]"
    return text


def _attempt(store: Store, cell: TimedCell, step: Callable[[], None]) -> str:
    """Run a step of one method; its error in one line, empty when it went well."""
    try:
        step()
    except (StoreError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too, of a method's code
        return _reason(store, cell, error)
    return ""


def _reason(store: Store, cell: TimedCell, error: BaseException) -> str:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "t allocate memory" in str(
        error
    ):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return f"out of memory at batch {cell.work.batch}"
    if not isinstance(error, CellError):
        folder = store.path / "logs"
        with contextlib.suppress(OSError):  # the error itself is still reported
            folder.mkdir(exist_ok=True)
            (folder / f"{cell.cell_id}.txt").write_text(traceback.format_exc(), encoding="utf-8")
    return one_line(error)


PHASES = Protocol(_prompts, _record, _measure, _write)
