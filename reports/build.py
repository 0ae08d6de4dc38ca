"""``report.html``, ``report.md`` and ``figures/`` from the files of one run directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports import (
    breakeven,
    changes,
    conditions,
    controls,
    costtables,
    dots,
    fronts,
    heatmap,
    latex,
    layerdata,
    markdown,
    numbering,
    pareto,
    published,
    redundancy,
    redundancytables,
    routing,
    sentences,
    speedfront,
    study,
    studyfigures,
    studytables,
    studytext,
    style,
    tables,
    text,
    waterfall,
)
from reports import timing as times
from reports.controls import Rivals
from reports.errors import ReportError
from reports.files import check_free, write
from reports.rundata import load_run
from reports.section import Section
from reports.sheet import Drawn
from reports.summary import Summary, summarise, timed_part
from reports.tables import Table

TEMPLATES = Path(__file__).parent / "templates"


def build_report(run_dir: Path, out: Path | None = None) -> Path:
    """Draw every table and figure of ``run_dir`` again, into ``out`` or into itself.

    Raises:
        ReportError: the directory is no run directory, or ``out`` holds anything but a report, or
            cannot be written.
    """
    run_dir, out = Path(run_dir), Path(out or run_dir)
    if out.resolve() != run_dir.resolve():
        check_free(out)
    summary = summarise(load_run(run_dir))
    arms = study.load(summary.run) if summary.run.is_study else None
    rivals = controls.load(summary)
    try:
        folder = out / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        sections = _study_sections(arms, folder) if arms else _sections(summary, rivals, folder)
        page = _page(summary, rivals, sections) | (_study_page(arms) if arms else {})
        shown = [t for s in sections if not s.folded for t in s.tables if t.name not in LISTS]
        about = f"{text.conditions(summary)}; {text.sample_count(summary)}"
        below = f"{studytext.captioned(arms) if arms else about}. {page['mini_text']}"
        latex.write(shown, out / "tables", below.strip())
        write(out / "report.md", _render("report.md.j2", page))
        return write(out / "report.html", _render("report.html.j2", page))
    except OSError as error:
        raise ReportError(f"cannot write the report into {out}: {error}") from error


def _sections(summary: Summary, rivals: Rivals, folder: Path) -> list[Section]:
    if summary.run.is_timing:
        return _time_sections(summary, folder)
    clock = timed_part(summary)
    beside = times.beside(summary, times.timed(clock)) if clock else []
    palette = style.Palette(summary.series)
    chances, against = fronts.load(summary), controls.section(summary, rivals)
    with style.context():
        front = pareto.draw(summary, folder, palette, chances)
        fast = speedfront.draw(summary, times.timed(clock), folder, palette) if clock else None
        dot = dots.draw(summary, folder, palette)
        heat = heatmap.draw(summary, folder)
        layers = routing.sections(summary, folder, palette)
    sections = [
        Section("overview", "Overview", tables=(tables.overview(summary, beside, rivals.marks),)),
        Section("pareto", "Accuracy against cost", _none(front), _known(front, fast)),
        Section("accuracy", "Accuracy by bench", _none(dot), _known(heat, dot)),
        *([against] if against else []),
        *layers,
    ]
    printed = [t for t in (published.comparison(summary.run), published.measured(summary.run)) if t]
    if printed:  # such a run has no benchmarks: this table is what it is for
        title, intro = published.title(summary.run), published.intro(summary.run)
        sections.insert(0, Section("published", title, intro, tables=tuple(printed)))
        sections = [s for s in sections if s.figures or s.tables]
    sections += _redundancy(summary, folder)
    if clock:
        sections += [replace(s, anchor=f"times-{s.anchor}") for s in _time_sections(clock, folder)]
    plain = None if clock else times.speed_table(times.timed(summary))
    optional = [
        ("fronts", "Who stands on the front", fronts.INTRO, fronts.table(summary, chances), False),
        ("changes", "Answers that changed", changes.INTRO, changes.table(summary), False),
        ("normalised", "Accuracy above blind", NORMALISED, tables.normalised(summary), False),
        ("failures", "Failed and missing cells", FAILURES, tables.failures(summary), False),
        ("speed", "Speed", SPEED, plain, False),
        ("cells", "Every cell", "", tables.cells(summary, rivals.marks), False),
        ("metrics", "Further metrics", METRICS, tables.other_metrics(summary), True),
        ("ledger", "Cost by part", LEDGER, costtables.ledger(summary), True),
    ]
    for anchor, title, intro, table, folded in optional:
        if table is not None:
            sections.append(Section(anchor, title, intro, tables=(table,), folded=folded))
    return [_numbered(summary, s) if s.anchor in ACCURACIES else s for s in sections]


def _numbered(summary: Summary, section: Section) -> Section:
    tables = tuple(numbering.with_column(summary, table) for table in section.tables)
    return replace(section, tables=tables)


def _redundancy(summary: Summary, folder: Path) -> list[Section]:
    """What --analyse found; nothing without its files."""
    layers = layerdata.load(summary.run)
    if layers is None:
        return []
    with style.context():
        drawn = tuple(redundancy.draw_all(summary, layers, folder))
    found = tuple(redundancytables.tables(layers))
    return [Section("layers", redundancy.TITLE, redundancy.INTRO, drawn, found)]


def _time_sections(summary: Summary, folder: Path) -> list[Section]:
    """A run that measured times and nothing else."""
    entries = times.timed(summary)
    mark = times.watermark(entries) or summary.is_mini_model
    with style.context():
        falls = waterfall.draw(entries, folder, mark)
        maps = breakeven.draw(entries, folder, mark)
    speed, map_table = times.speed_table(entries), breakeven.table(entries)
    failed, every = tables.failures(summary), costtables.speed(summary)
    sections = [
        Section("speed", "Time by phase", "" if speed else NOTHING, tables=_tables(speed)),
        Section("waterfall", "Where the time goes", _none(falls), _known(falls)),
    ]
    if map_table is not None:
        sections.append(Section("breakeven", "Break-even", "", _known(maps), (map_table,)))
    if failed is not None:
        sections.append(Section("failures", FAILED_TIMES, FAILURES, (), (failed,)))
    sections.append(Section("phases", "Every phase", SPEED, (), _tables(every), folded=True))
    return sections


def _study_sections(arms: study.Study, folder: Path) -> list[Section]:
    """A run that trained arms and put claims to test: the verdicts come first."""
    with style.context():
        dot = studyfigures.average(arms, folder)
        panels = studyfigures.benches(arms, folder)
        curves = studyfigures.losses(arms, folder)
    verdicts, found = studytables.claims(arms), _tables(studytables.arms(arms))
    failed, runs = studytables.failures(arms), studytables.runs(arms)
    intro = CLAIMS if verdicts else "The run has no verdicts (yet)."
    none = "" if found else "The run has no arms (yet)."
    sections = [
        Section("claims", "Claims and verdicts", intro, tables=_tables(verdicts)),
        Section("arms", "Arms", " ".join(arms.notes) if found else none, tables=found),
        Section("average", "Accuracy of every arm", _none(dot), _known(dot)),
        Section("benches", "Accuracy by bench", _none(panels), _known(panels)),
        Section("losses", "Training loss", _none(curves), _known(curves)),
    ]
    if failed is not None:
        title = "Failed, partial and missing arms"
        sections.append(Section("failures", title, SHORT, tables=(failed,)))
    if runs is not None:
        sections.append(Section("runs", "Every run", tables=(runs,), folded=True))
    return sections


def _study_page(arms: study.Study) -> dict[str, Any]:
    """What the page of a study says in other words than that of any other run."""
    return {
        "opening": studytext.opening(arms),
        "findings": studytext.findings(arms),
        "mini_text": studytext.MINI,
        "notices": list(dict.fromkeys(arms.run.notices)),
        "conditions": conditions.of_study(arms),
        "reading": studytext.READING,
    }


def _tables(*found: Table | None) -> tuple[Table, ...]:
    return tuple(table for table in found if table is not None)


ACCURACIES = ("overview", "controls", "fronts", "changes", "normalised", "cells", "metrics")
"""Sections with tables of accuracies."""

LISTS = ("cells", "failures", "runs")
"""Tables for looking things up: they are no part of a paper."""

NOTHING = "Nothing has been timed (yet)."
FAILED_TIMES = "Failed and missing times"
NORMALISED = (
    "(method − blind) / (dense − blind): 100 % is all of what the image adds for the dense model, "
    "0 % is the same model without the image. 95 % intervals from documents drawn jointly for all "
    "three; none where dense is not clearly above blind, or where the run has not derived one."
)
FAILURES = "These cells have no numbers anywhere in this report; nothing stands in for them."
CLAIMS = (
    "Each claim compares two arms that we trained, the first minus the second. The paper's "
    "difference stands in a column of its own: another model, other data, another scale."
)
SHORT = "What is listed as failed or not run has no numbers anywhere in this report."
SPEED = "Measured times on the named device; a saving in FLOPs is not yet a saving in time."
METRICS = "Whatever else the benchmarks' own scoring reports, beside each bench's main metric."
LEDGER = (
    "FLOPs are means of one sample, whatever the batch; cache sizes too, unless a batch stands "
    "below them: then they are the whole batch's. Parts are counted one by one, so that nothing "
    "hides in a total; what is not counted says so, and a dash means that the convention has no "
    "such part."
)


def _known(*drawn: Drawn | None) -> tuple[Drawn, ...]:
    return tuple(d for d in drawn if d is not None)


def _none(*drawn: Drawn | None) -> str:
    """What stands in a section that has nothing to draw."""
    return "" if _known(*drawn) else "The run has no numbers for this figure (yet)."


def _page(summary: Summary, rivals: Rivals, sections: list[Section]) -> dict[str, Any]:
    run = summary.run
    notices = list(dict.fromkeys(run.notices))
    clock = timed_part(summary)
    parts = [summary, *([clock] if clock and clock is not summary else [])]
    if any(part.count("missing") for part in parts):
        done = sum(part.count("done") for part in parts)
        total = sum(len(part.series) * len(part.benches) for part in parts)
        notices.insert(0, f"This run is not complete: {done} of {total} cells are done. "
                          "Run the same command again to go on.")  # fmt: skip
    opening = sentences.opening(summary)
    if numbering.differ(summary):
        opening += f" {numbering.WARNING}"
    findings = sentences.findings(summary) + controls.findings(rivals)
    reading: tuple[tuple[str, str], ...] = sentences.READING
    if clock is not None:
        entries = times.timed(clock)
        said = times.opening(clock, entries), times.findings(entries), times.READING
        only = run.is_timing
        opening = said[0] if only else f"{opening} {said[0]}"
        findings = said[1] if only else [*findings, *said[1]]
        reading = said[2] if only else (*reading, *(r for r in said[2] if r not in reading))
    return {
        "title": run.path.resolve().name,
        "opening": opening,
        "findings": findings,
        "mini_text": sentences.mini_note(summary),
        "notices": notices,
        "conditions": conditions.entries(summary),
        "everything": conditions.everything(summary),
        "command": conditions.command(summary),
        "sections": sections,
        "reading": reading,
        "css": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "js": Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
    }


def _render(template: str, page: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": markdown.escape, "fenced": markdown.fenced}
    environment.filters["markup"] = Markup
    return environment.get_template(template).render(page)
