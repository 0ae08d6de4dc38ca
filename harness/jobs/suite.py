"""The main job: settings -> cells -> the missing ones -> tables and report -> exit code."""

from __future__ import annotations

import gc
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.common.errors import (
    EXIT_CELLS_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    CellError,
    StoreError,
    one_line,
)
from harness.common.progress import Progressing
from harness.common.stops import COMMAND, PROGRAM, stoppable
from harness.jobs.cellrun import record_failure, run_cell
from harness.jobs.parts import Parts
from harness.jobs.plan import Cell, Plan, make_plan, require_same_files, too_few
from harness.jobs.runinfo import describe_run
from harness.options.settings import Settings
from harness.readouts.derive import Derived
from harness.readouts.summary import LEGEND, summary_table
from harness.store.rundir import Store, check_out, default_out


def run_suite(settings: Settings, argv: Sequence[str], parts: Parts | None = None) -> int:
    """Run or resume a study; returns the exit code.

    Raises UsageError before anything was written. Interrupted and full-disk runs print how to
    resume.
    """
    parts = parts or Parts()
    show = Progressing(settings.quiet)
    plan = make_plan(settings, parts)
    out = Path(settings.out) if settings.out else default_out()
    times = _times(settings, plan, out)
    recorded = {**plan.recorded, **(times.recorded if times else {})}
    resumed = check_out(out, recorded)
    if resumed and times:
        times.resume(out)
    if resumed:
        tuned = {name: said["files"] for name, said in plan.checkpoints.items()}
        require_same_files(out, plan.source, tuned)
    again = resume_command(argv, settings, out)

    def work() -> int:
        loaded, referees, checked = _load(plan, out, parts, show, times)
        with Store(out) as store:
            if loaded is not None:
                about = describe_run(plan, list(argv), loaded.device_name)
                more = {"referees": checked, "settings": recorded}
                more |= times.describe() if times else {}
                store.write_run_json({**about, **more})
            return _run(plan, store, loaded, referees, parts, show, times)

    return resumable(work, show, again)


def _times(settings: Settings, plan: Plan, out: Path) -> Any:
    """The `Within` of a run that shall be timed as well, else None. Raises UsageError."""
    if not settings.with_throughput:
        return None
    from harness.jobs.within import Within

    return Within(plan, out)


def resumable(work: Callable[[], int], show: Progressing, again: str) -> int:
    """The exit code of `work`; when it is stopped or the disk fails, a line says how to go on."""
    try:
        with stoppable():
            return work()
    except KeyboardInterrupt:
        show.warn(f"{PROGRAM}: interrupted; resume with: {again}")
        return EXIT_INTERRUPTED
    except StoreError as error:
        show.warn(f"{PROGRAM}: {one_line(error)}; finished cells are kept, resume with: {again}")
        return EXIT_CELLS_FAILED


def resume_command(argv: Sequence[str], settings: Settings, out: Path) -> str:
    """The command that goes on with this run."""
    words = [*argv, *([] if settings.out else ["--out", str(out)])]
    return f"{COMMAND} {shlex.join(words)}"


def _load(
    plan: Plan, out: Path, parts: Parts, show: Progressing, times: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """The loaded model, with every method and its weights checked on it; None if nothing is left.

    With it the counters of FLOPs, and what they say of the model's parts (RefereeError where they
    disagree). Happens before the run directory is touched, so that wrong weights leave no trace.
    """
    done = Store(out).done() if out.is_dir() else {}
    todo = [cell for cell in plan.cells if cell.key.cell_id not in done]
    used = {cell.method: cell.checkpoint for cell in todo}
    used |= times.methods() if times else {}
    if not used and not parts.analyses_left(plan, out):
        return None, None, {}
    loaded = parts.load(plan.settings, plan.source, show.say)
    for method, checkpoint in used.items():
        parts.check(loaded, method, checkpoint)
    referees = parts.referees(loaded)
    return loaded, referees, referees.described()


def _run(
    plan: Plan,
    store: Store,
    loaded: Any,
    referees: Any,
    parts: Parts,
    show: Progressing,
    times: Any,
) -> int:
    for line in store.warnings:
        show.warn(f"{PROGRAM}: {line}")
    done = store.done()
    margin = store.margin(plan.settings.margin)
    derived = Derived(store, [c.key.cell_id for c in plan.cells], plan.settings.seed, margin)
    todo = [cell for cell in plan.cells if cell.key.cell_id not in done]
    for line in filter(None, (*plan.notes, too_few(plan, margin))):
        show.say(line)
    show.say(f"{store.path}: {len(plan.cells)} cells, {len(plan.cells) - len(todo)} done before")
    failed = []
    for number, cell in enumerate(todo, start=1):
        assert loaded is not None  # loaded whenever a cell is missing
        try:
            title = f"[{number}/{len(todo)}] {cell.name}"
            _one(cell, title, store, loaded, referees, parts, show, plan)
        except CellError as error:
            record_failure(cell, error, store)
            failed.append(cell)
            show.warn(f"{PROGRAM}: {cell.name} failed: {one_line(error)}")
        if failed:
            gc.collect()  # an exception's frames hold tensors; free them before the next cell
        derived.write()
    if not todo:
        derived.write()
    show.table(lambda: summary_table(store.path))
    show.say(LEGEND)
    code = EXIT_CELLS_FAILED if failed else EXIT_OK
    code = _analyse(plan, store, loaded, parts, show) or code
    if times and times.run(loaded, store, show):
        code = EXIT_CELLS_FAILED
    return draw_report(store.path, parts, show) or code


def _analyse(plan: Plan, store: Store, loaded: Any, parts: Parts, show: Progressing) -> int:
    """What --analyse asks for, with the model at hand; the cells are safe whatever happens."""
    if loaded is None or not plan.settings.analyse:
        return EXIT_OK
    try:
        parts.analyse(plan, store.path, loaded, show.say)
    except CellError as error:
        show.warn(f"{PROGRAM}: {one_line(error)}")
        return EXIT_CELLS_FAILED
    return EXIT_OK


def _one(
    cell: Cell,
    title: str,
    store: Store,
    loaded: Any,
    referees: Any,
    parts: Parts,
    show: Progressing,
    plan: Plan,
) -> None:
    with show.cell(title) as on_batch:
        verbose = plan.settings.verbose
        result = run_cell(cell, loaded, store, parts, referees, on_batch, verbose)
    headline = result.headline
    show.say(
        f"{title}: {headline.metric} {headline.value:.4g} "
        f"({result.n} samples, {result.seconds:.1f} s)"
    )
    for note in result.notes:
        show.say(f"    {note}")


def draw_report(run_dir: Path, parts: Parts, show: Progressing) -> int:
    """Draw the report; the cells are safe whatever happens here."""
    try:
        report = parts.report(run_dir)
    except Exception as error:
        again = f"{COMMAND} --plots-only {shlex.quote(str(run_dir))}"
        show.warn(f"{PROGRAM}: no report: {one_line(error)}; the tables are there, again: {again}")
        return EXIT_CELLS_FAILED
    print(report, file=sys.stdout)
    return EXIT_OK
