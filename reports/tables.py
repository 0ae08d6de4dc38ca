"""The tables of the report, once as data; HTML and Markdown only render them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from methods import BLIND, REFERENCE
from reports import text
from reports.cell import UNSCORED, Score, Series
from reports.cell import Cell as RunCell
from reports.summary import Summary


@dataclass(frozen=True)
class Cell:
    """One table cell: a main line with its interval, and a second line below."""

    main: str
    ci: str = ""
    sub: str = ""
    sub_ci: str = ""
    note: str = ""
    strong: bool = False
    """Bold the second line, or the main line where there is none: significant, nothing else."""
    tone: str = ""
    """``better``, ``worse``, ``failed``, ``gap`` or ``name``."""
    sort: float | str | None = None
    mark: str = ""
    """Stands beside the main line; the table's ``note`` explains it."""


@dataclass(frozen=True)
class Column:
    title: str
    unit: str = ""
    numeric: bool = True
    mini: bool = False
    prose: bool = False
    """Whether its cells hold sentences, which may run over several lines."""
    fold: bool = False
    """Whether the page shows it only on demand."""


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    columns: list[Column]
    rows: list[list[Cell]]
    note: str = ""
    searchable: bool = False


UNCOUNTED = (
    "how many tokens it keeps depends on its weights and the picture, which costs alone do not load"
)

Beside = Sequence[tuple[Column, Sequence[Cell]]]
"""Further columns, each with a cell for every series."""


@dataclass(frozen=True)
class Marks:
    """What stands beside the accuracy of a method on a bench, and the note that explains it."""

    on: Mapping[tuple[Series, str], str] = field(default_factory=dict)
    note: str = ""

    def put(self, cell: Cell, series: Series, bench: str) -> Cell:
        return replace(cell, mark=self.on.get((series, bench), ""))


NO_MARKS = Marks()


def overview(summary: Summary, beside: Beside = (), marks: Marks = NO_MARKS) -> Table:
    """Methods by benches: accuracy and the difference to dense, then mean costs, then times."""
    columns = [Column("Method", numeric=False)]
    for bench in summary.benches:
        unit = f"{text.metric_name(summary, bench)}, {text.sample_count(summary, bench)}"
        columns.append(Column(bench or text.GAP, unit, mini=summary.is_mini_bench(bench)))
    scale, unit = text.flops_scale(summary)
    columns += [
        Column("Prefill", f"{unit} a sample, of dense"),
        Column("KV cache", "vision tokens kept"),
        Column("Skipped", "MoD layers / all layers"),
        *(column for column, _ in beside),
    ]
    rows = []
    for number, series in enumerate(summary.series):
        scores = [marks.put(score_cell(summary, series, b), series, b) for b in summary.benches]
        row = [name_cell(series), *scores]
        row += _mean_costs(summary, series, scale)
        rows.append(row + [found[number] for _, found in beside])
    return Table("overview", "Overview", columns, rows, text.verdict_note(summary, marks.note))


def cells(summary: Summary, marks: Marks = NO_MARKS) -> Table:
    """One row a cell with everything that was measured."""
    scale, unit = text.flops_scale(summary)
    columns = [
        Column("Method", numeric=False),
        Column("Bench", numeric=False),
        Column("n"),
        Column("Accuracy", "95 % CI"),
        Column("Δ to dense", "95 % CI, points"),
        Column("p", "adjusted"),
        Column("Detectable", "80 % power, points"),
        Column("Verdict", numeric=False),
        Column("Prefill", f"{unit}, 95 % CI"),
        Column("KV kept", "vision"),
        Column("KV kept", "all tokens"),
        Column("Skipped", "MoD layers"),
        Column("Skipped", "all layers"),
    ]
    rows = []
    for series in summary.series:
        for bench in summary.benches:
            row = _cell_row(summary, series, bench, scale)
            row[3] = marks.put(row[3], series, bench)
            rows.append(row)
    note = text.verdict_note(summary, marks.note)
    return Table("cells", "Every cell", columns, rows, note, searchable=len(rows) > 12)


def _cell_row(summary: Summary, series: Series, bench: str, scale: float) -> list[Cell]:
    cell = summary.cell(series, bench)
    score = summary.score(series, bench)
    unit = text.factor(summary, bench)
    mini = "mini" if summary.is_mini_bench(bench) else ""
    row = [name_cell(series), Cell(bench or text.GAP, note=mini, tone="name", sort=bench)]
    count = "" if math.isnan(cell.n) else str(int(cell.n))
    row.append(Cell(count or text.GAP, sort=cell.n))
    if score is None:
        row += [_gap(cell)] + [Cell(text.GAP)] * 4
    else:
        row.append(_value(score, unit))
        row.append(_delta(score, unit, series))
        p = score.p_adjusted
        row.append(Cell("< 0.001" if p < 0.001 else text.number(p, 3), sort=p))
        row.append(Cell(text.number(score.detectable * unit), sort=score.detectable))
        words = "reference" if series.is_reference else text.verdict(score) or text.GAP
        row.append(Cell(words, tone=_tone(score), strong=score.significant, sort=words))
    cost = summary.prefill(series, bench)
    if cost:
        low, high = cost.low * scale, cost.high * scale
        places = digits(cost.tflops * scale)
        ci = text.interval(low, high, places) if high > low else ""
        row.append(Cell(text.number(cost.tflops * scale, places), ci, sort=cost.tflops))
    else:
        row.append(Cell(text.GAP))
    for name in ("kv_vision", "kv_all", "skip_mod", "skip_all"):
        ratio = summary.ratio(series, bench, name)
        row.append(Cell(text.percent(ratio), sort=ratio))
    return row


def normalised(summary: Summary) -> Table | None:
    """(method - blind) / (dense - blind) per bench; None without a blind row."""
    if not any(s.is_blind for s in summary.series):
        return None
    columns = [Column("Method", numeric=False)]
    columns += [Column(b, mini=summary.is_mini_bench(b)) for b in summary.benches]
    rows = []
    for series in summary.series:
        if not series.is_blind:
            rows.append([name_cell(series)] + [_skill(summary, series, b) for b in summary.benches])
    return Table("normalised", "Accuracy above blind", columns, rows)


def _skill(summary: Summary, series: Series, bench: str) -> Cell:
    score = summary.score(series, bench)
    dense, blind = (summary.reference(series, bench, name) for name in (REFERENCE, BLIND))
    if score is None or dense is None or blind is None:
        return Cell(text.GAP, tone="gap")
    if dense.value <= blind.value:
        return Cell("undefined", tone="gap", note="dense is not above blind")
    skill = (score.value - blind.value) / (dense.value - blind.value)
    # The interval belongs to the documents that all three answered: not to another point value.
    ci = "" if not abs(skill - score.skill) < 5e-3 else _shares(score.skill_low, score.skill_high)
    return Cell(text.percent(skill), "" if series.is_reference else ci, sort=skill)


def _shares(low: float, high: float) -> str:
    return text.interval(100 * low, 100 * high, 0)


def failures(summary: Summary) -> Table | None:
    """Failed and missing cells with the reason; None when there are none."""
    rows = []
    for series in summary.series:
        for bench in summary.benches:
            cell = summary.cell(series, bench)
            if cell.status in ("done", "costs"):
                continue
            reason = cell.error or ("no reason recorded" if cell.status == "failed" else "")
            word = "failed" if cell.status == "failed" else "not run"
            word = "not counted" if summary.run.is_ledger and word == "not run" else word
            tone = "failed" if cell.status == "failed" else "gap"
            counted = bool(summary.count("costs")) and summary.run.is_ledger
            shown = reason or (UNCOUNTED if counted else "no row in cells.csv (yet)")
            name = Cell(bench or text.GAP, tone="name", sort=bench)
            rows.append([name_cell(series), name, Cell(word, tone=tone, sort=word), Cell(shown)])
    titles = ("Method", "Bench", "State", "Reason")
    columns = [Column(t, numeric=False) for t in titles]
    return Table("failures", "Failed and missing cells", columns, rows) if rows else None


def other_metrics(summary: Summary) -> Table | None:
    """Metrics that are not a bench's main one; None when every bench has one metric."""
    titles = ("Method", "Bench", "Task", "Metric")
    columns = [Column(t, numeric=False) for t in titles]
    columns += [Column("n"), Column("Value", "95 % CI"), Column("Δ to dense", "95 % CI")]
    rows = []
    for series in summary.series:
        for bench in summary.benches:
            unit = text.factor(summary, bench)
            for score in summary.cell(series, bench).scores:
                if (score.task, score.metric) != summary.metric[bench]:
                    words = (bench, score.task, score.metric.partition(",")[0])
                    mini = "mini" if summary.is_mini_bench(bench) else ""
                    row = [name_cell(series)] + [Cell(w, tone="name", sort=w) for w in words]
                    row[1] = Cell(bench, note=mini, tone="name", sort=bench)
                    row.append(Cell(text.number(score.n, 0), sort=score.n))
                    rows.append(row + [_value(score, unit), _delta(score, unit, series)])
    return Table("metrics", "Further metrics", columns, rows) if rows else None


def name_cell(series: Series) -> Cell:
    note = "control" if series.is_control else ""
    return Cell(series.label, note=note, tone="name", sort=series.label)


def _value(score: Score, unit: float) -> Cell:
    ci = text.interval(score.low * unit, score.high * unit)
    return Cell(text.number(score.value * unit), ci, sort=score.value)


def _delta(score: Score, unit: float, series: Series) -> Cell:
    if series.is_reference or math.isnan(score.delta):
        return Cell(text.GAP)
    ci = text.interval(score.delta_low * unit, score.delta_high * unit, signed=True)
    shown = text.number(score.delta * unit, signed=True)
    return Cell(shown, ci, strong=score.significant, tone=_tone(score), sort=score.delta)


def _tone(score: Score) -> str:
    return score.verdict if score.significant else ""


def _gap(cell: RunCell) -> Cell:
    words = {"failed": "failed", "missing": "not run", "costs": "costs only"}
    tone = "failed" if cell.status == "failed" else "gap"
    if cell.waits:
        return Cell(UNSCORED, note=cell.waits, tone=tone)
    return Cell(words.get(cell.status, "no score"), tone=tone)


def score_cell(summary: Summary, series: Series, bench: str) -> Cell:
    score = summary.score(series, bench)
    if score is None:
        return _gap(summary.cell(series, bench))
    unit = text.factor(summary, bench)
    value, delta = _value(score, unit), _delta(score, unit, series)
    if series.is_reference:
        return Cell(value.main, value.ci, sub="reference", sort=score.value)
    sub = delta.main if delta.main != text.GAP else ""
    return Cell(
        value.main, value.ci, sub, delta.ci, text.verdict(score), delta.strong, delta.tone,
        score.value,
    )  # fmt: skip


def _mean_costs(summary: Summary, series: Series, scale: float) -> list[Cell]:
    """Means over the benches that have them; each bench's own numbers stand in the cell table."""
    shown, shares = [], []
    for bench in summary.benches:
        cost = summary.prefill(series, bench)
        if cost is None or math.isnan(cost.tflops):
            continue
        shown.append(cost.tflops * scale)
        for other in summary.series:
            dense = summary.prefill(other, bench)
            if other.is_reference and other.model == series.model and dense:
                shares.append(cost.tflops / dense.tflops if dense.tflops else math.nan)
    flops = _mean(shown)
    share = "" if series.is_reference else text.percent(_mean(shares))
    counted = sum(any(summary.prefill(s, b) for s in summary.series) for b in summary.benches)
    note = f"{len(shown)} of {counted} benches" if 0 < len(shown) < counted else ""
    sub = "" if share == text.GAP else share
    cells = [Cell(text.number(flops, digits(flops)), sub=sub, note=note, sort=flops)]
    kv, mod, every = (
        _mean([summary.ratio(series, b, name) for b in summary.benches])
        for name in ("kv_vision", "skip_mod", "skip_all")
    )
    cells.append(Cell(text.percent(kv), sort=kv))
    skips = f"{text.percent(mod)} / {text.percent(every)}"
    return [*cells, Cell(text.GAP if math.isnan(every) and math.isnan(mod) else skips, sort=every)]


def _mean(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def digits(value: float) -> int:
    """Three figures that matter, for numbers of any size."""
    return 2 if math.isnan(value) or value < 10 else 1 if value < 100 else 0
