"""`--suite` with a `study:`: train and examine what is missing, then tables, verdicts, report."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from itertools import pairwise
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError, one_line
from harness.common.progress import Progressing
from harness.jobs.resolve import require_same_files
from harness.jobs.runner import Job
from harness.model.catalog import find_model
from harness.options.runtime import DENSE
from harness.options.settings import Settings
from harness.store.columns import study as columns
from harness.store.csvfile import write_csv
from harness.store.rundir import Store
from harness.study import work
from harness.study.claims import Verdicts, judge
from harness.study.declared import declared, require_start
from harness.study.spec import Study, load_study
from harness.study.tables import arm_rows, collect, loss_rows, run_rows, score_rows
from harness.study.terminal import verdicts
from harness.study.trainings import Exam, Training, gather, read, unique

TIMES = (
    "Training seconds are those of processes side by side and compare no methods; "
    "benchmarks/training.py does."
)
NEEDS = 5 << 30  # bytes of a training: all scenes, the decoder's activations
Places = dict[tuple[str, int], tuple[Training, str]]  # (arm, seed) -> training, examined method


class StudyJob(Job):
    """A study: what is missing is trained and examined, the rest is found by content.

    Finished trainings are found in `build/study`, also those of other studies and of fewer seeds,
    so a finished study takes seconds. A study with several looks judges after each, and trains on
    what its open claims compare.
    """

    def resolve(self, out: Path) -> dict[str, Any]:
        settings = self.settings
        assert settings.study is not None  # how this was reached
        self.study = load_study(Path(settings.study))
        if not settings.bench:
            raise UsageError(
                f"{settings.study}: a study needs bench: what its arms are examined on"
            )
        self.source = find_model(settings.model)
        if not self.source.mini:
            raise UsageError(
                f"--model: studies train the shipped model, not '{self.source.model_id}'"
            )
        self.how = _how(settings, self.source)
        self.places = gather(self.study, **self.how)
        require_start(self.places, self.source)
        named = {"study": self.study.name, "model": self.source.model_id}
        self.recorded = {**settings.recorded(), **named}
        return self.recorded

    def resume(self, out: Path) -> None:
        require_same_files(out, self.source, {})
        whole = read(out / "run.json") or {}
        begun, formats = whole.get("study") or {}, _dtype(self.places)
        if whole.get("dtype", formats) != formats:
            raise UsageError(
                f"'{out}' was begun with {whole['dtype']} and here it would be {formats}: "
                "choose another --out"
            )
        design = self.study.design
        if "looks" not in begun:  # of before there were looks
            if begun and design.several:
                raise UsageError(_later(out, "a fixed number of seeds", list(design.sizes)))
            return
        if begun["looks"] != list(design.sizes):
            said = f"looks at {begun['looks']} seeds"
            raise UsageError(_later(out, said, list(design.sizes)))
        for key, now in (("seeds", list(self.study.seeds)), ("margin", self.study.margin)):
            if begun.get(key, now) != now:
                raise UsageError(_later(out, f"{key} {begun[key]}", now))
        named = declared(self.study, self.places)
        if begun.get("declared", named) != named:
            raise UsageError(
                f"'{out}' was begun with other arms, claims or training than the suite now says: "
                "they are declared beforehand; choose another --out"
            )

    def open(self, out: Path, show: Progressing) -> dict[str, Any]:
        source = self.source
        return {
            "settings": self.recorded,
            "model_id": source.model_id,
            "mini": True,
            "device_name": _device_name(),
            "weight_hashes": source.weight_hashes,
            "model_files": source.setting_hashes,
            "dtype": _dtype(self.places),
            "study": _described(self.study, self.places),
        }

    def work(self, store: Store, show: Progressing) -> bool:
        study, sizes = self.study, self.study.design.sizes
        needed: Collection[str] | None = None  # all
        places: Places = {}
        errors: dict[Training, str] = {}
        for look, (before, size) in enumerate(pairwise((0, *sizes)), start=1):
            if len(sizes) > 1:
                show.say(f"look {look} of {len(sizes)}: {size} seeds")
            new = gather(study, study.seeds[before:size], needed, **self.how)
            places |= new
            errors |= _compute(unique(new.values()), show)
            found = collect(study, places, errors)
            judged = judge(study, found, self.settings.bench, look)
            _write(judged, store.path)
            needed = judged.needed
            if not needed:
                break
        show.table(lambda: verdicts(study, judged.rows))
        return bool(errors)


def _later(out: Path, begun: str, now: object) -> str:
    return (
        f"'{out}' was begun with {begun} and the suite now says {now}: "
        "they are declared beforehand; choose another --out"
    )


def _how(settings: Settings, source: Any) -> dict[str, Any]:
    """What all trainings share."""
    from harness.train.__main__ import scenes_place

    about = _drawn()
    batch = settings.batch if isinstance(settings.batch, int) else 8
    data = work.fingerprints(settings.bench, settings.limit, source.mini)
    return {
        "exam": Exam(settings.bench, settings.limit, batch, data),
        "data": str(scenes_place({"rounds": about["rounds"]})),
        "scenes": "minidata train " + " ".join(f"--{k} {v}" for k, v in about.items()),
        "start": next(iter(source.weight_hashes.values())),
        "files": source.setting_hashes,
        "model": source.model_id,
        "device": _device(),
    }


def _compute(jobs: Sequence[Training], show: Progressing) -> dict[Training, str]:
    """Do what is missing, as many at a time as cores and memory allow; the failed ones.

    One core each: on small models two processes with a thread each do 1.4 times the work of one
    with two.
    """
    todo = [job for job in jobs if not job.done]
    show.say(f"{len(jobs)} trainings, {len(jobs) - len(todo)} done before")
    if not todo:
        return {}
    _draw(Path(jobs[0].data))
    workers, threads = _share(len(todo))
    show.phase(f"training, {workers} at a time")
    failed: dict[Training, str] = {}
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=work.set_up, initargs=(threads,)
    )
    try:
        pool.submit(work.prime, todo[0]).result()
        running: dict[Future[str], Training] = {pool.submit(work.do, job): job for job in todo}
        for number, future in enumerate(as_completed(running), start=1):
            job = running[future]
            try:
                said = future.result()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a process hands over the SystemExit of a method too
                failed[job] = one_line(error)
                show.warn(f"[{number}/{len(todo)}] {job.name} failed: {failed[job]}")
                continue
            show.say(f"[{number}/{len(todo)}] {job.name}{': overflow: ' + said if said else ''}")
    except KeyboardInterrupt:
        for child in active_children():  # they would train on for minutes, unheard
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _drawn() -> dict[str, Any]:
    """How the scenes of a study are drawn: as the shipped model's."""
    from harness.minimodel.scenes import ROUNDS
    from harness.train.__main__ import SCENE_SEED, SCENES

    return {"n": SCENES, "seed": SCENE_SEED, "rounds": ROUNDS}


def _draw(folder: Path) -> None:
    """Draw the scenes where there are none, or where drawing them was interrupted (the note of how
    is written last). Raises UsageError where others lie there."""
    from harness.train.scenes import DRAWN, lacking

    wanted, note = _drawn(), folder / DRAWN
    if not note.exists() and ((folder / "drawing.lock").exists() or lacking(folder, pages=False)):
        from harness.train.__main__ import render

        render(folder, rounds=wanted["rounds"])
    found = read(note) or {}
    if {key: found.get(key) for key in wanted} != wanted or found.get("hd"):
        raise UsageError(
            f"'{folder}' holds scenes drawn with {found or 'unknown settings'}, and the study's "
            f"are drawn with {wanted}: remove or rename that folder"
        )


def _share(jobs: int) -> tuple[int, int]:
    """(processes, threads each)."""
    import torch

    if torch.cuda.is_available():
        return 1, torch.get_num_threads()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    workers = max(1, min(cores, _memory() // NEEDS))
    # As many threads for the last training as for those before it: they change how sums round.
    return min(workers, jobs), max(1, cores // workers)


def _memory() -> int:
    """Bytes this machine has, more than any need where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return sys.maxsize


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _device_name() -> str:
    import torch

    from harness.timing.device import cpu_name

    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def _dtype(places: Places) -> str:
    """Number formats of the trainings (one, or both by recipe) and of the answers."""
    halves = sorted({job.recipe.bf16 for job, _ in places.values()}, reverse=True)
    names = " or ".join("bfloat16 (autocast)" if half else "float32" for half in halves)
    return f"{names} training, float32 inference"


def _described(study: Study, places: Places) -> dict[str, Any]:
    recipe = next(iter(places.values()))[0].recipe
    routed = [j.recipe for j, _ in places.values() if j.recipe.method != DENSE]
    rates = sorted({r.module_learning_rate for r in routed or [recipe]})
    training = (
        f"{recipe.max_steps} steps of {recipe.batch} packed scenes from {recipe.start}, "
        f"low-rank updates (rank {recipe.rank}) of the decoder and the method's modules, "
        f"learning rate {recipe.learning_rate:g} (modules {', '.join(f'{r:g}' for r in rates)}), "
        f"seeds {', '.join(map(str, study.seeds))}"
    )
    return {
        "title": study.title,
        "paper": study.paper,
        "table": study.table,
        "paper_metric": study.paper_metric,
        "notes": [*study.notes, TIMES],
        "training": training,
        "margin": study.margin,
        "seeds": study.seeds,
        "looks": study.design.sizes,
        "declared": declared(study, places),
        "alpha_spent": study.design.spent,
    }


def _write(judged: Verdicts, out: Path) -> None:
    found = judged.found
    write_csv(out / "study.csv", columns.STUDY, arm_rows(judged.study, found, judged.benches))
    write_csv(out / "study_claims.csv", columns.CLAIMS, judged.rows)
    write_csv(out / "study_runs.csv", columns.RUNS, run_rows(found))
    write_csv(out / "study_scores.csv", columns.SCORES, score_rows(found))
    write_csv(out / "study_losses.csv", columns.LOSSES, loss_rows(found))
