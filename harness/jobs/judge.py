"""`--judge RUN`: scores of a run's kept answers, by a language model behind an endpoint.

The run's answers, records and costs stay as they are. What the judge said stays in `judge/`, so
that nothing is asked twice; scores of another judge give way. No weights are loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.bench.outcome import ANSWERS, NEEDS_JUDGE, read_answers
from harness.common.errors import (
    EXIT_CELLS_FAILED,
    EXIT_OK,
    CellError,
    HarnessError,
    StoreError,
    UsageError,
    one_line,
)
from harness.common.progress import Progressing
from harness.common.stops import PROGRAM
from harness.readouts.derive import Derived
from harness.readouts.ending import conclude
from harness.readouts.summary import ending
from harness.store import tables
from harness.store.against import in_run, keep
from harness.store.folder import open_for_reading, read_run_json
from harness.store.rundir import Store

FLAG = "--judge"
FOLDER = "judge"
MODEL = "MODEL_VERSION"  # what upstream's tasks read when they shape their requests


def run_judge(
    target: str,
    url: str | None,
    model: str | None,
    data: str = "auto",
    quiet: bool = False,
    against: Sequence[str] = (),
    form: str | None = None,
) -> int:
    """Score every cell that waits for a judge; the exit code is that of a run.

    ``data``: where the documents are read again; ``auto``: where the run read them.

    Raises UsageError, before anything is written, for a run in which nothing waits.
    """
    if not url or not model:
        missing = "--judge-model" if url else "--judge-url"
        raise UsageError(f"{FLAG} needs {missing}: whom to ask, of the endpoint and by which name")
    path = open_for_reading(target, FLAG)
    if tables.is_packed(path):
        raise UsageError(f"{FLAG}: '{target}' is packed and has no answers to judge: give the run")
    about, references = read_run_json(path), in_run(against, path)
    if not waiting(Store(path), about.get("cells") or ()):
        raise UsageError(f"{FLAG}: no finished cell of '{target}' is scored by a judge")
    if data != "auto":
        about["data_asked"] = data
    with Progressing(quiet) as show, Store(path, FLAG) as store:
        keep(path, references)
        failed = judge_cells(store, about, url, model, show)
        done = store.done()
        order = [cell for cell in about["cells"] if cell in done]
        show.phase("tables")
        Derived(store, order, about["seed"], store.margin(None)).write()
        show.phase("drawing the report")
        shown = conclude(_report(path), lambda: ending(path), show, form)
    return EXIT_CELLS_FAILED if failed or not shown else EXIT_OK


def waiting(store: Store, cells: Sequence[str]) -> dict[str, dict[str, str]]:
    """The finished cells that a judge scores, or has scored, by the id that was asked for."""
    done = store.done()
    found = {cell: done[cell] for cell in cells if cell in done}
    return {cell: row for cell, row in found.items() if _is_judged(store, row["cell_id"])}


def _is_judged(store: Store, cell_id: str) -> bool:
    metrics = store.read_metrics(cell_id)
    return any(m.get("judge") or m.get("not_scored") == NEEDS_JUDGE for m in metrics)


def judge_cells(
    store: Store, about: Mapping[str, Any], url: str, model: str, show: Progressing
) -> bool:
    """Score the cells of an open run; True when a part of them could not be."""
    from harness.common.torchvision_ops import declare_missing_ops

    cells = waiting(store, about["cells"])
    names = {cell: f"{row['label']} on {row['bench']}" for cell, row in cells.items()}
    if not cells:
        return False
    os.environ[MODEL] = model  # before a task's file is imported
    declare_missing_ops()
    from harness.bench.judge import Judge, NoJudge

    failed, said = [], dict[str, str]()
    try:
        judge = Judge(url, model, store.path / FOLDER)
    except HarnessError as error:
        show.warn(f"{PROGRAM}: {one_line(error)}")
        return True
    for cell in show.each("judging", cells, names):
        try:
            said[cell] = _judge(store, about, cells[cell], judge)
        except NoJudge as error:
            failed.append(cell)
            left = len(cells) - len(said) - len(failed)
            more = f"; {left} cell{'s' * (left > 1)} more not judged" if left else ""
            show.warn(f"{PROGRAM}: {names[cell]} is not judged: {one_line(error)}{more}")
            failed += [one for one in cells if one not in said and one not in failed]
            break
        except HarnessError as error:
            failed.append(cell)
            show.warn(f"{PROGRAM}: {names[cell]} is not judged: {one_line(error)}")
        else:
            show.say(f"{names[cell]}: judged by {said[cell]}")
    show.say(f"{judge.new} answers asked of the judge; all that it said is in {judge.path}")
    for cell in failed if said else ():
        _forget(store, cells[cell]["cell_id"], next(iter(said.values())))
    return bool(failed)


def _judge(store: Store, about: Mapping[str, Any], row: Mapping[str, str], judge: Any) -> str:
    """Score one cell; returns by whom."""
    from harness.bench.benches import resolve_bench
    from harness.bench.rescore import rescore

    settings = about["settings"]
    data = str(about.get("data_asked") or "auto")
    name = (about.get("own_asked") or {}).get(row["bench"], row["bench"])
    bench = resolve_bench(name, data, mini_model=bool(about.get("mini")))
    bench.require(settings.get("limit"))
    if bench.data_source != row["data_source"]:
        raise CellError(f"its data are {bench.data_source} now, they were {row['data_source']}")
    folder = store.submissions_dir(row["cell_id"])
    try:
        content = (folder / ANSWERS).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder / ANSWERS}: cannot be read ({one_line(error, 120)})") from None
    answers = read_answers(content, str(folder / ANSWERS))
    metrics = rescore(bench, answers, settings.get("limit"), about["seed"], judge)
    store.write_metrics(row["cell_id"], [m.entry(m is metrics[0]) for m in metrics])
    store.write_scores(row["cell_id"], metrics[0].scores)
    return metrics[0].judge


def _forget(store: Store, cell_id: str, judge: str) -> None:
    """Take another judge's scores out of a cell that this one has not scored: tables hold one."""
    metrics = store.read_metrics(cell_id)
    if any(m.get("judge") and _who(m["judge"]) != _who(judge) for m in metrics):
        first = {name: value for name, value in metrics[0].items() if not name.startswith("judge")}
        first |= {"value": None, "not_scored": NEEDS_JUDGE, "is_mean": False, "scores": {}}
        store.write_metrics(cell_id, [first])
        store.write_scores(cell_id, {})


def _who(judge: str) -> str:
    return judge.partition(",")[0]


def _report(path: Path) -> Path:
    from reports.build import build_report
    from reports.errors import ReportError

    try:
        return Path(build_report(path))
    except ReportError as error:
        raise HarnessError(f"{FLAG}: no report: {one_line(error)}") from None
