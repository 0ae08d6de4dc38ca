"""The tables of measured times: speed-ups of the whole call first, then phase by phase."""

from __future__ import annotations

import math
from statistics import geometric_mean

from reports import text
from reports.cell import Series
from reports.ranktable import name_cell
from reports.summary import Summary
from reports.tables import Cell, Column, Table
from reports.timing import PHASES, TITLES, Board, Phase, Timed, conditions

MAIN = ("Method", "End to end", "Prefill", "Decode", "Of FLOPs", "KV cache")
"""Columns of the first screen of a single workload."""
TONES = {"faster": "better", "slower": "worse"}


def ranked(summary: Summary, board: Board) -> Table | None:
    """Rows best first, one column a workload; of a single workload its main phases.

    Of many workloads the page shows the telling ones and the mean, the others on demand.
    """
    if not board.works:
        return None
    if len(board.works) == 1:
        return _single(summary, board, board.works[0])
    columns = [Column("Method", numeric=False)]
    many = len(board.works) > len(board.telling)
    if many:
        columns.append(Column("Mean", f"geometric, of {len(board.works)} workloads"))
    for work in (works := _ordered(board)):
        title, _, sizes = board.names[work].partition(", ")
        columns.append(Column(title, sizes, fold=work not in board.telling))
    rows = []
    for row in board.rows:
        mean = [_mean(board, row)] if many else []
        cells = [_whole(summary, board, row, work) for work in works]
        rows.append([name_cell(row), *mean, *cells])
    order = "Rows by the geometric mean over the workloads; between two methods nothing is tested."
    note = f"{conditions(list(board.at.values()))}. {order} {NOTE}"
    return Table("speed", "Speed-up over dense, end to end", columns, rows, note)


def _ordered(board: Board) -> list[str]:
    """The telling workloads first, where they are not all."""
    return [*board.telling, *(work for work in board.works if work not in board.telling)]


def _mean(board: Board, series: Series) -> Cell:
    """Over the workloads that have a time, with their number where one has none."""
    gains = [e.speedup for work in board.works if (e := board.get(series, work))]
    gains = [gain for gain in gains if gain > 0]
    if not gains:
        return Cell(text.GAP, tone="gap")
    if series.is_reference and set(gains) == {1.0}:
        return Cell("1×", sort=1.0)
    mean = geometric_mean(gains)
    spread = f"{text.number(min(gains), 2)} to {text.number(max(gains), 2)}"
    of = "" if len(gains) == len(board.works) else f"{len(gains)} of {len(board.works)}"
    return Cell(f"{text.number(mean, 2)}×", sub=spread, note=of, sort=mean)


def _single(summary: Summary, board: Board, work: str) -> Table:
    """What the whole call gains, and by which phase."""
    whole = by_phase(summary, board, work)
    titles = [column.title for column in whole.columns]
    kept = [titles.index(title) for title in MAIN if title in titles]
    columns = [whole.columns[i] for i in kept]
    rows = [[row[i] for i in kept] for row in whole.rows]
    return Table("speed", f"Speed-up over dense, {board.names[work]}", columns, rows, whole.note)


def by_phase(summary: Summary, board: Board, work: str) -> Table:
    """One workload: rows fastest first, phases as columns; columns without a number are absent."""
    timed = board.of(work)
    others = [r for r in board.rows if board.get(r, work) is None]
    columns = [Column("Method", numeric=False)]
    columns += [Column(TITLES[phase], "speed-up, 95 % CI") for phase in PHASES]
    columns += [
        Column("Of FLOPs", "prefill, realised"),
        Column("Selection", "ms"),
        Column("Rate", "samples/s"),
        Column("KV cache", "MiB, whole batch"),
        Column("Peak", "MiB allocated"),
        Column("Energy", "J a sample above idle"),
        Column("Same answers", "as alone"),
        Column("n", "rounds"),
    ]
    rows = [_row(entry) for entry in timed]
    used = [i for i in range(len(columns)) if i == 0 or any(r[i].main != text.GAP for r in rows)]
    rows += [
        [name_cell(r), _missing(summary, r, work), *[Cell(text.GAP)] * (len(columns) - 2)]
        for r in others
    ]
    kept = [[row[i] for i in used] for row in rows]
    number = board.works.index(work) + 1
    note = f"{conditions(timed)}. {NOTE}"
    name = f"times-{number}"
    return Table(name, board.names[work], [columns[i] for i in used], kept, note)


def _whole(summary: Summary, board: Board, series: Series, work: str) -> Cell:
    entry = board.get(series, work)
    if entry is None or entry.whole is None:
        return _missing(summary, series, work)
    return _gain(entry, "end_to_end")


def _missing(summary: Summary, series: Series, work: str) -> Cell:
    """Why there is no time: it failed, or was not reached."""
    status = summary.cell(series, work).status
    return Cell("failed", tone="failed") if status == "failed" else Cell("not timed", tone="gap")


def _row(entry: Timed) -> list[Cell]:
    whole = entry.phases.get("end_to_end")
    chosen = entry.phases.get("selection")
    row = [name_cell(entry.series), *(_gain(entry, phase) for phase in PHASES)]
    row.append(_realised(entry.phases.get("prefill")))
    for value, places in (
        (chosen.median if chosen else math.nan, 2),
        (entry.samples_per_s, 2),
        (whole.kv_mib if whole else math.nan, 1),
        (whole.peak_mib if whole else math.nan, 0),
        (entry.joules, 1),
    ):
        row.append(Cell(text.number(value, places), sort=value))
    row.append(Cell(text.percent(entry.agreement), sort=entry.agreement))
    row.append(Cell(text.number(entry.rounds, 0), sort=entry.rounds))
    return row


def _gain(entry: Timed, phase: str) -> Cell:
    """Speed-up with its interval, milliseconds below; dense, which is 1, has milliseconds alone."""
    found = entry.phases.get(phase)
    if found is None or math.isnan(found.median):
        return Cell(text.GAP)
    ms = f"{text.number(found.median, 0 if found.median >= 1000 else 1)} ms"
    if math.isnan(found.speedup):
        return Cell("1×" if entry.series.is_reference else text.GAP, sub=ms, sort=1.0)
    ci = text.interval(found.speedup_low, found.speedup_high, 2)
    tone = TONES.get(found.verdict, "")
    return Cell(f"{text.number(found.speedup, 2)}×", ci, sub=ms, tone=tone, sort=found.speedup)


def _realised(phase: Phase | None) -> Cell:
    if phase is None or math.isnan(phase.realisation):
        return Cell(text.GAP)
    ci = text.interval(phase.realisation_low, phase.realisation_high, 2)
    of = f"of {text.number(phase.flops_ratio, 2)}×"
    return Cell(text.number(phase.realisation, 2), ci, sub=of, sort=phase.realisation)


NOTE = (
    "Speed-up: dense's median over the method's, 95 % interval over whole rounds, run in turn in "
    "one process. In colour where the interval leaves out 1; row by row, not corrected for their "
    "number."
)
