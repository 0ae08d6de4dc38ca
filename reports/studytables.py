"""The tables of a study: claims, arms, what failed, and every training run."""

from __future__ import annotations

import math

from reports import text
from reports.study import Arm, Claim, Line, Study, Training
from reports.studydata import AVERAGE
from reports.tables import Cell, Column, Table

TONES = {"reproduced": "better", "not reproduced": "worse", "inconclusive": "gap"}
SIGNS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?"}
STATES = {"missing": "not run", "done": "no score"}
"""Words for a line without numbers, where its status is not the word."""


def claims(study: Study) -> Table | None:
    """One row a claim, with its verdict as the file has it; None without claims."""
    margins = {c.margin for c in study.claims if not math.isnan(c.margin)}
    margin = f"margin {_points(margins.pop())}" if len(margins) == 1 else ""
    columns = [
        Column("Claim", numeric=False, prose=True),
        Column("Difference", "ours: points, 95 % CI"),
        Column("p", "ours: adjusted (looks, Holm)" if study.looks else "ours: adjusted (Holm)"),
        Column("Seeds", "decided at; α spent of 0.05" if study.looks else ""),
        Column("Paper's difference", "points, its own model and data"),
        Column("Verdict", margin, numeric=False),
        Column("Reason", numeric=False, prose=True),
        Column("Source", numeric=False, prose=True),
    ]
    rows = [_claim(study, claim, not margin) for claim in study.claims]
    if all(math.isnan(c.seeds) for c in study.claims):  # a file of before they were recorded
        columns, rows = columns[:3] + columns[4:], [row[:3] + row[4:] for row in rows]
    if not any(c.source for c in study.claims):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table("claims", "Claims and verdicts", columns, rows) if rows else None


def _claim(study: Study, claim: Claim, own_margin: bool) -> list[Cell]:
    pair = " against ".join(name for name in (claim.better, claim.worse) if name)
    on = "" if claim.bench == AVERAGE else f", on {claim.bench}"
    p = claim.p_adjusted
    margin = "" if math.isnan(claim.margin) or not own_margin else f"margin {_points(claim.margin)}"
    verdict = f"{SIGNS.get(claim.verdict, '')} {claim.verdict}".strip() or text.GAP
    return [
        Cell(claim.claim, sub=pair + on, note=_weak(study, claim), tone="name", sort=claim.claim),
        Cell(
            text.number(claim.difference, signed=True),
            text.interval(claim.low, claim.high, signed=True),
            strong=claim.significant, sort=claim.difference,
        ),
        Cell("< 0.001" if p < 0.001 else text.number(p, 3), sort=p),
        Cell(text.number(claim.seeds, 0), sub=_look(claim), sort=claim.seeds),
        Cell(text.number(claim.paper, signed=True), sort=claim.paper),
        Cell(verdict, note=margin, tone=TONES.get(claim.verdict, ""), sort=claim.verdict),
        Cell(claim.reason or text.GAP),
        Cell(claim.source or text.GAP),
    ]  # fmt: skip


def _look(claim: Claim) -> str:
    """At which of several looks a claim was decided, or was last seen open."""
    if not claim.looks > 1:
        return ""
    spent = "" if math.isnan(claim.spent) else f"; α {text.number(claim.spent, 4)}"
    return f"look {claim.look:.0f} of {claim.looks:.0f}{spent}"


def _points(value: float) -> str:
    return f"{value:g} point{'' if value == 1 else 's'}"


def _weak(study: Study, claim: Claim) -> str:
    """Which side of a claim failed, is missing or has fewer seeds."""
    sides = [a for name in (claim.better, claim.worse) for a in study.arms if a.name == name]
    said = [f"{a.name}: {_state(study, a)}" for a in sides if _state(study, a)]
    return "; ".join(said)


def _state(study: Study, arm: Arm) -> str:
    """What is to be said of an arm that is not complete."""
    status = arm.average.status
    if status == "done":
        return study.short_of(arm)
    return ", ".join(filter(None, (STATES.get(status, status), study.short_of(arm))))


def arms(study: Study) -> Table | None:
    """One row an arm, in the order of the study; the paper's column stands apart from ours."""
    columns = [Column("Arm", numeric=False), Column("Accuracy", "average, %, 95 % CI", mini=True)]
    columns += [Column("Δ to dense", "tuned for as long: points, 95 % CI")]
    for bench in study.benches:
        metric = next((a.line(bench).metric for a in study.arms if a.line(bench).metric), "score")
        shown = metric.partition(",")[0].replace("_", " ")
        columns.append(Column(bench, f"{shown}, %, 95 % CI", mini=True))
    columns += [Column("Seeds", "SD over them, points"), Column("KV cache", "vision tokens kept")]
    columns += [Column("Prefill", "FLOPs of dense"), Column("Training", "s a run, median")]
    scale = study.said("paper_metric")
    columns.append(Column("Paper's value", f"{scale or 'its own metric'}; level not comparable"))
    columns += [Column("Trained as", numeric=False, prose=True)]
    columns += [Column("Remark", numeric=False, prose=True)]
    rows = [_arm(study, arm) for arm in study.arms]
    return Table("arms", "Arms", columns, rows) if rows else None


def _arm(study: Study, arm: Arm) -> list[Cell]:
    line = arm.average
    row = [Cell(arm.name, note="reference" if arm.is_reference else "", tone="name", sort=arm.name)]
    row += [_mean(line), _delta(arm, line)]
    row += [_mean(arm.line(bench)) for bench in study.benches]
    short = study.short_of(arm)
    tone = "failed" if short else ""
    spread = "" if math.isnan(line.seed_std) else f"SD {text.number(line.seed_std)}"
    seeds = short.removesuffix(" seeds") or text.number(line.seeds, 0)
    row.append(Cell(seeds, note=spread, tone=tone, sort=line.seeds))
    row.append(Cell(text.percent(line.kv), sort=line.kv))
    row.append(Cell(text.percent(line.tflops), sort=line.tflops))
    row.append(Cell(text.number(line.seconds, 0), sort=line.seconds))
    row.append(Cell(text.number(line.paper), note=line.paper_note, sort=line.paper))
    tested = f"tested as {arm.test}" if arm.test and arm.test != arm.train else ""
    row.append(Cell(arm.train or text.GAP, sub=tested))
    row.append(Cell(line.notes or text.GAP))
    return row


def _mean(line: Line) -> Cell:
    if not line.known:
        tone = "failed" if line.status == "failed" else "gap"
        return Cell(STATES.get(line.status, line.status), tone=tone)
    note = "partial" if line.status == "partial" else ""
    ci = text.interval(line.low, line.high)
    return Cell(text.number(line.mean), ci, note=note, sort=line.mean)


def _delta(arm: Arm, line: Line) -> Cell:
    if arm.is_reference:
        return Cell("reference")
    if math.isnan(line.delta):
        return Cell(text.GAP)
    tone = ("better" if line.delta > 0 else "worse") if line.significant else ""
    ci = text.interval(line.delta_low, line.delta_high, signed=True)
    shown = text.number(line.delta, signed=True)
    return Cell(shown, ci, strong=line.significant, tone=tone, sort=line.delta)


def failures(study: Study) -> Table | None:
    """Benches and seeds that failed, are missing or incomplete, with the reason."""
    rows = []
    for arm in study.arms:
        short = [(b, arm.line(b)) for b in [*study.benches, AVERAGE]]
        short = [(b, li) for b, li in short if li.status != "done" or not li.known]
        found = {(STATES.get(li.status, li.status), li.error): "" for _, li in short}
        for state, error in found:
            names = [b for b, li in short if (STATES.get(li.status, li.status), li.error) ==
                     (state, error)]  # fmt: skip
            whole = len(names) == len(study.benches) + 1
            unsaid = "no run (yet)" if state == "not run" else "no reason recorded"
            shown = error or study.short_of(arm) or unsaid
            rows.append(_failure(arm, "whole arm" if whole else ", ".join(names), state, shown))
        lost: dict[tuple[str, str], list[str]] = {}
        for run in arm.runs:
            if run.status != "done":
                lost.setdefault((STATES.get(run.status, run.status), run.error), []).append(
                    run.seed
                )
        for (state, error), seeds in lost.items():
            rows.append(_failure(arm, seeds_named(seeds), state, error or "no reason recorded"))
    columns = [Column(t, numeric=False) for t in ("Arm", "What", "State", "Reason")]
    return Table("failures", "Failed, partial and missing", columns, rows) if rows else None


def seeds_named(seeds: list[str]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {text.listing(seeds)}"


def _failure(arm: Arm, what: str, state: str, reason: str) -> list[Cell]:
    name = Cell(arm.name, tone="name", sort=arm.name)
    tone = "failed" if state == "failed" else "gap"
    return [name, Cell(what), Cell(state, tone=tone, sort=state), Cell(reason)]


def runs(study: Study) -> Table | None:
    """One row a training: every seed of every arm."""
    columns = [Column("Arm", numeric=False), Column("Seed"), Column("State", numeric=False)]
    columns += [Column("Steps"), Column("Final loss"), Column("Accuracy", "average, %", mini=True)]
    columns += [Column("Training", "s"), Column("Step", "ms"), Column("n")]
    columns += [Column("Checkpoint", numeric=False), Column("Reason", numeric=False)]
    rows = [_run(arm, run) for arm in study.arms for run in arm.runs]
    return Table("runs", "Every run", columns, rows, searchable=len(rows) > 12) if rows else None


def _run(arm: Arm, run: Training) -> list[Cell]:
    tone = {"failed": "failed", "done": ""}.get(run.status, "gap")
    row = [Cell(arm.name, tone="name", sort=arm.name), Cell(run.seed or text.GAP, sort=run.seed)]
    state = run.status if run.status == "done" else STATES.get(run.status, run.status)
    row.append(Cell(state, tone=tone, sort=run.status))
    for value, places in (
        (run.steps, 0), (run.loss, 3), (run.accuracy, 1), (run.seconds, 0), (run.step_ms, 0),
        (run.n, 0),
    ):  # fmt: skip
        row.append(Cell(text.number(value, places), sort=value))
    return [*row, Cell(run.checkpoint[:12] or text.GAP), Cell(run.error or text.GAP)]
