"""The first table of the report: rows best first, what they score, cost, and are shown to be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports import numbering, text
from reports.cell import Series
from reports.controls import RANDOM
from reports.ranking import Ranked, Ranking
from reports.summary import Summary
from reports.tables import NO_MARKS, Cell, Column, Marks, Table, score_cell
from reports.timing import Timed, names

MOST_WORKLOADS = 2
WORDS = {
    "better": "better",
    "worse": "worse",
    "non-inferior": "not worse",
    "inconclusive": "open",
}
"""A verdict as the first screen says it."""


def table(
    summary: Summary,
    ranking: Ranking,
    entries: Sequence[Timed] = (),
    marks: Marks = NO_MARKS,
) -> Table:
    """Rows of the run best first; the benches' own columns start folded where there are several."""
    benches = summary.benches
    made = [
        (Column("Method", numeric=False), [name_cell(row.series) for row in ranking.rows]),
    ]
    if len(benches) > 1:
        unit = f"{_metric(ranking)}, 95 % CI"
        made.append((Column("Average", unit, mini=_mini(summary)), _averages(ranking)))
    made += [
        (Column(f"Δ to {_names(ranking)}", "points, 95 % CI"), _differences(summary, ranking)),
        (Column("Place", "at its KV"), [_place(row) for row in ranking.rows]),
        (Column("Of dense"), [_share(row.of_dense) for row in ranking.rows]),
        (Column("Prefill", "of dense"), [_share(row.prefill_of_dense) for row in ranking.rows]),
        (Column("KV", "image, kept"), [_share(row.kv) for row in ranking.rows]),
    ]
    made += _speeds(ranking, entries)
    made.append((Column(RANDOM.capitalize(), "same budget"), [_random(r) for r in ranking.rows]))
    if numbering.differ(summary):
        column = Column(numbering.TITLE, numeric=False)
        made.append((column, [numbering.cell(summary.positions(r.series)) for r in ranking.rows]))
    made = [(c, cells) for c, cells in made if any(cell.main != text.GAP for cell in cells)]
    for bench in benches:
        unit = f"{text.metric_name(summary, bench)}, {text.sample_count(summary, bench)}"
        mini = summary.is_mini_bench(bench)
        column = Column(bench or text.GAP, unit, mini=mini, fold=len(benches) > 1)
        cells = [
            marks.put(score_cell(summary, row.series, bench), row.series, bench)
            for row in ranking.rows
        ]
        if len(benches) > 1:
            made.append((column, cells))
        else:
            made.insert(1, (column, [_plain(cell) for cell in cells]))
    rows = [list(row) for row in zip(*(cells for _, cells in made), strict=True)]
    below = marks.note if len(benches) > 1 else ""
    note = " ".join(filter(None, (_note(ranking), below)))
    return Table("overview", "Methods, best first", [c for c, _ in made], rows, note)


def short(series: Series) -> tuple[str, str]:
    """Name and parameters of a row: ``("fastv", "k=3 r=0.75")``."""
    rest = series.label.removeprefix(series.method).strip()
    return series.method, rest


def name_cell(series: Series) -> Cell:
    """The method, its parameters below in small print."""
    name, rest = short(series)
    note = "control" if series.is_control else ""
    return Cell(name, sub=rest, note=note, tone="name", sort=series.label)


def difference(row: Ranked, unit: float = 100.0) -> Cell:
    """The difference to the reference with its interval, and in a word what the test says."""
    if row.reference is None or math.isnan(row.delta):
        return Cell("reference" if row.is_compared_with else text.GAP, tone="gap")
    ci = text.interval(row.delta_low * unit, row.delta_high * unit, signed=True)
    strong = row.verdict in ("better", "worse")
    shown = text.number(row.delta * unit, signed=True)
    tone = row.verdict if strong else ""
    return Cell(shown, ci, "", "", WORDS.get(row.verdict, ""), strong, tone, row.delta)


def _place(row: Ranked) -> Cell:
    if not row.rank_low:
        return Cell(text.GAP, tone="gap")
    shown = str(row.rank_low) if not row.tied else f"{row.rank_low}–{row.rank_high}"
    return Cell(shown, sort=row.rank_low)


def _averages(ranking: Ranking) -> list[Cell]:
    return [_average(row, ranking) for row in ranking.rows]


def _average(row: Ranked, ranking: Ranking) -> Cell:
    if not row.complete:
        missing = ranking.benches - (0 if math.isnan(row.benches) else int(row.benches))
        said = text.plural(missing, "bench", "benches") + " missing" if missing else text.GAP
        return Cell(said, tone="gap")
    ci = text.interval(100 * row.low, 100 * row.high)
    return Cell(text.number(100 * row.average), ci, sort=row.average)


def _differences(summary: Summary, ranking: Ranking) -> list[Cell]:
    only = summary.benches[0] if len(summary.benches) == 1 else ""
    unit = text.factor(summary, only) if only else 100.0
    return [difference(row, unit) for row in ranking.rows]


def _share(value: float) -> Cell:
    return Cell(text.percent(value), sort=value)


def _random(row: Ranked) -> Cell:
    if not row.held:
        return Cell(text.GAP, tone="gap")
    word = "above" if row.above_random else "not above"
    note = f"{row.above} of {row.held}" if 0 < row.above < row.held else ""
    tone = "" if row.above_random else "worse"
    return Cell(word if not note else "above on", note=note, tone="" if note else tone,
                sort=row.above / row.held)  # fmt: skip


def _speeds(ranking: Ranking, entries: Sequence[Timed]) -> list[tuple[Column, list[Cell]]]:
    """A column a workload: the speed-up of the whole call."""
    found = []
    for work, words in list(names(list(entries)).items())[:MOST_WORKLOADS]:
        known = {entry.series: entry for entry in entries if entry.workload == work}
        cells = [_speed(known.get(row.series)) for row in ranking.rows]
        found.append((Column("Speed-up", f"{words}, end to end"), cells))
    return found


def _speed(entry: Timed | None) -> Cell:
    whole = entry.phases.get("end_to_end") if entry else None
    if whole is None or math.isnan(whole.speedup):
        return Cell(text.GAP, tone="gap")
    ci = text.interval(whole.speedup_low, whole.speedup_high, 2)
    return Cell(f"{text.number(whole.speedup, 2)}×", ci, sort=whole.speedup)


def _plain(cell: Cell) -> Cell:
    """A score alone: its difference and what chance would do have columns of their own."""
    return Cell(cell.main, cell.ci, tone=cell.tone if cell.tone in ("failed", "gap") else "",
                sort=cell.sort)  # fmt: skip


def _metric(ranking: Ranking) -> str:
    return f"%, {text.plural(ranking.benches, 'bench', 'benches')}"


def _mini(summary: Summary) -> bool:
    return all(summary.is_mini_bench(b) for b in summary.benches)


def _names(ranking: Ranking) -> str:
    """The references; several budgets of one method are that method, each row at its own."""
    methods = list(dict.fromkeys(label.split()[0] for label in ranking.against if label))
    return text.listing(methods if len(ranking.against) > 1 else list(ranking.against))


def _note(ranking: Ranking) -> str:
    if not ranking.pairs.found:
        return ""
    return (
        "Place: among the rows that keep as much of the image's KV cache; a range is a tie that "
        "these documents do not settle. Δ: paired on the same documents, bold where it is settled "
        "(Holm over this column); open: neither settled nor shown to be as good. The sentences "
        "on top correct over all pairs of one budget, a family of its own."
    )
