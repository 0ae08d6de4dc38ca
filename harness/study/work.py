"""One job of a study in a process of its own: train an arm with a seed, then examine it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import UsageError, one_line
from harness.common.roots import BUILD
from harness.statistics.stats import top_score
from harness.study.trainings import Training, keep, parse, read

WORK = BUILD / "train"  # features of the training scenes
EVERY = 5  # steps between two points of the loss curve


def set_up(threads: int) -> None:
    """Called once in each process."""
    import os
    import signal

    _end_with_the_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches it too; its parent tells of it
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from transformers.utils import logging

    logging.disable_progress_bar()


def _end_with_the_parent() -> None:
    """A parent that is killed outright shuts no pool down; its workers would train on unheard."""
    import multiprocessing
    import os
    from multiprocessing.connection import wait
    from threading import Thread

    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def do(job: Training) -> str:
    """Train and examine what is missing; returns "" or, in one line, what overflowed.

    Studies share trainings: of two commands that want one, the second waits and finds it done.
    """
    from harness.store.folder import RunLock

    job.folder.mkdir(parents=True, exist_ok=True)
    with RunLock(job.folder / "training.lock"):
        trained = read(job.outcome)
        done = trained and (trained.get("overflow") or (job.folder / "method.json").exists())
        if not trained or not done:
            trained = _train(job) | _made()
            keep(job.outcome, trained)
        if trained.get("overflow"):
            return str(trained["overflow"])
        for test in job.missing():
            keep(job.exam_file(test), _examine(job, test) | _made())
    return ""


def _made() -> dict[str, Any]:
    """Where a result comes from: it may be collected much later, by another commit."""
    import torch

    from harness.store.runinfo import git_commit, versions

    threads = torch.get_num_threads()
    return {"code": git_commit(), "versions": versions(), "threads": threads}


def prime(job: Training) -> None:
    """Compute the images' features, which all jobs share, before two processes would."""
    from harness.minimodel.jobs import prepare

    with ExitStack() as stack:
        prepare(job.recipe, _scenes(job.data), WORK, None, stack)


def _train(job: Training) -> dict[str, Any]:
    import torch
    from transformers import PrinterCallback, TrainingArguments

    from harness.fitting.guard import Overflow, bad_weight
    from harness.minimodel.jobs import make_trainer, prepare, save_low_rank
    from harness.minimodel.rates import arguments

    recipe = job.recipe
    if recipe.compile:
        # A part is compiled again for each new model, a limited number of times, and then runs as
        # written: without this a training's speed and rounding would depend on those before it.
        torch.compiler.reset()
    with ExitStack() as stack:
        tuning = prepare(recipe, _scenes(job.data), WORK, None, stack)
        plain = arguments(recipe, job.folder).to_dict()
        quiet = {"save_strategy": "no", "logging_steps": EVERY, "disable_tqdm": True}
        # A process that loads batches beside this one would be a third and fourth on two cores, and
        # is given all scenes anew where it is spawned: 23 GB, measured.
        quiet |= {"dataloader_num_workers": 0}
        args = TrainingArguments(**{**plain, **quiet})
        trainer = make_trainer(tuning, recipe, args)
        trainer.remove_callback(PrinterCallback)
        watch = _watch()
        trainer.add_callback(watch)
        started = time.perf_counter()
        try:
            trainer.train()
        except Overflow as error:
            return {"overflow": one_line(error), "losses": watch.losses}
        if bad := bad_weight(tuning.model):
            return {"overflow": f"{bad} is not finite after the last step", "losses": watch.losses}
        seconds = time.perf_counter() - started
        base = job.start
        tuning.llava.eval()
        save_low_rank(job.folder, tuning, base, {"steps": trainer.state.global_step})
    return {
        "seconds": seconds,
        "steps": trainer.state.global_step,
        "losses": watch.losses,
        "plan": tuning.planned,
        "saved_as": tuning.method.spec,
    }


def _watch() -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Collects the loss curve."""

        def __init__(self) -> None:
            self.losses: list[tuple[int, float]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            if "loss" in logs:
                self.losses.append((state.global_step, float(logs["loss"])))

    return Watch()


def _examine(job: Training, test: str) -> dict[str, Any]:
    """Scores of every document of every bench, and the mean cost of a prompt."""
    from harness.bench.loop import evaluate
    from harness.cost.readouts import read_out

    loaded, exam = _loaded(job.model), job.exam
    method = _with_plan(job, parse(test))
    scores: dict[str, list[dict[str, Any]]] = {}
    kv, flops = [], []
    for bench in exam.benches:
        result = evaluate(
            loaded,
            method,
            bench,
            checkpoint=job.folder,
            limit=exam.limit,
            batch_size=exam.batch_size,
            progress=False,
            pictured=lambda position: False,
        )
        samples = [(s, s.score) for s in result.samples if s.score is not None]
        if len(samples) < len(result.samples):  # arms are compared document by document
            raise UsageError(f"study: {bench} scores documents together, not one by one")
        scale = 100.0 / top_score(np.array([score for _, score in samples]))
        scores[bench] = [
            {"doc_id": s.doc_id, "image_id": s.image_id, "score": scale * score}
            for s, score in samples
        ]
        how = {"shape": loaded.info, "itemsize": 4, "vision_runs": method.needs_images}
        read_outs = [read_out(record, **how) for record in result.records.values()]
        kv += [r["kv_ratio_vision"] for r in read_outs if r["kv_ratio_vision"] is not None]
        flops += [r["tflops_prefill"] for r in read_outs]
    return {
        "test": method.spec,
        "scores": scores,
        "kv_ratio_vision": sum(kv) / len(kv) if kv else None,
        "tflops_prefill": sum(flops) / len(flops) if flops else None,
    }


def _with_plan(job: Training, method: Any) -> Any:
    """The method with the layers that were planned at training, where it has no others."""
    from harness.model.checkpoints import read_meta, resolve_method

    if read_meta(job.folder)["method"] != method.name:
        return method
    found = resolve_method(job.folder, method)
    asked, given = method.params(), found.params()
    other = [f"{k}={v}" for k, v in given.items() if k != "layers" and v != asked[k]]
    if other:
        raise UsageError(
            f"study: test: {method.spec} leaves {', '.join(other)} as trained, a default that "
            "cannot be asked for anew"
        )
    return found


@cache
def _scenes(folder: str) -> Any:
    from harness.minimodel.scenes import Scenes

    return Scenes(Path(folder))


@cache
def _loaded(name: str) -> Any:
    from harness.model.catalog import load_model

    return load_model(name)


def fingerprints(exam_benches: tuple[str, ...], limit: int | None, mini: bool) -> tuple[str, ...]:
    """The first `limit` documents and the task version of each bench, for the names of results."""
    from harness.bench.benches import resolve_bench

    found = []
    for name in exam_benches:
        bench = resolve_bench(name, mini_model=mini)
        found.append(f"{bench.data} {bench.fingerprint(limit)} {bench.task_version}")
    return tuple(found)
