"""Method against method: the paired differences of all rows that keep as much of the image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import seaborn as sns

from reports import text
from reports.cell import Series
from reports.pairs import Pair
from reports.ranking import Ranking
from reports.section import Section
from reports.sheet import Drawn, Sheet
from reports.summary import Summary
from reports.tables import Cell, Column, Table

TITLE = "Method against method"
ABOUT = (
    "Row minus column on the same documents, for all rows whose mean shares of the image's KV "
    "cache lie at most 1.5 points apart. Coloured and bold where the difference is settled: p "
    "below 0.05 after Holm's correction over all pairs of the matrix. Images are drawn whole, "
    "bench by bench; the average is over benches, each as a share of its metric's scale. All "
    "pairs, also at different budgets, stand in comparisons.csv."
)
COLOURS = ("#e08a3c", "#f7d9ba", "#f2f2f0", "#c3dcef", "#5b9fd0")
SETTLED, OPEN = "#15181c", "#50555b"
MOST_NAMED = 14
"""Rows up to which the numbers stand in the cells; in a larger matrix they are in the table."""
HEADER = ("a", "b", "delta", "ci_low", "ci_high", "p_adjusted", "verdict")


def section(summary: Summary, ranking: Ranking, folder: Path, finding: str) -> Section | None:
    """Figure and table; None where no two rows have one budget."""
    found = _pairs(ranking)
    if not found:
        return None
    drawn = _draw(summary, ranking, found, folder)
    tables = (_table(summary, ranking, found),)
    figures = (drawn,) if drawn else ()
    return Section("pairs", TITLE, finding, figures, tables, folded=True, about=ABOUT)


def _pairs(ranking: Ranking) -> dict[tuple[Series, Series], Pair]:
    """(Better-placed row, other) -> the pair, of comparable rows."""
    order = [r.series for r in ranking.rows if r.complete]
    return {
        (a, b): pair
        for i, a in enumerate(order)
        for b in order[i + 1 :]
        if (pair := ranking.pairs.get(a, b)) is not None and pair.comparable
    }


def _draw(
    summary: Summary, ranking: Ranking, found: dict[tuple[Series, Series], Pair], folder: Path
) -> Drawn | None:
    who = [r.series for r in ranking.rows if any(r.series in pair for pair in found)]
    if len(who) < 3:  # a single pair is a sentence, not a picture
        return None
    unit = _unit(summary)
    shape = len(who), len(who)
    values, settled = np.full(shape, math.nan), np.zeros(shape, dtype=bool)
    for (a, b), pair in found.items():
        i, j = who.index(a), who.index(b)
        values[i, j], values[j, i] = pair.delta * unit, -pair.delta * unit
        settled[i, j] = settled[j, i] = pair.settled
    small = len(who) <= MOST_NAMED
    size = 0.52 if small else 0.3
    left = min(1.9, 0.3 + 0.068 * max(len(s.short) for s in who))
    sheet = Sheet(
        "matrix", 1, width=left + 0.2 + max(3.0, size * len(who)),
        height=left + 0.35 + 0.3 * len(who), left=left, right=0.2, bottom=left, top=0.35, columns=1,
    )  # fmt: skip
    axes = sheet.panel("Row minus column, points", _mini(summary), covered=True)
    most = max(1.0, float(np.nanmax(np.abs(values))))
    names = [s.short for s in who]
    labels = np.vectorize(lambda v: "" if math.isnan(v) else text.number(v, signed=True))(values)
    sns.heatmap(
        np.where(settled, values, np.where(np.isnan(values), math.nan, 0.0)), ax=axes,
        cmap=sns.blend_palette(COLOURS, as_cmap=True), vmin=-most, vmax=most, cbar=False,
        annot=labels if small else False, fmt="", linewidths=1, linecolor="#fffffe",
        xticklabels=names, yticklabels=names,
    )  # fmt: skip
    told = settled[~np.isnan(values)]
    for one, bold in zip(axes.texts, told if len(axes.texts) == told.size else (), strict=False):
        one.set(color=SETTLED if bold else OPEN, fontweight="bold" if bold else "normal")
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(axis="y", rotation=0)
    axes.grid(visible=False)
    rows = [[a.label, b.label, *_numbers(pair), pair.told] for (a, b), pair in found.items()]
    count = sum(pair.settled for pair in found.values())
    caption = (
        f"{count} of {text.plural(len(found), 'pair')} settled. "
        f"{text.conditions(summary)}; {text.sample_count(summary)}."
    )
    alt = f"Paired differences of {text.plural(len(who), 'row')}; {caption}"
    return sheet.save(folder, TITLE, caption, [alt], [[*HEADER], *rows])


def _table(summary: Summary, ranking: Ranking, found: dict[tuple[Series, Series], Pair]) -> Table:
    unit = _unit(summary)
    columns = [Column("Row", numeric=False), Column("Against", numeric=False), Column("KV", "kept")]
    columns += [Column("Difference", "points, 95 % CI"), Column("p", "adjusted")]
    columns += [Column("Verdict", numeric=False), Column("n", "documents")]
    rows = []
    for (a, b), pair in sorted(found.items(), key=lambda one: not one[1].settled):
        row = ranking.of(a)
        kv = row.kv if row else math.nan
        ci = text.interval(pair.low * unit, pair.high * unit, signed=True)
        p = pair.p_adjusted
        rows.append([
            Cell(a.label, tone="name", sort=a.label),
            Cell(b.label, tone="name", sort=b.label),
            Cell(text.percent(kv), sort=kv),
            Cell(text.number(pair.delta * unit, signed=True), ci, strong=pair.settled,
                 sort=pair.delta),
            Cell("< 0.001" if p < 0.001 else text.number(p, 3), sort=p),
            Cell(pair.told or text.GAP, sort=pair.told),
            Cell(text.number(pair.n, 0), sort=pair.n),
        ])  # fmt: skip
    return Table("pairs", TITLE, columns, rows, searchable=len(rows) > 12)


def _numbers(pair: Pair) -> list[object]:
    found = (pair.delta, pair.low, pair.high, pair.p_adjusted)
    return ["" if math.isnan(v) else v for v in found]


def _unit(summary: Summary) -> float:
    return text.factor(summary, summary.benches[0]) if len(summary.benches) == 1 else 100.0


def _mini(summary: Summary) -> bool:
    return summary.is_mini_model or any(summary.is_mini_bench(b) for b in summary.benches)
