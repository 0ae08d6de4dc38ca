"""What one cell of a report shows: its row of the grid, its scores and its costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from methods import BLIND, CONTROLS, REFERENCE

ALPHA = 0.05
UNSCORED = "not scored"
"""In a cell whose answers are there and whose score others give."""

NAN = math.nan


@dataclass(frozen=True)
class Series:
    """One row of the study: a method with its parameters on a model."""

    model: str
    label: str
    method: str
    short: str = field(default="", compare=False)
    """Name in figures: the method alone where it has one row, else the label."""

    @property
    def is_control(self) -> bool:
        return self.method in CONTROLS

    @property
    def is_reference(self) -> bool:
        """The unchanged model, which the others are compared with."""
        return self.method == REFERENCE

    @property
    def is_blind(self) -> bool:
        """The floor of a bench: no image."""
        return self.method == BLIND


@dataclass(frozen=True)
class Score:
    """A metric as ``accuracy.csv`` has it; NaN where nothing was measured."""

    task: str
    metric: str
    value: float
    n: float
    low: float
    high: float
    delta: float
    delta_low: float
    delta_high: float
    p_adjusted: float
    verdict: str
    headline: bool
    n_paired: float = NAN
    right_to_wrong: float = NAN
    wrong_to_right: float = NAN
    detectable: float = NAN
    """Smallest true difference that the paired test finds with 80 % power."""
    margin: float = NAN
    skill: float = NAN
    skill_low: float = NAN
    skill_high: float = NAN
    positions: str = ""
    """How kept tokens are numbered: ``original``, ``compact``, or nothing."""
    budget_asked: float = NAN
    budget_met: float = NAN
    budget_unit: str = ""
    """``tokens`` of one image or ``share`` of its tokens."""
    budget_within: float = NAN
    """1 where the budget was met, 0 where it was missed."""
    same_answers: float = NAN
    smallest_n: float = NAN
    judge: str = ""
    """The language model that scored."""
    temperature: str = ""
    """At which it was asked."""

    @property
    def is_same(self) -> bool:
        """Whether dense gave every one of these answers, and was scored alike (a judge may not)."""
        compared = self.n if math.isnan(self.n_paired) else self.n_paired
        return self.delta == 0 and self.same_answers == compared > 0

    @property
    def significant(self) -> bool:
        """Whether it differs from dense beyond chance, also after correction where there is one."""
        corrected = math.isnan(self.p_adjusted) or self.p_adjusted < ALPHA
        return self.verdict in ("better", "worse") and corrected


@dataclass(frozen=True)
class Cost:
    """One line of ``cost.csv``; FLOPs in units of 1e12, ratios from 0 to 1."""

    scope: str
    unit: str
    counter: str
    convention: str
    tflops: float
    low: float
    high: float
    kv_vision: float
    kv_all: float
    kv_mib: float
    skip_mod: float
    skip_all: float
    kv_mib_end: float = NAN
    kv_batch: float = NAN


@dataclass
class Cell:
    """One method on one bench.

    ``status`` is done, failed, missing (not run, or not yet), or costs (FLOPs only, no answers).
    """

    status: str = "missing"
    cell_id: str = ""
    data: str = ""
    error: str = ""
    not_scored: str = ""
    """Why a done cell has no score: ``needs a judge``, ``submit FILE``."""
    n: float = NAN
    seconds: float = NAN
    scores: list[Score] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    @property
    def waits(self) -> str:
        """The reason in few words, for a table's cell; empty where it waits for nothing."""
        if self.status != "done" or not self.not_scored:
            return ""
        return "submit its file" if self.not_scored.startswith("submit ") else self.not_scored
