"""The claims of a study, judged look by look on the seeds of each. Torch-free.

A claim that is decided at a look keeps its verdict and its numbers; arms that no open claim needs
are trained no further. A claim is tested with all seeds of a look or not at all: a run that failed
and is there when the study is resumed would else be one more look, at a sample of another size. At
the last look those that overflowed may be missing: they overflow again. Two tests a claim,
whichever verdict it ends in: of no difference, and of a difference of just the margin (an advantage
for "higher", a loss for "not lower"). Their p-values are adjusted for the looks, those of decided
claims stand as they were, and Holm's correction is over all claims, for each of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.statistics.stats import holm
from harness.study.effects import Effect, judge_higher, judge_not_lower
from harness.study.spec import REFERENCE, Claim, Study
from harness.study.tables import AVERAGE, Result, Row, contrast, shared

INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Tests:
    """p-values of no difference and of the margin: of their look alone, and for all looks."""

    zero: float = 1.0
    margin: float = 1.0
    zero_of_looks: float = 1.0
    margin_of_looks: float = 1.0


class Verdicts:
    """The verdicts of a study after some of its looks."""

    def __init__(self, study: Study, found: Mapping[str, Result], benches: Sequence[str]) -> None:
        self.study, self.found, self.benches = study, found, benches
        self.look = 0
        self._rows: dict[Claim, Row] = {}
        self._decided: set[Claim] = set()
        self._tests: dict[Claim, Tests] = {}
        if len(study.design.sizes) > 1:  # what cannot be tested yet may be tested later
            compared = [c for c in study.claims if c.kind != "overflow"]
            self._tests = dict.fromkeys(compared, Tests())

    @property
    def rows(self) -> list[Row]:
        """`study_claims.csv`: one verdict a claim."""
        return [self._rows[claim] for claim in self.study.claims]

    @property
    def undecided(self) -> list[Claim]:
        return [claim for claim in self.study.claims if claim not in self._decided]

    @property
    def needed(self) -> set[str]:
        """The arms whose next seeds can decide something, and the reference beside them."""
        sides = {name for c in self.undecided for name in (c.better, c.worse) if name}
        return {REFERENCE, *sides} if sides else set()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the look."""
        return self.study.seeds[: self.study.design.sizes[self.look - 1]]

    def take(self, look: int) -> None:
        """Judge what is open on the seeds of this look; looks are taken in order, from 1."""
        self.look = look
        effects = {c: self._effect(c) for c in self.undecided if c.kind != "overflow"}
        for claim, away in effects.items():
            if away is not None and away.p_value is not None and self._is_tested(claim):
                self._tests[claim] = self._tested(claim, away)
        held = self._tests.values()
        zero = dict(zip(self._tests, holm([t.zero_of_looks for t in held]), strict=True))
        margin = dict(zip(self._tests, holm([t.margin_of_looks for t in held]), strict=True))
        for claim in self.undecided:
            if claim.kind == "overflow":
                row, decided = self._overflowed(claim)
            else:
                adjusted = 1.0, 1.0
                if self._is_tested(claim):
                    adjusted = zero.get(claim, 1.0), margin.get(claim, 1.0)
                row = self._compared(claim, effects[claim], *adjusted)
                decided = row["verdict"] != INCONCLUSIVE
            self._rows[claim] = {**self._about(claim), **row}
            self._decided |= {claim} if decided else set()

    def _pairs(self, claim: Claim) -> list[int]:
        """The seeds that both arms have."""
        both = shared(self.found[claim.better], self.found[claim.worse])
        return [seed for seed in both if seed in self.seeds]

    @property
    def _is_last(self) -> bool:
        return self.look == len(self.study.design.sizes)

    def _is_tested(self, claim: Claim) -> bool:
        """Whether this look does: with all its seeds, at the last but for those that overflow."""
        missing = set(self.seeds) - set(self._pairs(claim))
        return not missing or (self._is_last and all(self._overflows(claim, s) for s in missing))

    def _overflows(self, claim: Claim, seed: int) -> bool:
        sides = self.found[claim.better], self.found[claim.worse]
        return any(side.errors.get(seed, "").startswith("overflow") for side in sides)

    def _effect(self, claim: Claim) -> Effect | None:
        level = self.study.design.levels[self.look - 1]
        sides = self.found[claim.better], self.found[claim.worse]
        several = self.study.design.several
        return contrast(*sides, self.benches, self._pairs(claim), level, several)

    def _tested(self, claim: Claim, away: Effect) -> Tests:
        margin = self.study.margin if claim.kind == "higher" else -self.study.margin
        alone = away.p_of(0.0), away.p_of(margin)
        return Tests(*alone, *(self.study.design.adjusted(p, self.look) for p in alone))

    def _about(self, claim: Claim) -> Row:
        study, design = self.study, self.study.design
        tested = claim.kind != "overflow"
        return {
            "claim": claim.claim,
            "kind": claim.kind,
            "better": claim.better,
            "worse": claim.worse,
            "bench": AVERAGE,
            "margin": study.margin,
            "source": claim.source or f"{study.paper}, {study.table}",
            "look": self.look,
            "looks": len(design.sizes),
            "alpha_spent": design.spent[self.look - 1] if tested else None,
            "level": design.levels[self.look - 1] if tested else None,
        }

    def _compared(
        self, claim: Claim, away: Effect | None, zero_adjusted: float, margin_adjusted: float
    ) -> Row:
        papers = [self.found[name].arm.paper for name in (claim.better, claim.worse)]
        theirs = papers[0] - papers[1] if papers[0] is not None and papers[1] is not None else None
        row: Row = {"paper_difference": None if theirs is None else round(theirs, 6), "seeds": 0}
        if away is None:
            return {**row, "verdict": INCONCLUSIVE, "reason": "an arm has no results"}
        rule = judge_higher if claim.kind == "higher" else judge_not_lower
        verdict, why = rule(away, zero_adjusted, margin_adjusted, self.study.margin)
        used, planned = len(self._pairs(claim)), len(self.seeds)
        if used < planned:
            why += f"; only {used} of {planned} seeds have both arms"
            why += "" if self._is_tested(claim) else ", so this look does not test it"
        row |= {"seeds": used, "verdict": verdict, "reason": why}
        row |= {"difference": away.value, "ci_low": away.low, "ci_high": away.high}
        if away.p_value is not None and self._is_tested(claim):
            tests = self._tests[claim]
            row |= {"p_value": tests.zero, "p_adjusted": zero_adjusted}
            row |= {"p_margin": tests.margin, "p_margin_adjusted": margin_adjusted}
        return row

    def _overflowed(self, claim: Claim) -> tuple[Row, bool]:
        """Every run does: open before the last look unless some did and some did not."""
        result, count = self.found[claim.better], len(self.seeds)
        bad = [s for s in self.seeds if result.errors.get(s, "").startswith("overflow")]
        fine = [s for s in self.seeds if s in result.exams]
        verdict = INCONCLUSIVE
        if bad:
            why = f"{len(bad)} of {count} runs overflowed"
            verdict = "reproduced" if self._is_last and len(bad) == count else INCONCLUSIVE
        elif len(fine) < count:
            why = "not all runs are there"
        else:
            why = f"none of {count} runs overflowed"
            verdict = "not reproduced" if self._is_last else INCONCLUSIVE
        row: Row = {"seeds": len(bad) + len(fine), "verdict": verdict, "reason": why}
        return row, verdict != INCONCLUSIVE or bool(bad and fine)


def judge(
    study: Study, found: Mapping[str, Result], benches: Sequence[str], look: int | None = None
) -> Verdicts:
    """The verdicts after this look, from 1; None: after the last."""
    verdicts = Verdicts(study, found, benches)
    for number in range(1, (look or len(study.design.sizes)) + 1):
        verdicts.take(number)
    return verdicts
