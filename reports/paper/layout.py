"""How a table's columns share a page: font, gaps, and into how many tables they go.

A page of an article is 345 points wide, a column of a two-column one about 240; what fits neither
is split between benches. Nothing is scaled: every table has letters of a size that papers use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reports.paper.tex import POINTS, Piece

PAGE = 345.0
COLUMN = 240.0
SPARE = 2.0
"""Points that stay free: estimates leave kerning out."""
MOST_LINES = 34
"""Rows of a float, with its caption and note, on a page of an article."""
SETTINGS = (("small", 5.0), ("small", 4.0), ("small", 3.0), ("footnotesize", 3.0))
"""Font and half the gap between two columns (``\\tabcolsep``), the most pleasant first."""


@dataclass(frozen=True)
class Column:
    """Its two heading lines and a cell a row."""

    head: Piece
    unit: Piece
    cells: list[Piece]
    left: bool = False
    glued: bool = False
    """Stands close behind the one before it and shares its heading."""

    def body(self, size: str) -> float:
        """Width of its cells in points."""
        return max((one.points(size) for one in self.cells), default=0.0)

    def heading(self, size: str) -> float:
        return max(self.head.points(size), self.unit.points(size))


GLUE = 2.0
"""Points before a glued column."""


@dataclass(frozen=True)
class Part:
    """One table of the page: its columns and how they are set."""

    columns: list[Column]
    size: str = "small"
    gap: float = 4.0
    limit: float = PAGE

    @property
    def points(self) -> float:
        return natural(self.columns, self.size, self.gap)


def natural(columns: Sequence[Column], size: str, gap: float) -> float:
    """Width of a table of these columns in points, without space at its sides."""
    total = -2 * gap
    for column, after in zip(columns, [*columns[1:], None], strict=True):
        if column.glued:
            continue
        shared = GLUE + after.body(size) if after is not None and after.glued else 0.0
        total += max(column.heading(size), column.body(size) + shared) + 2 * gap
    return total


def fit(columns: list[Column], limit: float) -> Part | None:
    """The first setting in which the columns keep to a width."""
    for size, gap in SETTINGS:
        if natural(columns, size, gap) <= limit - SPARE:
            return Part(columns, size, gap, limit)
    return None


@dataclass(frozen=True)
class Choice:
    """The columns of a table in one form: what stands in every part, and what in the last."""

    first: list[Column]
    benches: list[Column]
    last: list[Column] = field(default_factory=list)
    short: bool = False
    """With short names of the benches, which the note then explains."""
    intervals: bool = True

    def parts(self) -> list[Part] | None:
        """One table for a column or a page; None where the columns fit neither."""
        columns = [*self.first, *self.benches, *self.last]
        part = fit(columns, COLUMN) or fit(columns, PAGE)
        return [part] if part else None

    def split(self, count: int) -> list[Part] | None:
        """So many tables for a page, alike in font, the benches shared out between them."""
        size = -(-len(self.benches) // count)
        groups = [self.benches[i : i + size] for i in range(0, len(self.benches), size)]
        found = []
        for number, group in enumerate(groups):
            last = self.last if number == len(groups) - 1 else []
            part = fit([*self.first, *group, *last], PAGE)
            if part is None:
                return None
            found.append(part)
        worst = max(found, key=lambda part: SETTINGS.index((part.size, part.gap)))
        return [Part(part.columns, worst.size, worst.gap) for part in found]


def choose(choices: Sequence[Choice]) -> tuple[Choice, list[Part]]:
    """The first form that fits in one table, else in the fewest.

    Where not even one bench fits beside the names, each bench gets a table as it is.
    """
    for choice in choices:
        parts = choice.parts()
        if parts:
            return choice, parts
    most = max(2, len(choices[0].benches))
    for count in range(2, most + 1):
        for choice in choices:
            parts = choice.split(count)
            if parts:
                return choice, parts
    last = choices[-1]
    size, gap = SETTINGS[-1]
    lone = [Part([*last.first, column], size, gap) for column in last.benches]
    return last, [*lone, Part([*last.first, *last.last], size, gap)] if last.last else lone


__all__ = ["COLUMN", "PAGE", "POINTS", "Choice", "Column", "Part", "choose", "fit", "natural"]
