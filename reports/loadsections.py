"""The sections of a run under load."""

from __future__ import annotations

from pathlib import Path

from reports import load, loadfigure, loadtext, style
from reports.load import Loads
from reports.section import Section
from reports.summary import Summary
from reports.timing import WATERMARKS


def sections(summary: Summary, found: list[Loads], folder: Path) -> list[Section]:
    """Requests served first; then where a request's time goes, and everything by load."""
    notes = " ".join(str(e.notes) for loads in found for e in loads.at.values())
    spoilt = next((word for word in WATERMARKS if word in notes), "")
    mark = ", ".join(filter(None, ("mini" if summary.is_mini_model else "", spoilt)))
    with style.context():
        drawn = loadfigure.draw(found, style.Palette(summary.series), folder, mark)
        falls = loadfigure.falls(found, folder, mark)
    ranked = tuple(load.ranked(summary, one, i) for i, one in enumerate(found, start=1))
    made = [Section("load", load.TITLE, "", (drawn,) if drawn else (), ranked, first=True)]
    if falls is not None:
        said = " ".join(text for one in found for text in loadtext.reversals(one))
        title = "Where a request's time goes"
        made.append(Section("load-waterfall", title, said, (falls,)))
    every = tuple(
        load.whole(one, count, i) for i, one in enumerate(found, start=1) for count in one.counts
    )
    made.append(Section("load-every", "Every load", "", (), every, folded=True))
    return made
