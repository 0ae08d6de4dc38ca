"""The rows of a run best first: average, difference to the reference, cost, and what is settled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from harness.common.nearest import unknown
from harness.statistics.budgets import BUDGET_POINTS
from harness.statistics.stats import Interval, holm, verdict
from harness.store import columns
from methods import REFERENCE
from reports import pairs as paired
from reports.cell import NAN, Series
from reports.controls import RANDOM, Rivals
from reports.csvio import Spec, read_table
from reports.errors import ReportError
from reports.pairs import Pair, Pairs
from reports.summary import Summary

FILE = Spec.of(columns.AVERAGES, "model", "method", "label", "average", "ci_low", "ci_high")
NEAR = BUDGET_POINTS / 100
"""How far mean shares of the image's KV cache may lie apart to count as one budget."""


@dataclass(frozen=True)
class Ranked:
    """One row of the first table; shares from 0 to 1, NaN where nothing is known."""

    series: Series
    average: float = NAN
    low: float = NAN
    high: float = NAN
    of_dense: float = NAN
    of_dense_low: float = NAN
    of_dense_high: float = NAN
    benches: float = NAN
    n: float = NAN
    kv: float = NAN
    prefill_of_dense: float = NAN
    reference: Series | None = None
    """The row that the difference is to; None for that row itself, and where none is at its KV."""
    is_compared_with: bool = False
    """Whether it is one of the rows that differences are to."""
    delta: float = NAN
    delta_low: float = NAN
    delta_high: float = NAN
    p_adjusted: float = NAN
    verdict: str = ""
    rank_low: int = 0
    """The best place that is not excluded: settled pairs against it, plus one. 0: no rank."""
    rank_high: int = 0
    above: int = 0
    """On how many benches it beats the random row at its budget, of `held`."""
    held: int = 0

    @property
    def tied(self) -> bool:
        return self.rank_low != self.rank_high

    @property
    def above_random(self) -> bool | None:
        """On every bench; None where no random row has the budget."""
        return self.above == self.held if self.held else None

    @property
    def complete(self) -> bool:
        """Whether it has an average at all."""
        return not math.isnan(self.average)


@dataclass(frozen=True)
class Ranking:
    """All rows, best first, those without an average last."""

    rows: list[Ranked]
    pairs: Pairs
    against: tuple[str, ...] = ()
    metric: str = ""
    benches: int = 0
    """How many are in the average."""
    left_out: list[str] = field(default_factory=list)

    def of(self, series: Series) -> Ranked | None:
        return next((row for row in self.rows if row.series == series), None)


def load(summary: Summary, against: Sequence[str] = (), rivals: Rivals | None = None) -> Ranking:
    """The ranking of a run. Raises ReportError for a reference that is no row of it."""
    names = tuple(against) or tuple(summary.run.get("against") or ()) or (REFERENCE,)
    found = paired.load(summary)
    known = _averages(summary)
    references = _references(summary, names)
    rows = []
    for series in summary.series:
        row = known.get(series) or _from_cells(summary, series)
        row = replace(row, is_compared_with=series in references)
        rows.append(_compared(row, _reference(row, references, known), found))
    rows = _placed(_adjusted(rows, found), found)
    if rivals is not None:
        rows = [_chance(row, summary, rivals) for row in rows]
    order = sorted(
        range(len(rows)), key=lambda i: (not rows[i].complete, -_number(rows[i].average), i)
    )
    metric = next((m for m in _metrics(summary) if m), "")
    counted = max((int(r.benches) for r in rows if not math.isnan(r.benches)), default=0)
    return Ranking([rows[i] for i in order], found, names, metric, counted)


def _number(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _metrics(summary: Summary) -> list[str]:
    frame = read_table(summary.run.path / FILE.name, FILE, [])
    return [str(m) for m in frame["metric"]]


def _averages(summary: Summary) -> dict[Series, Ranked]:
    run = summary.run
    frame = read_table(run.path / FILE.name, FILE, run.notices)
    wrong = (frame["average"] < frame["ci_low"] - 1e-9) | (
        frame["average"] > frame["ci_high"] + 1e-9
    )
    if wrong.any():
        run.notices.append(f"{FILE.name}: {int(wrong.sum())} line(s) that cannot be, left out.")
        frame = frame[~wrong]
    names = {(s.model, s.method, s.label): s for s in summary.series}
    models = {s.model for s in summary.series}
    found = {}
    for row in frame.itertuples():
        label = f"{row.label} ({row.model})" if len(models) > 1 else str(row.label)
        series = names.get((str(row.model), str(row.method), label or str(row.method)))
        if series is None or not _whole(summary, series):
            continue
        found[series] = Ranked(
            series, row.average, row.ci_low, row.ci_high, row.of_dense, row.of_dense_low,
            row.of_dense_high, row.benches, row.n, row.kv, row.prefill_of_dense,
        )  # fmt: skip
    return found


def _from_cells(summary: Summary, series: Series) -> Ranked:
    """A row of a run without averages.csv: means of what its cells have, without intervals."""
    scores = [summary.score(series, bench) for bench in summary.benches]
    values = [s.value for s in scores if s is not None]
    whole = len(values) == len(summary.answered) > 0 and max(values) <= 1
    kv = [summary.ratio(series, bench, "kv_vision") for bench in summary.benches]
    shares = []
    for bench in summary.benches:
        ours = summary.prefill(series, bench)
        for other in summary.series:
            dense = summary.prefill(other, bench)
            if other.is_reference and other.model == series.model and ours and dense:
                shares.append(ours.tflops / dense.tflops if dense.tflops else NAN)
    return Ranked(
        series,
        average=_mean(values) if whole else NAN,
        benches=len(values),
        n=sum(s.n for s in scores if s is not None),
        kv=_mean([v for v in kv if not math.isnan(v)]),
        prefill_of_dense=_mean([v for v in shares if not math.isnan(v)]),
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else NAN


def _whole(summary: Summary, series: Series) -> bool:
    """Whether no cell of a row has failed or gone since the averages were taken."""
    return all(summary.cell(series, b).status == "done" for b in summary.answered)


def _references(summary: Summary, names: Sequence[str]) -> list[Series]:
    """The rows that the names mean: methods, labels or specs. Raises ReportError."""
    found: list[Series] = []
    for name in names:
        said = name.replace(":", " ")
        rows = [s for s in summary.series if said in (s.label, s.label.split(" (")[0])]
        rows = rows or [s for s in summary.series if s.method == name]
        if not rows and name != REFERENCE:
            labels = dict.fromkeys([s.label for s in summary.series])
            raise ReportError(f"--against: {unknown('row', name, [*labels])}")
        found += [row for row in rows if row not in found]
    return found


def _reference(
    row: Ranked, references: Sequence[Series], known: dict[Series, Ranked]
) -> Series | None:
    """The row to compare with: the only one of its model, else the one at the same budget."""
    if row.series in references:
        others = [s for s in references if s.is_reference and s != row.series]
        return others[0] if others and not row.series.is_reference else None
    here = [s for s in references if s.model == row.series.model]
    if len(here) > 1:
        near = [s for s in here if s in known and abs(known[s].kv - row.kv) <= NEAR + 1e-9]
        return near[0] if near else None
    return here[0] if here else None


def _compared(row: Ranked, reference: Series | None, found: Pairs) -> Ranked:
    pair = found.get(row.series, reference) if reference is not None else None
    if pair is None:
        return replace(row, reference=reference)
    return replace(
        row, reference=reference, delta=pair.delta, delta_low=pair.low, delta_high=pair.high
    )


def _adjusted(rows: list[Ranked], found: Pairs) -> list[Ranked]:
    """Holm over the differences to the reference that the table shows: one family."""
    pairs = [_pair(row, found) for row in rows]
    tested = [i for i, p in enumerate(pairs) if p is not None and not math.isnan(p.p_value)]
    p_values = holm([pairs[i].p_value for i in tested])  # type: ignore[union-attr]
    out = list(rows)
    for i, p_value in zip(tested, p_values, strict=True):
        pair = pairs[i]
        assert pair is not None
        known = not (math.isnan(pair.low) or math.isnan(pair.high))
        interval = Interval(pair.delta, pair.low if known else None, pair.high if known else None)
        out[i] = replace(
            rows[i], p_adjusted=p_value, verdict=verdict(interval, p_value, pair.margin)
        )
    return out


def _pair(row: Ranked, found: Pairs) -> Pair | None:
    return None if row.reference is None else found.get(row.series, row.reference)


def _placed(rows: list[Ranked], found: Pairs) -> list[Ranked]:
    """Places from the settled pairs alone: a row stands below only those that beat it.

    Rows at other budgets are no rivals: a place is one among the rows of a budget. Dense and blind
    have none.
    """
    out = []
    for row in rows:
        mine = [
            pair
            for other in rows
            if other.series != row.series and other.complete
            and (pair := found.get(row.series, other.series)) is not None and pair.comparable
        ]  # fmt: skip
        if not row.complete or not mine or row.series.is_reference or row.series.is_blind:
            out.append(row)
            continue
        told = np.array([p.told for p in mine])
        low = 1 + int((told == "worse").sum())
        high = 1 + len(mine) - int((told == "better").sum())
        out.append(replace(row, rank_low=low, rank_high=high))
    return out


def _chance(row: Ranked, summary: Summary, rivals: Rivals) -> Ranked:
    """With the number of benches on which it is shown to beat chance at its budget."""
    told = [
        rival.verdict
        for bench in summary.benches
        if (rival := rivals.of(row.series, bench, RANDOM)) is not None and rival.verdict
    ]
    return replace(row, above=told.count("above"), held=len(told))
