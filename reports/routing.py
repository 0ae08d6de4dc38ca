"""The sections on routing: what each layer keeps, over the image, in agreement, of the evidence."""

from __future__ import annotations

from pathlib import Path

from reports import (
    agreement,
    evidence,
    images,
    overlay,
    retention,
    schedule,
    selection,
    shown,
    viewer,
)
from reports.section import Section
from reports.sheet import Drawn
from reports.style import Palette
from reports.summary import Summary

NOTHING = "The run has no numbers for this figure (yet)."
PICTURES = (
    "Move the slider, or use the arrow keys on it: every method at the same layer of the same "
    "sample. Words that a layer leaves out are struck through."
)
STILL = "The page (report.html) has all layers and more samples with a slider."
EVERY = "Every document, with search, filters and keys: python -m modsuite view RUN."
AGREEMENT = (
    "Methods that choose afresh at every layer agree less between layers than those that choose "
    "once."
)
EVIDENCE = (
    "Which patches an answer needs is known here. A method that keeps a larger share of them than "
    "of all patches has found something; one that keeps the same share has not."
)
ATTENTION = (
    "Where the tokens of the dense model look. A layer whose rows are alike adds little: that is "
    "the redundancy γ-MoD looks for."
)


def sections(summary: Summary, folder: Path, palette: Palette) -> list[Section]:
    """Everything drawn from the routing records; a section without anything to show is left out."""
    samples = shown.load(summary)
    kept = [schedule.draw(summary, folder, palette), *retention.draw_all(summary, folder)]
    placed = [sample for sample in samples if not sample.is_mixed]  # the others choose no token
    kept.append(selection.draw(summary, folder, placed))
    figures = _known(kept)
    found = [Section("routing", "What each layer keeps", "" if figures else NOTHING, figures)]
    groups = viewer.groups(samples)
    files = viewer.images(summary, groups)
    still = overlay.draw(summary, folder, groups, files)
    html = viewer.markup(summary, groups, files, still, folder)
    if html:
        every = EVERY if (summary.run.path / "samples").is_dir() else ""
        intro = " ".join(filter(None, (PICTURES, STILL if still else "", every)))
        found.append(Section("pictures", "Over the image", intro, tuple(still), html=html))
    if (several := images.section(summary)) is not None:
        found.append(several)
    agree = agreement.draw(summary, folder, placed)
    if agree:
        found.append(Section("agreement", "Agreement", AGREEMENT, tuple(agree)))
    recalls, table = evidence.draw(summary, folder, palette), evidence.table(summary)
    if table is not None:
        found.append(Section("evidence", "Evidence recall", EVIDENCE, tuple(recalls), (table,)))
    maps = selection.attention(summary, folder)
    if maps is not None:
        found.append(Section("attention", "Attention maps", ATTENTION, (maps,)))
    return found


def _known(drawn: list[Drawn | None]) -> tuple[Drawn, ...]:
    return tuple(one for one in drawn if one is not None)
