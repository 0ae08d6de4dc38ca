"""A study: arms trained alike but for one thing, what they score, and the claims put to test."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from reports import studydata
from reports.cell import ALPHA, NAN
from reports.rundata import Run
from reports.studydata import AVERAGE


@dataclass(frozen=True)
class Line:
    """One arm on one bench, or on the average; percent and points, NaN where not measured."""

    status: str = "missing"
    error: str = ""
    metric: str = ""
    mean: float = NAN
    low: float = NAN
    high: float = NAN
    seeds: float = NAN
    n: float = NAN
    seed_std: float = NAN
    delta: float = NAN
    delta_low: float = NAN
    delta_high: float = NAN
    kv: float = NAN
    tflops: float = NAN
    seconds: float = NAN
    paper: float = NAN
    paper_note: str = ""
    notes: str = ""

    @property
    def known(self) -> bool:
        return not math.isnan(self.mean)

    @property
    def significant(self) -> bool:
        """Whether the interval of the difference to the reference leaves out zero."""
        return excludes_zero(self.delta_low, self.delta_high)


@dataclass(frozen=True)
class Training:
    """One seed of an arm."""

    seed: str
    status: str
    error: str
    checkpoint: str
    steps: float
    loss: float
    seconds: float
    step_ms: float
    accuracy: float
    n: float


@dataclass
class Arm:
    """What was trained, with its benches and its seeds."""

    name: str
    role: str = "arm"
    train: str = ""
    test: str = ""
    lines: dict[str, Line] = field(default_factory=dict)
    runs: list[Training] = field(default_factory=list)

    @property
    def is_reference(self) -> bool:
        return self.role == "reference"

    def line(self, bench: str) -> Line:
        """The line of a bench; for a gap, why: the seeds' own failure when all of them failed."""
        found = self.lines.get(bench)
        if found is None and self.runs and all(r.status == "failed" for r in self.runs):
            return Line("failed", next((r.error for r in self.runs if r.error), ""))
        return found or Line()

    @property
    def average(self) -> Line:
        return self.line(AVERAGE)


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper, as ``study_claims.csv`` judges it; points."""

    claim: str
    better: str
    worse: str
    bench: str
    difference: float
    low: float
    high: float
    p_adjusted: float
    paper: float
    margin: float
    verdict: str
    reason: str
    source: str
    seeds: float = NAN
    look: float = NAN
    looks: float = NAN
    spent: float = NAN

    @property
    def significant(self) -> bool:
        """Beyond chance after Holm's correction, and the interval says so too."""
        return self.p_adjusted < ALPHA and excludes_zero(self.low, self.high)


@dataclass
class Study:
    """Everything that the report of a study shows, in the order of the study."""

    run: Run
    arms: list[Arm]
    benches: list[str]
    claims: list[Claim]
    losses: pd.DataFrame

    @property
    def seeds(self) -> int:
        """Seeds an arm was meant to have: the most that any has."""
        counts = [len(arm.runs) for arm in self.arms]
        counts += [int(li.seeds) for a in self.arms for li in a.lines.values() if li.seeds > 0]
        return max(counts, default=0)

    @property
    def looks(self) -> list[int]:
        """At how many seeds a study with several looks judges its claims; else empty."""
        said = self.run.get("study.looks")
        sizes = [n for n in said if isinstance(n, int)] if isinstance(said, list) else []
        return sizes if len(sizes) > 1 else []

    @property
    def reference(self) -> Arm | None:
        return next((arm for arm in self.arms if arm.is_reference), None)

    def said(self, name: str) -> str:
        """An entry of ``study`` in ``run.json`` as text, empty when it is not there."""
        value = self.run.get(f"study.{name}", f"settings.study.{name}")
        return "" if value is None else str(value)

    @property
    def notes(self) -> list[str]:
        found = self.run.get("study.notes") or []
        return [str(n) for n in found] if isinstance(found, list) else [str(found)]

    def short_of(self, arm: Arm) -> str:
        """How many of the seeds stand behind an arm's numbers, where not all of them do.

        An arm that was done with at an earlier look is not short of any.
        """
        seeds = arm.average.seeds
        if arm.average.status == "done" and seeds in self.looks:
            return ""
        short = not math.isnan(seeds) and 0 < seeds < self.seeds
        return f"{seeds:.0f} of {self.seeds} seeds" if short else ""


def load(run: Run) -> Study:
    """Join the files of a study; an arm that any of them names is in it."""
    files = studydata.read(run)
    arms: dict[str, Arm] = {}
    for row in files.lines.itertuples():
        arm = arms.setdefault(row.arm, Arm(row.arm, row.role, row.train, row.test))
        arm.lines[row.bench] = _line(row)
    for row in files.runs.itertuples():
        arm = arms.setdefault(row.arm, Arm(row.arm, train=row.train, test=row.test))
        arm.runs.append(_training(row))
    claims = [_claim(row) for row in files.claims.itertuples()]
    for name in dict.fromkeys(n for c in claims for n in (c.better, c.worse) if n):
        if files.lines.empty or name in arms:
            continue
        arms[name] = Arm(name)
        run.notices.append(f"{name}: named by a claim, and no file has a line of it.")
    benches = [str(b) for b in files.lines["bench"].unique() if b and b != AVERAGE]
    study = Study(run, list(arms.values()), benches, claims, files.losses)
    if study.arms and study.reference is None:
        run.notices.append("No arm is the reference: differences are to what study.csv says only.")
    return study


def _line(row: Any) -> Line:
    return Line(
        row.status or "missing", row.error, row.metric, row.mean, row.ci_low, row.ci_high,
        row.seeds, row.n, row.seed_std, row.delta, row.delta_ci_low, row.delta_ci_high,
        row.kv_ratio_vision, row.tflops_ratio, row.train_seconds, row.paper_value,
        row.paper_note, row.notes,
    )  # fmt: skip


def _training(row: Any) -> Training:
    return Training(
        row.seed, row.status or "missing", row.error, row.checkpoint, row.steps, row.final_loss,
        row.train_seconds, row.step_ms, row.accuracy_average, row.n,
    )  # fmt: skip


def _claim(row: Any) -> Claim:
    return Claim(
        row.claim, row.better, row.worse, row.bench or AVERAGE, row.difference, row.ci_low,
        row.ci_high, row.p_adjusted, row.paper_difference, row.margin, row.verdict, row.reason,
        row.source, row.seeds, row.look, row.looks, row.alpha_spent,
    )  # fmt: skip


def excludes_zero(low: float, high: float) -> bool:
    """Whether an interval is known and lies on one side of zero."""
    return low > 0 or high < 0
