"""One job of a study for real: the shipped model trained a few steps on made-up scenes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from filelock import Timeout

from harness.bench import loop
from harness.common.errors import UsageError
from harness.minimodel.recipe import Recipe
from harness.store.folder import RunLock
from harness.study import trainings, work
from harness.study.trainings import Exam, Training, read


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A function that makes a job of three steps on twelve scenes of noise."""
    rng = np.random.default_rng(0)
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    np.save(scenes / "images.npy", rng.integers(0, 255, (14, 192, 192, 3), dtype=np.uint8))
    qa = [{"bench": "gqa", "prompt": "What color is the cat?\nAnswer briefly.", "answer": "red"}]
    with open(scenes / "scenes.jsonl", "w", encoding="utf-8") as out:
        for i in range(14):
            out.write(json.dumps({"scene_id": str(i), "boxes": [], "qa": qa}) + "\n")
    monkeypatch.setattr(trainings, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(work, "WORK", tmp_path / "work")
    monkeypatch.setattr(work, "EVERY", 1)
    (tmp_path / "work").mkdir()
    source = work._loaded("tiny-llava").source
    start = next(iter(source.weight_hashes.values()))
    files = source.setting_hashes
    exam = Exam(("gqa",), 3, 3, work.fingerprints(("gqa",), 3, True))

    def make(method, tests=(), **changes):
        settings = {"rank": 2, "max_steps": 3, "batch": 2, "max_text": 40, "held_out": 2}
        recipe = Recipe(
            stage="tune", method=method, start="assets/tiny-llava", **{**settings, **changes}
        )
        about = (str(scenes), "noise", start, files, "tiny-llava")
        return Training(recipe, tests or (method,), exam, *about)

    return make


def test_a_job_trains_examines_and_is_found_again(job):
    one = job("pmod", tests=("pmod", "pmod:min=0.0"))
    assert work.do(one) == ""
    assert one.done
    trained = read(one.outcome)
    assert trained["steps"] == 3
    exams = [read(one.exam_file(test)) for test in one.tests]
    assert [len(exam["scores"]["gqa"]) for exam in exams] == [3, 3]
    assert exams[0]["kv_ratio_vision"] > exams[1]["kv_ratio_vision"] > 0
    before = one.outcome.stat().st_mtime_ns
    assert work.do(job("pmod", tests=one.tests)) == ""
    assert one.outcome.stat().st_mtime_ns == before


def test_stages_train_dense_weights_that_a_training_free_method_runs_on(job):
    stages = ("llavolta:k=2:stride=8", "dense", "llavolta:k=2:stride=2")
    staged = job("dense", tests=("llavolta:k=2:stride=2", "dense"), stages=stages)
    plain = job("dense")
    assert work.do(staged) == "" and work.do(plain) == ""
    losses = [[value for _, value in read(j.outcome)["losses"]] for j in (staged, plain)]
    assert losses[0] != losses[1]
    pooled, dense = (read(staged.exam_file(test)) for test in staged.tests)
    assert pooled["tflops_prefill"] < dense["tflops_prefill"]


def test_a_default_that_the_checkpoint_overrides_is_refused(job):
    asked = job("pmod:schedule=constant", tests=("pmod", "pmod:schedule=constant"))
    with pytest.raises(UsageError, match="leaves schedule=constant as trained"):
        work.do(asked)
    assert read(asked.outcome)["threads"] > 0 and read(asked.outcome)["versions"]["torch"]


def test_a_second_command_waits_for_the_training_of_the_first(job, monkeypatch):
    one = job("pmod")

    def train(found):
        with pytest.raises(Timeout):
            RunLock(found.folder / "training.lock").acquire(timeout=0)
        return {"overflow": "loss is nan"}

    monkeypatch.setattr(work, "_train", train)
    assert work.do(one) == "loss is nan"
    with RunLock(one.folder / "training.lock").acquire(timeout=0):
        pass  # free again


def test_documents_that_are_not_scored_one_by_one_are_refused(job, monkeypatch):
    one = job("dense")
    samples = [SimpleNamespace(doc_id=i, image_id="", score=s) for i, s in enumerate((1.0, None))]
    monkeypatch.setattr(loop, "evaluate", lambda *a, **k: SimpleNamespace(samples=samples))
    monkeypatch.setattr(work, "_with_plan", lambda job, method: method)
    with pytest.raises(UsageError, match="gqa scores documents together"):
        work._examine(one, "dense")


def test_a_training_that_bursts_is_a_result_and_not_an_error(job):
    burst = job("pmod", learning_rate=1e20, module_learning_rate=1e20, clip=0.0)
    said = work.do(burst)
    assert "nan" in said or "inf" in said or "not finite" in said
    assert burst.done
    assert read(burst.outcome)["overflow"] == said
    assert not (burst.folder / "method.json").exists()


KILLED = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from harness.study import work

if __name__ == "__main__":
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=work.set_up, initargs=(1,)) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    env = {**os.environ, "PYTHONPATH": str(Path(work.__file__).parents[2])}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    with suppress(psutil.NoSuchProcess):  # it has ended already
        psutil.Process(worker).wait(timeout=20)
