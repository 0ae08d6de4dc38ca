"""The sections of a run on benchmarks, the first screen first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reports import (
    changes,
    controls,
    costtables,
    curves,
    dots,
    findings,
    fronts,
    hard,
    heatmap,
    layerdata,
    matrix,
    numbering,
    pareto,
    rankfigure,
    ranktable,
    redundancy,
    redundancytables,
    reference,
    regret,
    routing,
    speedfront,
    speedtables,
    style,
    tables,
    unscored,
)
from reports import timing as times
from reports.controls import Rivals
from reports.ranking import Ranking
from reports.section import Section
from reports.sheet import Drawn
from reports.summary import Summary
from reports.tables import Table

FIRST = "overview"


def sections(
    summary: Summary, ranking: Ranking, rivals: Rivals, clock: Summary | None, folder: Path
) -> list[Section]:
    """Everything there is to show; a section without data is absent."""
    palette = style.Palette(summary.series)
    entries = times.timed(clock) if clock else []
    chances = fronts.load(summary)
    with style.context():
        first = rankfigure.draw(summary, ranking, folder, palette)
        against = matrix.section(summary, ranking, folder, findings.pairs(summary, ranking))
        front = pareto.draw(summary, folder, palette, chances) if _budgets(ranking) else None
        fast = speedfront.draw(summary, entries, folder, palette) if clock else None
        heat = heatmap.draw(summary, folder)
        dot = (
            dots.draw(summary, folder, palette) if heat else None
        )  # of one bench: the first figure
        layers = routing.sections(summary, folder, palette)
        lines = curves.section(summary, folder, palette)
    board = ranktable.table(summary, ranking, entries, rivals.marks)
    found: list[Section | None] = [
        Section(FIRST, "Methods, best first", "", known(first), (board,), first=True),
        lines,
        against,
        _front(summary, fronts.table(summary, chances), chances, known(front, fast)),
        _benches(summary, known(heat, dot)),
        reference.section(summary),
        _controls(summary, rivals),
        hard.section(summary),
        _changes(summary),
        _folded("normalised", "Accuracy above blind", NORMALISED, tables.normalised(summary)),
        *(_told(summary, section) for section in layers),
        regret.section(summary, folder),
        *redundancy_sections(summary, folder),
        unscored.section(summary),
        _folded("failures", "Failed and missing cells", "", tables.failures(summary), FAILURES),
        None if clock else _speed(summary),
        _folded("cells", "Every cell", "", tables.cells(summary, rivals.marks)),
        _folded("metrics", "Further metrics", METRICS, tables.other_metrics(summary)),
        _folded("ledger", "Cost by part", LEDGER, costtables.ledger(summary)),
        reference.others(summary),
    ]
    shown = [one for one in found if one is not None]
    return [_numbered(summary, one) if one.anchor in ACCURACIES else one for one in shown]


def redundancy_sections(summary: Summary, folder: Path) -> list[Section]:
    """What --analyse found; nothing without its files."""
    layers = layerdata.load(summary.run)
    if layers is None:
        return []
    with style.context():
        drawn = tuple(redundancy.draw_all(summary, layers, folder))
    found = tuple(redundancytables.tables(layers))
    return [Section("layers", redundancy.TITLE, redundancy.INTRO, drawn, found)]


def _budgets(ranking: Ranking) -> bool:
    """Whether methods stand at more than one budget: at one, a front is a stack of points."""
    rows = [r for r in ranking.rows if not (r.series.is_reference or r.series.is_control)]
    kept = [r.kv for r in rows if r.kv == r.kv] or [0.0]
    return len(rows) == 0 or max(kept) - min(kept) > 0.03 or not all(r.kv == r.kv for r in rows)


def _front(
    summary: Summary, table: Table | None, chances: fronts.Fronts, drawn: tuple[Drawn, ...]
) -> Section | None:
    if not drawn and table is None:
        return None
    said = findings.front(summary, chances)
    found = (table,) if table else ()
    about = f"{fronts.INTRO} {chances.resamples:.0f} bootstrap draws." if table else ""
    return Section("pareto", "Accuracy against cost", said, drawn, found, folded=True, about=about)


def _benches(summary: Summary, drawn: tuple[Drawn, ...]) -> Section | None:
    if not drawn:
        return None
    said = findings.benches(summary)
    shown = 1 if len(summary.series) <= MANY else 0
    return Section("accuracy", "Accuracy by bench", said, drawn, open_figures=shown)


def _controls(summary: Summary, rivals: Rivals) -> Section | None:
    found = controls.section(summary, rivals)
    if found is None:
        return None
    below = controls.findings(rivals)
    said = " ".join(filter(None, (findings.controls(summary, rivals), *below, found.intro)))
    return replace(found, intro=said, folded=any(len(t.rows) > LONG for t in found.tables))


LONG, MANY = 12, 24
"""Rows from which a table starts closed, and from which the figures with a part a row do."""
ONCE = ("routing", "agreement", "evidence")
"""Their figures show one thing in several ways, or one for every bench: one is open."""


def _told(summary: Summary, section: Section) -> Section:
    """A section on routing, which opens with what was found; how is told folded."""
    said = {"routing": findings.kept, "evidence": findings.recall}.get(section.anchor)
    about = section.about or (section.intro if section.anchor != "pictures" else "")
    intro = said(summary) if said else "" if about else section.intro
    many = len(section.figures) > 3  # one a bench, as a rule
    folded = any(len(table.rows) > LONG for table in section.tables)
    shown = 1 if many or section.anchor in ONCE else section.open_figures
    if section.anchor in ONCE and len(summary.series) > MANY:
        shown = 0  # a panel or a line a row: longer than all the rest of the page
    figures = section.figures[::-1] if section.anchor == "agreement" else section.figures
    if section.anchor == "evidence":  # the bench of the finding first: it is the one that is open
        figures = tuple(sorted(figures, key=lambda one: _named_at(intro, one)))
    return replace(section, intro=intro, about=about, open_figures=shown, folded=folded,
                   figures=figures)  # fmt: skip


def _named_at(said: str, drawn: Drawn) -> int:
    """Where a sentence names the bench of a figure; at its end for one that it leaves out."""
    at = said.find(f" on {drawn.title.rpartition(' on ')[2]} ")
    return at if at >= 0 else len(said)


def _changes(summary: Summary) -> Section | None:
    table = changes.table(summary)
    if table is None:
        return None
    said = findings.changed(summary)
    return Section(
        "changes", "Answers that changed", said, tables=(table,), folded=True, about=changes.INTRO
    )


def _speed(summary: Summary) -> Section | None:
    """Times that stand beside accuracies without a workload of their own."""
    board = times.board(summary, times.timed(summary))
    table = speedtables.ranked(summary, board)
    return None if table is None else Section("speed", "Speed", SPEED, tables=(table,))


def _folded(
    anchor: str, title: str, about: str, table: Table | None, intro: str = ""
) -> Section | None:
    """A table to look things up in; open where the intro says that it must be seen."""
    if table is None:
        return None
    folded = not intro or len(table.rows) > LONG
    return Section(anchor, title, intro, tables=(table,), folded=folded, about=about)


def _numbered(summary: Summary, section: Section) -> Section:
    tables = tuple(numbering.with_column(summary, table) for table in section.tables)
    return replace(section, tables=tables)


def known(*drawn: Drawn | None) -> tuple[Drawn, ...]:
    """The figures that there are."""
    return tuple(one for one in drawn if one is not None)


ACCURACIES = ("controls", "fronts", "changes", "normalised", "cells", "metrics")
"""Sections with tables of accuracies, whose rows say how they number."""

NORMALISED = (
    "(method − blind) / (dense − blind): 100 % is all of what the image adds for the dense model, "
    "0 % is the same model without the image. 95 % intervals from documents drawn jointly for all "
    "three; none where dense is not clearly above blind, or where the run has not derived one."
)
FAILURES = "These cells have no numbers anywhere in this report; nothing stands in for them."
SPEED = "Measured times on the named device; a saving in FLOPs is not yet a saving in time."
METRICS = "Whatever else the benchmarks' own scoring reports, beside each bench's main metric."
LEDGER = (
    "FLOPs are means of one sample, whatever the batch; cache sizes too, unless a batch stands "
    "below them: then they are the whole batch's. Parts are counted one by one, so that nothing "
    "hides in a total; what is not counted says so, and a dash means that the convention has no "
    "such part."
)
