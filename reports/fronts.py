"""Who stands on the accuracy-cost front, and how surely: ``fronts.csv``, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pandas as pd

from harness.store import columns
from reports import text
from reports.cell import Series
from reports.csvio import Spec, read_table
from reports.summary import Summary
from reports.tables import Cell, Column, Table, name_cell

AVERAGE = "(average)"
INTRO = (
    "In what share of bootstrap draws no other method is as cheap and better, or as good and "
    "cheaper. Documents (whole images) are drawn jointly for all methods of a bench, and bench by "
    "bench for the average; “on it” marks the front of the sample itself. Blind takes no part."
)
FRONTS = Spec.of(
    columns.FRONTS, "method", "label", "bench", "score", "tflops_prefill", "front_probability"
)


@dataclass(frozen=True)
class Place:
    """One method on one bench, or on the average of all."""

    metric: str
    score: float
    tflops: float
    on_front: bool
    probability: float
    n: float


@dataclass
class Fronts:
    """What is known of every bench; nothing where the file is missing or does not fit."""

    places: dict[tuple[Series, str], Place] = field(default_factory=dict)
    resamples: float = math.nan

    def of(self, bench: str) -> dict[Series, Place]:
        return {series: p for (series, name), p in self.places.items() if name == bench}

    def probability(self, series: Series, bench: str) -> float:
        place = self.places.get((series, bench))
        return place.probability if place else math.nan


def load(summary: Summary) -> Fronts:
    """Read ``fronts.csv``; what cannot be is left out with a notice."""
    notices = summary.run.notices
    frame = read_table(summary.run.path / FRONTS.name, FRONTS, notices)
    wrong = ~frame["front_probability"].between(0, 1) | (frame["tflops_prefill"] < 0)
    wrong |= frame[["score", "tflops_prefill"]].isna().any(axis=1)
    if wrong.any():
        notices.append(f"fronts.csv: {int(wrong.sum())} line(s) that cannot be, left out.")
        frame = frame[~wrong]
    names = {(s.model, s.method, s.label): s for s in summary.series}
    models = {s.model for s in summary.series}
    found = Fronts(resamples=float(frame["resamples"].max()) if len(frame) else math.nan)
    for row in frame.itertuples():
        label = f"{row.label} ({row.model})" if len(models) > 1 else str(row.label)
        series = names.get((str(row.model), str(row.method), label or str(row.method)))
        if series is not None and _still_done(summary, series, row):
            found.places[series, str(row.bench)] = Place(
                str(row.metric), row.score, row.tflops_prefill, row.on_front == 1,
                row.front_probability, row.n,
            )  # fmt: skip
    for bench in summary.benches:
        _leave_out_old(summary, found, bench)
    return found


def _still_done(summary: Summary, series: Series, row: pd.Series) -> bool:
    return str(row.bench) == AVERAGE or summary.cell(series, str(row.bench)).status == "done"


def _leave_out_old(summary: Summary, found: Fronts, bench: str) -> None:
    """A front that was drawn without a method that has since finished is another one."""
    known = found.of(bench)
    new = [
        s.label
        for s in summary.series
        if s not in known
        and not s.is_blind
        and summary.score(s, bench)
        and (cost := summary.prefill(s, bench))
        and not math.isnan(cost.tflops)
    ]
    if known and new:
        summary.run.notices.append(
            f"fronts.csv: does not know {text.listing(new)} on {bench}; its probabilities there "
            "and on the average are left out."
        )
        for name in (bench, AVERAGE):
            for series in found.of(name):
                del found.places[series, name]


def percent(share: float) -> str:
    """A probability as a whole percentage that never claims certainty by rounding."""
    if math.isnan(share):
        return text.GAP
    if 0 < share < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < share < 1 else text.percent(share)


def table(summary: Summary, fronts: Fronts) -> Table | None:
    """Methods by benches: the probability of standing on the front; None without any."""
    benches = [b for b in [*summary.benches, AVERAGE] if fronts.of(b)]
    if not benches:
        return None
    columns = [Column("Method", numeric=False)]
    for bench in benches:
        first = next(iter(fronts.of(bench).values()))
        unit = f"{first.metric.replace('_', ' ')}, n = {text.number(first.n, 0)}"
        columns.append(Column(bench.strip("()"), unit, mini=summary.is_mini_bench(bench)))
    rows = []
    for series in summary.series:
        if not series.is_blind:
            rows.append([name_cell(series)] + [_cell(fronts, series, b) for b in benches])
    return Table("fronts", "Probability of standing on the front", columns, rows)


def _cell(fronts: Fronts, series: Series, bench: str) -> Cell:
    place = fronts.places.get((series, bench))
    if place is None:
        return Cell(text.GAP, tone="gap")
    sub = "on it" if place.on_front else ""
    return Cell(percent(place.probability), sub=sub, sort=place.probability)
