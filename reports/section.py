"""One heading of the report with what stands under it."""

from __future__ import annotations

from dataclasses import dataclass

from reports.sheet import Drawn
from reports.tables import Table


@dataclass(frozen=True)
class Section:
    """Text, figures and tables, in this order; ``html`` is markup of the page alone."""

    anchor: str
    title: str
    intro: str = ""
    figures: tuple[Drawn, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: bool = False
    """Whether the tables start closed: for reference, not for the first reading."""
    html: str = ""
    """Stands before the figures; what a reader must know stands in the figures as well."""
    about: str = ""
    """How it was done, folded: ``intro`` is what was found."""
    first: bool = False
    """The first screen: the table with the figure beside it."""
    open_figures: int = 2
    """How many of the figures the page shows at once; the others unfold."""
