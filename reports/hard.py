"""The documents that need the image's resolution: ``hard.csv`` and ``slices.csv``, checked."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness.store import columns
from reports import text
from reports.cell import Series
from reports.csvio import Spec, read_table
from reports.section import Section
from reports.summary import Summary
from reports.tables import Cell, Column, Table, name_cell

ROWS = Spec.of(columns.HARD, "cell_id", "bench", "slice", "n")
DOCUMENTS = Spec.of(columns.SLICES, "bench", "doc_id", "slice")
PARTS = {
    "hard": "right, wrong at a quarter",
    "kept": "right at both",
    "gained": "wrong, right at a quarter",
    "wrong": "wrong at both",
}
WORDS = {"above": "▲ above", "not above": "≯ not above"}
LEAST = 10
TITLE = "Documents that need the resolution"
ABOUT = (
    "Hard: dense is right, and wrong on the same images with a quarter of the pixels. Right is a "
    "score of at least half of the full mark. The slice is chosen by dense's own answers: there "
    "its score is the full mark or near it by construction, answers right by luck are in and "
    "those wrong by luck are out, so that every other row falls behind dense there and ahead of "
    "where it would be on the rest. No difference to dense is tested on it. How much luck there is "
    "show the documents that are right only at a quarter of the pixels. The test is against "
    "downsample, the image shrunk to the row's own budget and numbered alike: neither chose the "
    "documents. Intervals draw images whole; Holm's correction is over all methods and benches. "
    f"Below {LEAST} documents there is no interval and no verdict. Which documents: slices.csv."
)


def section(summary: Summary) -> Section | None:
    """Counts, and every row on the slice; None for a run without ``--slice``."""
    counts, frame = _counts(summary), _rows(summary)
    failed = _without(summary, counts)
    if not counts and not failed:
        return None
    tables = [_count_table(summary, counts)] if counts else []
    tables += [_table(summary, bench, frame) for bench in counts if (frame["bench"] == bench).any()]
    said = " ".join([*sentences(summary), *failed])
    return Section("hard", TITLE, said, tables=tuple(tables), about=ABOUT)


def sentences(summary: Summary) -> list[str]:
    """How large the slices are, and who is above the control on them."""
    counts = _counts(summary)
    if not counts:
        return []
    sizes = [
        f"{found['hard']} of {sum(found.values())} on {bench}"
        + (f" (too few: below {LEAST})" if found["hard"] < LEAST else "")
        for bench, found in counts.items()
    ]
    back = sum(found["gained"] for found in counts.values())
    hard = sum(found["hard"] for found in counts.values())
    said = f"Documents that need the image at full resolution: {text.listing(sizes)}"
    said += (
        f"; the other way round {back}, so that luck is a part of these {hard}." if hard else "."
    )
    frame = _rows(summary)
    told = frame[(frame["slice"] == "hard") & frame["verdict"].isin([*WORDS])]
    if not len(told):
        return [said]
    above = told[told["verdict"] == "above"]
    places: dict[str, list[str]] = {}
    for row in above.itertuples():
        places.setdefault(str(row.label), []).append(str(row.bench))
    if places:
        return [said, f"Above downsample at their budget on these: {text.by_method(places)}."]
    return [said, "No method is above downsample at its budget on these."]


def _counts(summary: Summary) -> dict[str, dict[str, int]]:
    """Bench -> how many documents are in each part."""
    path = summary.run.path / DOCUMENTS.name
    if not path.is_file():
        return {}
    frame = read_table(path, DOCUMENTS, summary.run.notices)
    frame = frame[frame["slice"].isin([*PARTS]) & frame["bench"].isin(summary.benches)]
    found: dict[str, dict[str, int]] = {}
    for bench, names in frame.groupby("bench", sort=False)["slice"]:
        here = names.value_counts()
        found[str(bench)] = {name: int(here.get(name, 0)) for name in PARTS}
    return found


def _rows(summary: Summary) -> pd.DataFrame:
    frame = read_table(summary.run.path / ROWS.name, ROWS, summary.run.notices)
    told = frame["verdict"].isin([*WORDS])
    few = told & ((frame["n"] < LEAST) | frame["p_adjusted"].isna() | frame["control_delta"].isna())
    if few.any():
        lines = f"{ROWS.name}: {int(few.sum())} line(s) with a verdict and without its numbers"
        summary.run.notices.append(f"{lines}; the verdict is left out.")
        frame.loc[few, "verdict"] = ""
    return frame


def _without(summary: Summary, counts: dict[str, dict[str, int]]) -> list[str]:
    """Why a bench that was asked for a slice has none."""
    probes = summary.run.probes
    if not len(probes):
        return []
    return [
        f"No slice of {row.bench}: "
        + (
            f"dense at a quarter of the pixels failed ({row.error})."
            if row.status == "failed"
            else "dense has no scores by document there, or less is better."
        )
        for row in probes.itertuples()
        if row.status == "failed" or row.bench not in counts
    ]


def _count_table(summary: Summary, counts: dict[str, dict[str, int]]) -> Table:
    heads = [Column("Bench", numeric=False), Column("n", "documents")]
    heads += [Column(name, said) for name, said in PARTS.items()]
    body = []
    for bench, found in counts.items():
        total = sum(found.values())
        mini = "mini" if summary.is_mini_bench(bench) else ""
        row = [Cell(bench, note=mini, tone="name", sort=bench), Cell(str(total), sort=total)]
        for n in found.values():
            row.append(Cell(str(n), text.percent(n / total, 1), sort=n))
        body.append(row)
    return Table("slices", "Where documents fall", heads, body)


def _table(summary: Summary, bench: str, frame: pd.DataFrame) -> Table:
    cells = {summary.cell(series, bench).cell_id: series for series in summary.series}
    mine = frame[(frame["bench"] == bench) & frame["cell_id"].isin([*cells])]
    parts = {
        name: {str(row.cell_id): row for row in mine[mine["slice"] == name].itertuples()}
        for name in ("hard", "rest")
    }
    sizes = {
        name: max((int(r.n) for r in rows.values()), default=0) for name, rows in parts.items()
    }
    mini = summary.is_mini_bench(bench)
    heads = [
        Column("Method", numeric=False),
        Column("hard", f"n = {sizes['hard']}, 95 % CI", mini=mini),
        Column("Δ to dense", "points, by choice below 0"),
        Column("Δ to downsample", "points, 95 % CI; p adjusted"),
        Column("rest", f"n = {sizes['rest']}, 95 % CI", mini=mini),
        Column("Δ to dense on the rest", "points"),
    ]
    unit = text.factor(summary, bench)
    rows = [
        _line(series, parts["hard"].get(cell), parts["rest"].get(cell), unit)
        for cell, series in cells.items()
        if cell in parts["hard"]
    ]
    few = sizes["hard"] < LEAST
    note = (
        f"n = {sizes['hard']}: below {LEAST} documents, no intervals and no verdict." if few else ""
    )
    return Table(f"hard-{bench}", f"On the hard documents of {bench}", heads, rows, note)


def _line(series: Series, hard: Any, rest: Any, unit: float) -> list[Cell]:
    return [
        name_cell(series),
        _value(hard, unit),
        _delta(hard, unit),
        _rival(hard, unit),
        _value(rest, unit),
        _delta(rest, unit),
    ]


def _value(row: Any, unit: float) -> Cell:
    if row is None or math.isnan(row.value):
        return Cell(text.GAP, tone="gap")
    return Cell(text.number(row.value * unit), text.interval(row.ci_low * unit, row.ci_high * unit),
                sort=row.value)  # fmt: skip


def _delta(row: Any, unit: float) -> Cell:
    if row is None or math.isnan(row.delta):
        return Cell(text.GAP, tone="gap")
    ci = text.interval(row.delta_ci_low * unit, row.delta_ci_high * unit, signed=True)
    return Cell(text.number(row.delta * unit, signed=True), ci, sort=row.delta)


def _rival(row: Any, unit: float) -> Cell:
    if row is None or math.isnan(row.control_delta):
        return Cell(text.GAP, tone="gap")
    ci = text.interval(row.control_ci_low * unit, row.control_ci_high * unit, signed=True)
    p = row.p_adjusted
    shown = "" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {text.number(p, 3)}"
    words = ", ".join(filter(None, (WORDS.get(row.verdict, ""), shown)))
    return Cell(text.number(row.control_delta * unit, signed=True), ci, words,
                sort=row.control_delta)  # fmt: skip
