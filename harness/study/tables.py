"""The CSV rows of a study, from the results that are there. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from harness.statistics.stats import holm
from harness.study.effects import Effect, Floats, effect, judge_higher, judge_not_lower
from harness.study.spec import REFERENCE, Arm, Claim, Study
from harness.study.trainings import Training, read

AVERAGE = "average"
TESTS = ("p_value", "p_adjusted", "p_margin", "p_margin_adjusted")
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


def contrast(better: Result, worse: Result, benches: Sequence[str]) -> Effect | None:
    """The difference of two arms over the seeds both have; None without one."""
    seeds = [seed for seed in better.exams if seed in worse.exams]
    if not seeds:
        return None
    pairs = [better.matrix(b, seeds) - worse.matrix(b, seeds) for b in benches]
    return effect(pairs, [better.images(b) for b in benches])


def arm_rows(study: Study, found: Mapping[str, Result], benches: Sequence[str]) -> list[Row]:
    """`study.csv`: every arm on every bench and on their average."""
    rows = []
    reference = found[REFERENCE]
    for result in found.values():
        common = _about(study, result, reference)
        for bench in (*benches, AVERAGE):
            chosen = list(benches) if bench == AVERAGE else [bench]
            row = {**common, "bench": bench, "metric": "score, %"}
            row |= _numbers(result, reference, chosen)
            if bench == AVERAGE:
                row |= {"paper_value": result.arm.paper, "paper_note": result.arm.note}
            rows.append(row)
    return rows


def _about(study: Study, result: Result, reference: Result) -> Row:
    seeds, arm = result.exams, result.arm
    status = "done" if len(seeds) == len(study.seeds) else "partial" if seeds else "missing"
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


def _numbers(result: Result, reference: Result, benches: Sequence[str]) -> Row:
    seeds = list(result.exams)
    if not seeds:
        return {"seeds": 0}
    scores = [result.matrix(b, seeds) for b in benches]
    own = effect(scores, [result.images(b) for b in benches])
    by_seed = np.mean([s.mean(axis=1) for s in scores], axis=0).tolist()
    row: Row = {
        "mean": own.value,
        "ci_low": None if own.low is None else max(own.low, 0.0),
        "ci_high": None if own.high is None else min(own.high, 100.0),
        "seeds": len(seeds),
        "n": sum(s.shape[1] for s in scores),
        "seed_std": stdev(by_seed) if len(by_seed) > 1 else None,
    }
    away = contrast(result, reference, benches) if result is not reference else None
    if away is not None:
        common = [seed for seed in seeds if seed in reference.exams]
        dense = mean(float(reference.matrix(b, common).mean()) for b in benches)
        row |= {"reference_mean": dense, "delta": away.value}
        row |= {"delta_ci_low": away.low, "delta_ci_high": away.high}
    return row


def claim_rows(study: Study, found: Mapping[str, Result], benches: Sequence[str]) -> list[Row]:
    """`study_claims.csv`: one verdict a claim, p-values adjusted over the study's claims.

    Two tests a claim, whichever verdict it ends in: of no difference, and of a difference of just
    the margin (an advantage for "higher", a loss for "not lower"). Holm's correction is over all
    claims, for each of the two.
    """
    effects = {
        claim: contrast(found[claim.better], found[claim.worse], benches)
        for claim in study.claims
        if claim.kind != "overflow"
    }
    tested = {c: e for c, e in effects.items() if e is not None and e.p_value is not None}
    bounds = {c: study.margin if c.kind == "higher" else -study.margin for c in tested}
    zero = [e.p_of(0.0) for e in tested.values()]
    margin = [e.p_of(bounds[c]) for c, e in tested.items()]
    columns = zip(tested, zero, holm(zero), margin, holm(margin), strict=True)
    tests = {c: dict(zip(TESTS, values, strict=True)) for c, *values in columns}
    return [
        {
            "claim": claim.claim,
            "kind": claim.kind,
            "better": claim.better,
            "worse": claim.worse,
            "bench": AVERAGE,
            "margin": study.margin,
            "source": claim.source or f"{study.paper}, {study.table}",
            **_judged(study, claim, found, effects.get(claim), tests.get(claim, {})),
        }
        for claim in study.claims
    ]


def _judged(
    study: Study, claim: Claim, found: Mapping[str, Result], away: Effect | None, tests: Row
) -> Row:
    if claim.kind == "overflow":
        return _overflowed(study, found[claim.better])
    papers = [found[name].arm.paper for name in (claim.better, claim.worse)]
    theirs = papers[0] - papers[1] if papers[0] is not None and papers[1] is not None else None
    row: Row = {"paper_difference": None if theirs is None else round(theirs, 6)}
    if away is None:
        return {**row, "verdict": "inconclusive", "reason": "an arm has no results"}
    judge = judge_higher if claim.kind == "higher" else judge_not_lower
    p_zero, p_margin = (tests.get(name, 1.0) for name in ("p_adjusted", "p_margin_adjusted"))
    verdict, why = judge(away, p_zero, p_margin, study.margin)
    numbers = {"difference": away.value, "ci_low": away.low, "ci_high": away.high}
    used = [s for s in found[claim.better].exams if s in found[claim.worse].exams]
    if len(used) < len(study.seeds):
        why += f"; only {len(used)} of {len(study.seeds)} seeds have both arms"
    return {**row, **numbers, **tests, "verdict": verdict, "reason": why}


def _overflowed(study: Study, result: Result) -> Row:
    bad = [seed for seed, why in result.errors.items() if why.startswith("overflow")]
    if bad:
        why = f"{len(bad)} of {len(study.seeds)} runs overflowed"
        every = len(bad) == len(study.seeds)
        return {"verdict": "reproduced" if every else "inconclusive", "reason": why}
    if len(result.exams) < len(study.seeds):
        return {"verdict": "inconclusive", "reason": "not all runs are there"}
    return {"verdict": "not reproduced", "reason": f"none of {len(study.seeds)} runs overflowed"}


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
