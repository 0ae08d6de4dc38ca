"""The finished cells of a run as rows by benches, for comparisons and averages. Torch-free."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.readouts.controls import Contender
from harness.readouts.documents import Documents, Library, numbers
from harness.statistics import stats
from harness.statistics.rows import Rows
from methods import REFERENCE

WHO = ("model", "method", "params", "label")


@dataclass
class Row:
    """A method with its parameters on the benches that it has finished."""

    who: tuple[str, ...]
    cells: dict[str, Contender] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, str]:
        return dict(zip(WHO, self.who, strict=True))

    @property
    def is_reference(self) -> bool:
        return self.about["method"] == REFERENCE

    @property
    def positions(self) -> str:
        return next((cell.positions for cell in self.cells.values() if cell.positions), "")

    def ids(self, benches: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.cells[bench].cell_id for bench in benches)


class Matrix:
    """Rows in the order of the run, dense first; `update` with all that is finished."""

    def __init__(self, seed: int, library: Library | None = None) -> None:
        self.seed, self.library = seed, library or Library()
        self.rows: list[Row] = []
        self.benches: list[str] = []
        self.averaged: list[str] = []
        """The benches of the average: those with scores where more is better."""
        self._of: dict[str, Documents] = {}
        self._sheets: dict[tuple[str, int, bool], Rows] = {}
        self._tops: dict[str, float] = {}

    def update(self, contenders: Iterable[Contender]) -> None:
        """Take the cells that count: those with a score a document."""
        rows: dict[tuple[str, ...], Row] = {}
        for one in contenders:
            if one.subject.scores:
                row = rows.setdefault(one.subject.who, Row(one.subject.who))
                row.cells[one.subject.about["bench"]] = one
        self.rows = sorted(rows.values(), key=lambda row: not row.is_reference)
        cells = [cell for row in rows.values() for cell in row.cells.values()]
        self.benches = list(dict.fromkeys(c.subject.about["bench"] for c in cells))
        less = {c.subject.about["bench"] for c in cells if not c.subject.higher_is_better}
        self.averaged = [bench for bench in self.benches if bench not in less]
        self._tops = {}
        self._fill()

    def _fill(self) -> None:
        """Resample all new rows of a bench in one go."""
        for bench in self.benches:
            sheets: dict[int, list[Contender]] = {}
            for cell in (row.cells[bench] for row in self.rows if bench in row.cells):
                sheets.setdefault(id(self.documents(cell)), []).append(cell)
            for cells in sheets.values():
                self._sheet(self.documents(cells[0]), cells, False)
                if bench in self.averaged:
                    self._sheet(self.documents(cells[0]), cells, True)

    @property
    def complete(self) -> list[Row]:
        """The rows that have every bench of the average, where there is one."""
        if not self.averaged:
            return []
        return [row for row in self.rows if all(bench in row.cells for bench in self.averaged)]

    @property
    def metric(self) -> str:
        """What the average is of."""
        count = len(self.averaged)
        return f"mean of {count} bench{'' if count == 1 else 'es'}"

    @property
    def tops(self) -> list[float]:
        """The scale of every bench of the average."""
        return [self.top(bench) for bench in self.averaged]

    def top(self, bench: str) -> float:
        """The best score of a bench's scale, by all rows that it has."""
        if bench not in self._tops:
            cells = [row.cells[bench] for row in self.rows if bench in row.cells]
            self._tops[bench] = max(
                stats.top_score(numbers(cell.subject.scores, self.documents(cell)))
                for cell in cells
            )
        return self._tops[bench]

    def documents(self, cell: Contender) -> Documents:
        """The documents of a cell and their images; the same object for cells that agree."""
        if cell.cell_id not in self._of:
            found = self.library.of(cell.subject.scores, cell.subject.images)
            self._of[cell.cell_id] = found
        return self._of[cell.cell_id]

    def together(
        self, one: Contender, others: Sequence[Contender], apart: bool = False
    ) -> Iterable[tuple[Rows, list[Contender]]]:
        """`others` by the documents they share with `one`, and the scores on these.

        Other metrics and models, and rows without a document in common, are left out.
        `apart`: drawn for this bench alone, not as in `stats.paired`.
        """
        sheets: dict[int, tuple[Documents, list[Contender]]] = {}
        for other in others:
            mine, model = one.subject, one.subject.about["model"]
            if (other.subject.metric, other.subject.about["model"]) != (mine.metric, model):
                continue
            docs = self._shared(one, other)
            if len(docs):
                sheets.setdefault(id(docs), (docs, []))[1].append(other)
        for docs, cells in sheets.values():
            yield self._sheet(docs, (one, *cells), apart), cells

    def averaged_on(self, a: Row, b: Row) -> list[Rows]:
        """The two rows on every bench of the average; [] where some bench cannot pair them."""
        found = [
            rows
            for bench in self.averaged
            for rows, _ in self.together(a.cells[bench], [b.cells[bench]], apart=True)
        ]
        return found if len(found) == len(self.averaged) else []

    def alone(self, cell: Contender) -> Rows:
        """One row of the average on a bench, on all documents it has."""
        return self._sheet(self.documents(cell), (cell,), True)

    def _shared(self, one: Contender, other: Contender) -> Documents:
        mine, theirs = self.documents(one), self.documents(other)
        if mine is theirs or mine.ids == theirs.ids:
            return mine
        return self.library.shared(mine, other.subject.scores)

    def _sheet(self, docs: Documents, cells: Sequence[Contender], apart: bool) -> Rows:
        bench = cells[0].subject.about["bench"]
        key = (bench, id(docs), apart)
        if key not in self._sheets:
            count = int(docs.groups.numbers.max()) + 3
            own = (zlib.crc32(bench.encode()),) if apart else ()
            self._sheets[key] = Rows(docs.groups, self.seed, count, *own)
        sheet = self._sheets[key]
        sheet.add({c.cell_id: numbers(c.subject.scores, docs) for c in cells
                   if c.cell_id not in sheet.scores})  # fmt: skip
        return sheet


def mean_kv(row: Row, benches: Sequence[str]) -> float | None:
    """Mean share of the image's KV cache over benches; None where one is not known."""
    found = [row.cells[bench].kv for bench in benches]
    known = [kv for kv in found if kv is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None
