"""What the report of a study says in words: opening, findings, captions and how to read it."""

from __future__ import annotations

import math

from reports import text
from reports.study import Study
from reports.studydata import AVERAGE

VERDICTS = ("reproduced", "not reproduced", "inconclusive")


def sample_count(study: Study) -> str:
    """``n = 200``, or the range over arms and benches."""
    counts = {
        int(line.n)
        for arm in study.arms
        for bench, line in arm.lines.items()
        if bench != AVERAGE and line.known and not math.isnan(line.n)
    }
    if not counts:
        return "n not recorded"
    low, high = min(counts), max(counts)
    return (f"n = {low}" if low == high else f"n = {low} to {high}") + " documents a bench and seed"


def captioned(study: Study) -> str:
    """The short conditions that stand in every caption."""
    run = study.run
    model = run.get("model_id", "settings.model")
    parts = [str(model) if model else "", "mini data", str(run.get("device_name") or "")]
    least = f"{study.looks[0]} to " if study.looks and is_uneven(study) else ""
    parts += [str(run.get("dtype", "settings.dtype") or "")]
    parts += [least + text.plural(study.seeds, "seed")]
    return ", ".join(p for p in [*parts, sample_count(study)] if p)


def opening(study: Study) -> str:
    """What was trained on what, and how much of it is there."""
    where = ", ".join(w for w in (study.said("paper"), study.said("table")) if w)
    title = study.said("title") or str(study.run.get("settings.study") or "A study")
    first = f"{title.rstrip('.')} ({where})" if where else title.rstrip(".")
    arms = [a for a in study.arms if not a.is_reference]
    against = " and dense tuned for as long" if study.reference else ""
    on = f", tested on {text.listing(study.benches)}" if study.benches else ""
    seeds = f", each trained with up to {text.plural(study.seeds, 'seed')}" if study.seeds else ""
    if study.seeds and not is_uneven(study):
        seeds = f", each trained with {text.plural(study.seeds, 'seed')}"
    done = sum(a.average.status == "done" and a.average.known for a in study.arms)
    state = f"{done} of {text.plural(len(study.arms), 'arm')} complete"
    for status in ("partial", "failed", "missing"):
        count = sum(a.average.status == status for a in study.arms)
        state += f", {count} {status}" if count else ""
    training = study.said("training")
    tail = f" Training: {training.rstrip('.')}." if training else ""
    if study.looks:
        tail += f" Claims are looked at after {text.listing([str(n) for n in study.looks])} seeds."
    return f"{first}: {text.plural(len(arms), 'arm')}{against}{seeds}{on}; {state}.{tail}"


def is_uneven(study: Study) -> bool:
    """Whether some arm has fewer seeds than another."""
    return any(a.average.seeds < study.seeds or not a.average.known for a in study.arms)


def findings(study: Study) -> list[str]:
    """The verdicts as they stand, counted, and the arms that fell short."""
    said = []
    total = text.plural(len(study.claims), "claim")
    for verdict in VERDICTS:
        names = [c.claim.rstrip(".") for c in study.claims if c.verdict == verdict]
        if names:
            said.append(f"{verdict.capitalize()}, {len(names)} of {total}: {_cut(names)}.")
        elif study.claims and verdict == "reproduced":
            said.append("No claim is reproduced.")
    for word in ("failed", "partial", "missing"):
        names = [a.name for a in study.arms if a.average.status == word]
        if names:
            said.append(f"{word.capitalize()} arms: {_cut(names)}.")
    return said


def _cut(names: list[str]) -> str:
    more = f"; and {len(names) - 6} more" if len(names) > 6 else ""
    return "; ".join(names[:6]) + more


MINI = (
    "Every number of ours comes from mini data and a model small enough to be trained many times. "
    "It compares arms with each other under one set of conditions; it says nothing about the "
    "published benchmarks of the same name, and its level is not comparable with the paper's."
)


def reading(study: Study) -> tuple[tuple[str, str], ...]:
    """How to read the page; with several looks, what these cost."""
    return (*READING[:2], LOOKS, *READING[2:]) if study.looks else READING


LOOKS = (
    "Looks",
    "were declared before the study began. A claim that is decided at one keeps its verdict and "
    "its numbers, and arms that no open claim needs are trained no further. The 5 % are spent over "
    "the looks (Lan and DeMets, O'Brien-Fleming type; levels for t statistics); α is what was "
    "spent up to that look. Intervals are repeated confidence intervals: those of all looks "
    "together hold the truth with 95 %, so stopping does not spoil them. p is adjusted for the "
    "looks first, then for the claims.",
)
READING = (
    (
        "A claim",
        "compares two arms, the first minus the second. Its verdict is as recorded in "
        "study_claims.csv: reproduced, not reproduced, or inconclusive, which says neither.",
    ),
    (
        "Intervals",
        "are 95 %, over both seeds and documents (t intervals), each by itself. p, of no "
        "difference, is adjusted over the study's claims (Holm), and so is the test against the "
        "margin: the same pair of arms may be judged otherwise in another study.",
    ),
    (
        "Δ to dense",
        "compares an arm with the dense model that was tuned for the same steps, in points.",
    ),
    (
        "Bold",
        "means a significant difference, never the highest number: for a claim the interval "
        "leaves out zero and the adjusted p is below 0.05; for Δ to dense the interval leaves "
        "out zero, without a correction for the number of arms.",
    ),
    (
        "The paper's columns",
        "hold its own numbers on its own model and data. Compare the order and the sign of "
        "differences, never the levels.",
    ),
    (
        "Partial",
        "means fewer seeds or benches than planned; a failed or missing arm has no numbers and "
        "nothing stands in for them. A dash means not measured, never zero.",
    ),
)
