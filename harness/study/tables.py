"""The CSV rows of a study, from the results that are there. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from harness.statistics.stats import ALPHA
from harness.study.effects import Effect, Floats, effect
from harness.study.spec import REFERENCE, Arm, Study
from harness.study.trainings import Training, read

AVERAGE = "average"
Row = dict[str, Any]


@dataclass
class Result:
    """What is known of one arm: its runs by seed, those that failed with the reason."""

    arm: Arm
    exams: dict[int, dict[str, Any]] = field(default_factory=dict)
    trained: dict[int, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[int, Training] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    def matrix(self, bench: str, seeds: Sequence[int]) -> Floats:
        """Scores [seeds, documents] in percent."""
        rows = [[s["score"] for s in self.exams[seed]["scores"][bench]] for seed in seeds]
        return np.array(rows, dtype=np.float64)

    def images(self, bench: str) -> list[str]:
        """The image of each document."""
        first = next(iter(self.exams.values()))
        return [s["image_id"] for s in first["scores"][bench]]


def collect(
    study: Study,
    places: Mapping[tuple[str, int], tuple[Training, str]],
    errors: Mapping[Training, str],
) -> dict[str, Result]:
    """Results by arm, read from where the jobs left them; `errors` are failed jobs."""
    found = {arm.name: Result(arm) for arm in study.everyone}
    for (name, seed), (job, test) in places.items():
        result, trained = found[name], read(job.outcome) or {}
        result.jobs[seed], result.trained[seed] = job, trained
        exam = read(job.exam_file(test))
        if exam is not None:
            result.exams[seed] = exam
        elif trained.get("overflow"):
            result.errors[seed] = f"overflow: {trained['overflow']}"
        elif job in errors:
            result.errors[seed] = errors[job]
    return found


def shared(better: Result, worse: Result) -> list[int]:
    """The seeds that both have answers of."""
    return [seed for seed in better.exams if seed in worse.exams]


def contrast(
    better: Result,
    worse: Result,
    benches: Sequence[str],
    seeds: Sequence[int],
    alpha: float = ALPHA,
    looked: bool = False,
) -> Effect | None:
    """The difference of two arms over these seeds (as `effect` has it); None without one."""
    if not seeds:
        return None
    pairs = [better.matrix(b, seeds) - worse.matrix(b, seeds) for b in benches]
    return effect(pairs, [better.images(b) for b in benches], alpha, looked)


def arm_rows(study: Study, found: Mapping[str, Result], benches: Sequence[str]) -> list[Row]:
    """`study.csv`: every arm on every bench and on their average.

    Intervals are at the level of the look up to which the arm was trained.
    """
    rows = []
    reference = found[REFERENCE]
    for result in found.values():
        common = _about(result, reference)
        level, looked = study.design.level_of(len(result.jobs)), study.design.several
        for bench in (*benches, AVERAGE):
            chosen = list(benches) if bench == AVERAGE else [bench]
            row = {**common, "bench": bench, "metric": "score, %"}
            row |= _numbers(result, reference, chosen, level, looked)
            if bench == AVERAGE:
                row |= {"paper_value": result.arm.paper, "paper_note": result.arm.note}
            rows.append(row)
    return rows


def _about(result: Result, reference: Result) -> Row:
    seeds, arm = result.exams, result.arm
    status = "done" if len(seeds) == len(result.jobs) else "partial" if seeds else "missing"
    if result.errors and not seeds:
        status = "failed"
    exam = next(iter(seeds.values()), None)
    dense = next(iter(reference.exams.values()), None)
    ratio = exam["tflops_prefill"] / dense["tflops_prefill"] if exam and dense else None
    times = [t["seconds"] for t in result.trained.values() if "seconds" in t]
    return {
        "arm": arm.name,
        "role": "reference" if arm.name == REFERENCE else "arm",
        "train": ", then ".join(arm.stages) if arm.stages else arm.train,
        "test": exam["test"] if exam else arm.tested,
        "kv_ratio_vision": exam["kv_ratio_vision"] if exam else None,
        "tflops_ratio": ratio,
        "train_seconds": round(median(times), 1) if times else None,
        "status": status,
        "error": "; ".join(f"seed {seed}: {why}" for seed, why in result.errors.items()),
    }


def _numbers(
    result: Result, reference: Result, benches: Sequence[str], level: float, looked: bool
) -> Row:
    seeds = list(result.exams)
    if not seeds:
        return {"seeds": 0}
    scores = [result.matrix(b, seeds) for b in benches]
    own = effect(scores, [result.images(b) for b in benches], level, looked)
    by_seed = np.mean([s.mean(axis=1) for s in scores], axis=0).tolist()
    row: Row = {
        "mean": own.value,
        "ci_low": None if own.low is None else max(own.low, 0.0),
        "ci_high": None if own.high is None else min(own.high, 100.0),
        "seeds": len(seeds),
        "n": sum(s.shape[1] for s in scores),
        "seed_std": stdev(by_seed) if len(by_seed) > 1 else None,
    }
    common = shared(result, reference)
    away = contrast(result, reference, benches, common, level, looked)
    if away is not None and result is not reference:
        dense = mean(float(reference.matrix(b, common).mean()) for b in benches)
        row |= {"reference_mean": dense, "delta": away.value}
        row |= {"delta_ci_low": away.low, "delta_ci_high": away.high}
    return row


def run_rows(found: Mapping[str, Result]) -> list[Row]:
    """`study_runs.csv`: one line an arm and seed."""
    rows = []
    for result in found.values():
        for seed, job in result.jobs.items():
            trained, exam = result.trained[seed], result.exams.get(seed)
            steps, seconds = trained.get("steps"), trained.get("seconds")
            losses = [value for _, value in trained.get("losses", [])]
            means = [mean(s["score"] for s in v) for v in exam["scores"].values()] if exam else []
            rows.append(
                {
                    "arm": result.arm.name,
                    "seed": seed,
                    "train": ", then ".join(job.recipe.stages) or trained.get("saved_as"),
                    "test": exam["test"] if exam else result.arm.tested,
                    "status": "done" if exam else "failed" if seed in result.errors else "missing",
                    "error": result.errors.get(seed),
                    "steps": steps,
                    "final_loss": mean(losses[-4:]) if losses else None,
                    "train_seconds": round(seconds, 2) if seconds else None,
                    "step_ms": round(1000 * seconds / steps, 1) if seconds and steps else None,
                    "accuracy_average": mean(means) if means else None,
                    "checkpoint": job.folder.name,
                    "n": sum(len(v) for v in exam["scores"].values()) if exam else None,
                }
            )
    return rows


def score_rows(found: Mapping[str, Result]) -> list[Row]:
    """`study_scores.csv`: every document's score, so that the tables can be made again."""
    return [
        {
            "arm": result.arm.name,
            "seed": seed,
            "bench": bench,
            **sample,
            "image_id": sample["image_id"][:10],  # tells images apart, and keeps the file small
            "score": round(sample["score"], 4),
        }
        for result in found.values()
        for seed, exam in result.exams.items()
        for bench, samples in exam["scores"].items()
        for sample in samples
    ]


def loss_rows(found: Mapping[str, Result]) -> list[Row]:
    """`study_losses.csv`: the training curves."""
    return [
        {"arm": result.arm.name, "seed": seed, "step": step, "loss": loss}
        for result in found.values()
        for seed, trained in result.trained.items()
        for step, loss in trained.get("losses", [])
    ]
