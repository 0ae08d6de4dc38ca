"""``report.html``, ``report.md`` and ``figures/`` from the files of one run directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports import (
    benchsections,
    capacity,
    conditions,
    controls,
    costtables,
    latex,
    markdown,
    numbering,
    opening,
    published,
    reference,
    routing,
    sentences,
    study,
    studyfigures,
    studytables,
    studytext,
    style,
    tables,
    text,
    timesections,
    unscored,
)
from reports import ranking as rank
from reports.benchsections import FAILURES
from reports.controls import Rivals
from reports.errors import ReportError
from reports.files import check_free, write
from reports.paper import files as paper
from reports.rundata import load_run
from reports.section import Section
from reports.sheet import Drawn
from reports.summary import Summary, summarise, timed_part
from reports.tables import Table

TEMPLATES = Path(__file__).parent / "templates"


def build_report(run_dir: Path, out: Path | None = None, against: Sequence[str] = ()) -> Path:
    """Draw every table and figure of ``run_dir`` again, into ``out`` or into itself.

    ``against``: the rows that the first table's differences are to; as the run says, else dense.

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
        ranking = rank.load(summary, against, rivals)
        sections = _sections(summary, ranking, rivals, arms, folder)
        page = _page(summary, ranking, rivals, sections) | (_study_page(arms) if arms else {})
        shown = [t for s in sections if not s.folded for t in s.tables if t.name not in LISTS]
        about = f"{text.conditions(summary)}; {text.sample_count(summary)}"
        below = f"{studytext.captioned(arms) if arms else about}. {page['mini_text']}"
        mine = paper.write(summary, ranking, out, rivals.marks)  # its first table is the paper's
        rest = [t for t in shown if not (mine and t.name == benchsections.FIRST)]
        latex.write(rest, out / "tables", below.strip())
        write(out / "report.md", _render("report.md.j2", page))
        return write(out / "report.html", _render("report.html.j2", page))
    except OSError as error:
        raise ReportError(f"cannot write the report into {out}: {error}") from error


def _sections(
    summary: Summary, ranking: rank.Ranking, rivals: Rivals, arms: study.Study | None, folder: Path
) -> list[Section]:
    if arms:
        return _study_sections(arms, folder)
    if summary.run.is_timing:
        return timesections.sections(summary, folder)
    clock = timed_part(summary)
    if any(summary.cell(s, b).scores for s in summary.series for b in summary.benches):
        found = benchsections.sections(summary, ranking, rivals, clock, folder)
    else:
        found = _cost_sections(summary, folder)
    if clock:
        times_ = timesections.sections(clock, folder)
        at = next((i for i, s in enumerate(found) if s.anchor == "controls"), len(found))
        found[at:at] = [replace(s, anchor=f"times-{s.anchor}", first=False) for s in times_]
    return found


def _cost_sections(summary: Summary, folder: Path) -> list[Section]:
    """A run that counted and answered nothing."""
    run = summary.run
    printed = _tables(reference.printed(run), published.comparison(run))
    printed += _tables(published.measured(run), reference.missing(run))
    with style.context():
        first = capacity.section(summary, folder, style.Palette(summary.series))
        layers = routing.sections(summary, folder, style.Palette(summary.series))
    found = [
        first or Section("overview", "Overview", tables=(tables.overview(summary),)),
        *layers,
        *benchsections.redundancy_sections(summary, folder),
        unscored.section(summary),
        Section("failures", "Failed and missing cells", FAILURES,
                tables=_tables(tables.failures(summary))),
        Section("ledger", "Cost by part", benchsections.LEDGER,
                tables=_tables(costtables.ledger(summary)), folded=True),
    ]  # fmt: skip
    if printed:  # this table is what such a run is for
        title, intro = published.title(run), published.intro(run)
        found.insert(0, Section("published", title, intro, tables=printed))
    return [s for s in found if s and (s.figures or s.tables or s.html)]


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
        "reading": studytext.reading(arms),
    }


def _tables(*found: Table | None) -> tuple[Table, ...]:
    return tuple(table for table in found if table is not None)


LISTS = ("cells", "failures", "runs")
"""Tables for looking things up: they are no part of a paper."""

CLAIMS = (
    "Each claim compares two arms that we trained, the first minus the second. The paper's "
    "difference stands in a column of its own: another model, other data, another scale."
)
SHORT = "What is listed as failed or not run has no numbers anywhere in this report."


def _known(*drawn: Drawn | None) -> tuple[Drawn, ...]:
    return tuple(d for d in drawn if d is not None)


def _none(*drawn: Drawn | None) -> str:
    """What stands in a section that has nothing to draw."""
    return "" if _known(*drawn) else "The run has no numbers for this figure (yet)."


def _page(
    summary: Summary, ranking: rank.Ranking, rivals: Rivals, sections: list[Section]
) -> dict[str, Any]:
    run = summary.run
    notices = list(dict.fromkeys(run.notices))
    clock = timed_part(summary)
    parts = [summary, *([clock] if clock and clock is not summary else [])]
    if any(part.count("missing") for part in parts) and not run.is_ledger:
        done = sum(part.count("done") for part in parts)
        total = sum(len(part.series) * len(part.benches) for part in parts)
        notices.insert(0, f"This run is not complete: {done} of {total} cells are done. "
                          "Run the same command again to go on.")  # fmt: skip
    if numbering.differ(summary):
        notices.append(numbering.WARNING)
    about = sentences.opening(summary)
    findings = opening.sentences(summary, ranking) or capacity.choose(summary)
    findings = findings or sentences.findings(summary) + controls.findings(rivals)
    notices += sentences.missed(summary)
    reading: tuple[tuple[str, str], ...] = sentences.READING
    if run.is_ledger:
        reading = sentences.COUNTED
    if clock is not None:
        said = timesections.page(clock)
        only = run.is_timing
        about = said[0] if only else f"{about} {said[0]}"
        findings = said[1] if only else [*findings, *said[1][:1]]
        reading = said[2] if only else (*reading, *(r for r in said[2] if r not in reading))
    return {
        "title": run.path.resolve().name,
        "opening": about,
        "findings": findings,
        "mini_text": sentences.mini_note(summary),
        "notices": notices,
        "about": f"{text.conditions(summary)}; {text.sample_count(summary)}",
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
