"""Everything of a run for a paper, written beside its report."""

from __future__ import annotations

from pathlib import Path

from reports.files import write as put
from reports.paper import appendix, citations, conditions, table
from reports.ranking import Ranking
from reports.summary import Summary
from reports.tables import NO_MARKS, Marks


def write(summary: Summary, ranking: Ranking, out: Path, marks: Marks = NO_MARKS) -> list[Path]:
    """``tables/paper.tex``, ``tables/appendix.tex``, ``CITATION.bib`` and ``conditions.txt``.

    `marks`: the scores that are not above chance. Nothing for a run that answered no benchmark.
    Raises OSError.
    """
    if not any(summary.cell(s, b).scores for s in summary.series for b in summary.benches):
        return []
    return [
        put(out / "tables" / "paper.tex", table.render(summary, ranking, marks)),
        put(out / "tables" / "appendix.tex", appendix.render(summary, ranking)),
        put(out / "CITATION.bib", citations.render(summary)),
        put(out / "conditions.txt", conditions.render(summary, ranking)),
    ]
