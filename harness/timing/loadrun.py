"""One load: every method checked, recorded, served in turn with dense, and written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.options.load import Load
from harness.store import columns
from harness.store.rundir import Store
from harness.timing.agreement import Agreement, Answer, agreement, answer, verdict
from harness.timing.cells import TimedCell, TimedCells
from harness.timing.clock import clock_for
from harness.timing.device import Watch
from harness.timing.grid import TimingGrid
from harness.timing.loadmaths import Round
from harness.timing.loadrows import BACKEND, Counted, Loaded, counted, loaded, memory, raw_rows
from harness.timing.loadrows import row as load_row
from harness.timing.measure import Budget, Measured, Times, rounds, warm_up
from harness.timing.phases import selection_ms, timed, watched
from harness.timing.prompts import alone
from harness.timing.ratios import kept_rounds
from harness.timing.requests import LoadBatch, make_batches
from harness.timing.subject import Bench, Subject, active
from harness.timing.workrun import Contender, Protocol, budget_of, remarks, subject_of

ROWS_CHECKED = 4  # of the first batch, answered again alone


@dataclass
class Serving:
    """One method's rounds of one load. ``counted`` is of every different batch."""

    subject: Subject
    counted: list[Counted] = field(default_factory=list)
    stamps: list[list[float]] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)
    times: Times = field(default_factory=Times)
    selection: list[float] = field(default_factory=list)
    agreement: Agreement | None = None

    def rounds(self, batches: Sequence[LoadBatch]) -> list[Round]:
        """What was measured, in the order in which it was served."""
        return [
            Round(
                np.asarray(stamps),
                np.asarray(batches[number % len(batches)].lengths),
                phases,
            )
            for number, (stamps, phases) in enumerate(zip(self.stamps, self.phases, strict=True))
        ]


def record(bench: Bench, serving: Serving, batches: Sequence[LoadBatch], grid: TimingGrid) -> None:
    """One untimed call a batch: token counts, cache bytes, padding, and whether rows are right.

    Raises CellError for a row that a batch answers otherwise than it is answered alone.
    """
    for number, batch in enumerate(batches):
        found = answer(bench, serving.subject, batch.prompt, batch.n_out, batch.lengths)
        serving.counted.append(counted(found.records, grid.shape, grid.itemsize, found.cache_bytes))
        if number == 0 and len(batch.lengths) > 1:
            serving.agreement = _checked(bench, serving.subject, batch, found)


def _checked(bench: Bench, subject: Subject, batch: LoadBatch, together: Answer) -> Agreement:
    """The first rows of a batch against the same requests alone."""
    rows = range(min(ROWS_CHECKED, len(batch.lengths)))
    said = []
    for row in rows:
        prompt = alone(batch.prompt, row, batch.images[row], bench.model)
        single = answer(bench, subject, prompt, batch.n_out, [batch.lengths[row]])
        said.append(verdict(together, single, row, bench.model.dtype))
    return agreement(said, subject.method.label, len(said))


def serve(
    bench: Bench,
    servings: Sequence[Serving],
    batches: Sequence[LoadBatch],
    budget: Budget,
    watch: Watch,
    seed: int,
    on_round: Callable[[int, int], None] | None = None,
    on_stage: Callable[[str], object] = str,
) -> Measured:
    """Answer the batches in turn, all methods each, dense first; then time the selections.

    Every method is on a closed loop of its own: see `harness.timing.loadmaths`.
    """
    clock = clock_for(bench.device)
    by_subject = {id(one.subject): one for one in servings}

    def once(subject: Subject, batch: Any) -> dict[str, float]:
        with torch.no_grad(), active(bench, subject) as run:
            run.set_samples(list(batch.names))
            one = by_subject[id(subject)]
            hear = one.stamps.append
            found = timed(bench.model, batch.prompt, batch.n_out, clock, on_tokens=hear)
        one.phases.append(dict(found))  # not every batch has every phase
        return found

    found = Measured([one.times for one in servings], idle_watt=watch.read().watt)
    subjects, prompts = [one.subject for one in servings], list(batches)
    for one in servings:
        on_stage(f"warming up {one.subject.method.label}")
        # Every batch is a shape of its own; the longest runs go to the first, the others once.
        warm_up(once, one.subject, batches[:1], budget.warmup, one.times)  # type: ignore[arg-type]
        for batch in batches[1:]:
            once(one.subject, batch)
        one.stamps.clear()
        one.phases.clear()
    on_stage("")
    rounds(once, subjects, prompts, budget, watch, seed, found, on_round)  # type: ignore[arg-type]
    for one in servings:
        on_stage(f"selection of {one.subject.method.label}")
        one.selection = _selection(bench, one.subject, batches, clock)
    return found


def _selection(
    bench: Bench, subject: Subject, batches: Sequence[LoadBatch], clock: Any
) -> list[float]:
    """Milliseconds of the method's decisions in the prompt, of every different batch."""
    if subject.method.role == "reference":
        return []
    marks: list[tuple[Any, Any]] = []
    method, found = watched(subject.method, marks, clock), []
    with torch.no_grad(), active(bench, subject, method) as run:
        for number, batch in enumerate(batches):
            for _ in range(1 + (number == 0)):  # the first call of all warms up
                run.set_samples(list(batch.names))
                spent = selection_ms(bench.model, batch.prompt, clock, marks)
            found.append(spent)
    return found


# --- as a protocol of `harness.timing.workrun` ------------------------------------------------
def _prompts(grid: TimingGrid, bench: Bench, load: Load) -> list[LoadBatch]:
    asked = grid.settings
    return make_batches(bench, load, asked.limit, asked.data, asked.seed)


def _record(
    grid: TimingGrid, bench: Bench, contender: Contender, batches: Sequence[LoadBatch]
) -> None:
    contender.subject = subject_of(grid, bench, contender.cell)
    contender.serving = Serving(contender.subject)
    record(bench, contender.serving, batches, grid)


def _measure(
    grid: TimingGrid,
    bench: Bench,
    load: Load,
    contenders: Sequence[Contender],
    batches: Sequence[LoadBatch],
    watch: Watch,
    on_round: Any,
    on_stage: Callable[[str], object],
) -> Measured:
    servings, seed = [one.serving for one in contenders], grid.settings.seed
    return serve(bench, servings, batches, budget_of(grid), watch, seed, on_round, on_stage)


def _write(
    grid: TimingGrid,
    cells: TimedCells,
    store: Store,
    contenders: Sequence[Contender],
    found: Measured,
    batches: Sequence[LoadBatch],
    notes: Sequence[str],
    seconds: float,
    wanted: set[str],
) -> list[tuple[TimedCell, str]]:
    """A row a method, dense's first; dense's own only when it is not there yet."""
    seed, lines = grid.settings.seed, []
    keep = kept_rounds([reading.sm_mhz for reading in found.readings])
    dense: Loaded | None = None
    for one in contenders:
        serving, attn = one.serving, one.cell.attn
        room = memory(grid.settings.gpu, serving.counted, grid.shape, grid.itemsize, attn)
        rounds_ = serving.rounds(batches)
        ours = loaded(rounds_, serving.counted, serving.selection, keep, seed, room)
        if one.cell.method.spec in wanted:
            said = remarks(serving.agreement, serving.times, found, notes)
            row = load_row(_about(cells, one, said), ours, dense, keep, seed)
            raw = raw_rows(one.cell.cell_id, row["label"], rounds_, keep)
            share = seconds / len(contenders)
            cells.write(store, one.cell, [row], raw, share, said, len(found.readings))
            lines.append((one.cell, _line(row)))
        dense = dense or ours
    return lines


def _about(cells: TimedCells, one: Contender, notes: Sequence[str]) -> dict[str, Any]:
    """The columns of a row that say what it is of."""
    agreed, work = one.serving.agreement, one.cell.work
    assert isinstance(work, Load)
    known = {name: v for name, v in cells.about(one.cell, {}).items() if name in columns.LOAD}
    return {
        **known,
        "backend": BACKEND,
        "concurrency": work.in_flight,
        "agreement": None if agreed is None else agreed.share,
        "notes": "; ".join(notes),
    }


def _line(row: Mapping[str, Any]) -> str:
    text = f"{row['label']}: {row['requests_per_s']:.2f} requests/s"
    gain = row.get("requests_per_s_ratio")
    if gain is not None:
        low, high = row["requests_per_s_ratio_low"], row["requests_per_s_ratio_high"]
        text += f", {gain:.2f}x of dense [{low:.2f}, {high:.2f}]"
    return text


LOADED = Protocol(_prompts, _record, _measure, _write)
"""Requests in flight, served by this engine."""
