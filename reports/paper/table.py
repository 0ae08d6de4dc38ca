"""``tables/paper.tex``: the run's main table as it goes into a paper.

Needs booktabs alone. It keeps to the text width of a one-column article and, as ``table*``, of a
two-column one; where it is narrow enough it is a ``table`` for one column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports import numbering, text
from reports.cell import Series
from reports.paper import names, notes
from reports.paper.layout import MOST_LINES, Choice, Column, Part, choose
from reports.paper.rows import Block, Medals, Names, blocks, name_rows
from reports.paper.tex import (
    Piece,
    bold,
    breakable,
    escape,
    fine,
    hanging,
    piece,
    raised,
    underlined,
)
from reports.ranking import Ranked, Ranking
from reports.summary import Summary
from reports.tables import NO_MARKS, Marks

POSITIONS = {"original": "orig.", "compact": "anew"}
STAR = raised("*")


def render(summary: Summary, ranking: Ranking, marks: Marks = NO_MARKS) -> str:
    """The whole file: one table, or as many as the benches and the rows need."""
    found = blocks(summary, ranking)
    called = name_rows(summary, found)
    table = Builder(summary, ranking, found, called, marks)
    choice, parts = choose(table.choices())
    pages = cut(found, MOST_LINES)
    lines = [
        "% The main table of a run, to be taken in with \\input; needs \\usepackage{booktabs}.",
        "% Made for 10-point articles: 345 points wide at most, in a column 240.",
        *notes.keys(summary),
    ]
    total = len(parts) * len(pages)
    offsets = {id(block): at for block, at in zip(found, _offsets(found), strict=True)}
    number = 0
    for page in pages:
        for part in parts:
            number += 1
            body = _body(part, page, offsets)
            last = number == total
            note = notes.table(summary, ranking, found, called, choice, table.settled, marks)
            note = note if last else f"Notes stand below part {total}."
            lines.append(_float(summary, part, body, note, (number, total)))
    return "\n".join(lines) + "\n"


class Builder:
    """The columns of the table, each in the forms that a page may need."""

    def __init__(
        self,
        summary: Summary,
        ranking: Ranking,
        found: list[Block],
        called: Names,
        marks: Marks = NO_MARKS,
    ) -> None:
        self.marks = marks
        self.summary, self.ranking, self.found, self.called = summary, ranking, found, called
        self.rows = [row for block in found for row in block.rows]
        said = [block.is_budget for block in found if block.has_methods]
        self.titled = bool(said) and all(said)
        medals = Medals(summary, ranking.pairs)
        self.medals: dict[str | None, dict[Series, str]] = {
            bench: {s: m for block in found for s, m in medals.of(block.rows, bench).items()}
            for bench in [None, *summary.benches]
        }

    @property
    def settled(self) -> bool:
        """Whether anything is bold."""
        return any(self.medals.values())

    def choices(self) -> list[Choice]:
        """From what says most to what is narrowest."""
        short = names.shorts(self.summary.benches)
        long = [names.bench(bench) for bench in self.summary.benches]
        forms = [(long, True), (short, True), (long, False), (short, False)]
        return [
            Choice(
                self.first(), self.benches(heads), self.last(intervals), heads != long, intervals
            )
            for heads, intervals in forms
        ]

    def first(self) -> list[Column]:
        """Name, budget unless it stands above the rows, numbering where rows differ."""
        shown = [self.called.shown[row.series] + self._missed(row.series) for row in self.rows]
        found = [Column(piece("Method"), Piece(), shown, left=True)]
        kv = [row.kv for row in self.rows]
        if not self.titled and not all(math.isnan(one) for one in kv):
            cells = [piece(text.number(100 * one, 0)) for one in kv]
            found.append(Column(piece("KV"), fine("%"), cells))
        if numbering.differ(self.summary):
            said = [self.summary.positions(row.series) for row in self.rows]
            cells = [piece(POSITIONS.get(one, one) or text.GAP) for one in said]
            found.append(Column(piece("Pos."), fine("ids"), cells, left=True))
        return found

    def _missed(self, series: Series) -> Piece:
        scores = [self.summary.score(series, bench) for bench in self.summary.benches]
        return raised("‡") if any(s and text.missed_budget(s) for s in scores) else Piece()

    def benches(self, heads: Sequence[str]) -> list[Column]:
        return [
            Column(piece(head), self._unit(bench), [self._score(row, bench) for row in self.rows])
            for head, bench in zip(heads, self.summary.benches, strict=True)
        ]

    def _unit(self, bench: str) -> Piece:
        return fine("mini" if self.summary.is_mini_bench(bench) else "")

    def _score(self, row: Ranked, bench: str) -> Piece:
        score = self.summary.score(row.series, bench)
        if score is None:
            return piece(text.GAP)
        shown = piece(text.number(score.value * text.factor(self.summary, bench)))
        shown = _decorated(shown, self.medals[bench].get(row.series, ""))
        return shown + (hanging("†") if (row.series, bench) in self.marks.on else Piece())

    def last(self, intervals: bool) -> list[Column]:
        """Average, share of dense, difference to the reference, as far as the run has them."""
        found = []
        if len(self.summary.benches) > 1:
            medals = self.medals[None]
            cells = [
                _decorated(piece(text.number(100 * row.average)), medals.get(row.series, ""))
                for row in self.rows
            ]
            mini = "mini" if notes.all_mini(self.summary) else ""
            found.append(Column(piece("Avg."), fine(mini), cells))
        cells = [piece(text.number(100 * row.of_dense)) for row in self.rows]
        found.append(Column(piece("Rel."), fine("%"), cells))
        kept = [column for column in found if any(c.code != "--" for c in column.cells)]
        return kept + self._differences(intervals)

    def _differences(self, intervals: bool) -> list[Column]:
        if all(math.isnan(row.delta) for row in self.rows):
            return []
        unit = notes.points(self.summary)
        shown, after = [], []
        for row in self.rows:
            own = math.isnan(row.delta) and row.reference is None  # the reference itself
            shown.append(Piece() if own else piece(text.number(row.delta * unit, signed=True)))
            ci = text.interval(row.delta_low * unit, row.delta_high * unit, signed=True)
            settled = row.verdict in ("better", "worse")
            after.append((fine(ci) if intervals else Piece()) + (STAR if settled else Piece()))
        head = piece(f"Δ {notes.reference(self.ranking)}")
        said = "points [95 % CI]" if intervals else "points"
        return [
            Column(head, fine(said), shown),
            Column(Piece(), Piece(), after, left=True, glued=True),
        ]


def _decorated(shown: Piece, medal: str) -> Piece:
    return {"best": bold, "second": underlined}.get(medal, lambda one: one)(shown)


def cut(found: list[Block], most: int) -> list[list[tuple[Block, int, int]]]:
    """Blocks, or slices of them, page by page; a page has at most so many lines."""
    pages: list[list[tuple[Block, int, int]]] = [[]]
    left = most
    for block in found:
        start = 0
        while start < len(block.rows):
            need = len(block.rows) - start + bool(block.title)
            if pages[-1] and need > left and (left < 6 or need <= most):
                pages.append([])
                left = most
            take = min(len(block.rows) - start, left - bool(block.title))
            pages[-1].append((block, start, start + take))
            left -= take + bool(block.title)
            start += take
            if left < 2:
                pages.append([])
                left = most
    return [page for page in pages if page]


def _offsets(found: list[Block]) -> list[int]:
    return [sum(len(block.rows) for block in found[:i]) for i in range(len(found))]


def _body(part: Part, page: list[tuple[Block, int, int]], offsets: dict[int, int]) -> list[str]:
    """The lines between the rules on top and at the bottom."""
    lines = []
    for number, (block, start, stop) in enumerate(page):
        if number:
            lines.append(r"\midrule")
        if block.title:
            spans = rf"\multicolumn{{{len(part.columns)}}}{{@{{}}l@{{}}}}"
            lines.append(rf"{spans}{{\emph{{{escape(block.title)}}}}} \\")
        at = offsets[id(block)]
        for row in range(at + start, at + stop):
            lines.append(" & ".join(column.cells[row].code for column in part.columns) + r" \\")
    return lines


def _heads(columns: list[Column]) -> list[str]:
    """Two heading lines; a glued column shares the heading before it."""
    tops: list[str] = []
    units: list[str] = []
    for number, column in enumerate(columns):
        if column.glued:
            continue
        shared = columns[number + 1 : number + 2]
        for line, shown in ((tops, column.head.code), (units, column.unit.code)):
            both = shared and shared[0].glued
            end = "@{}" if number + 2 == len(columns) else ""
            line.append(rf"\multicolumn{{2}}{{c{end}}}{{{shown}}}" if both else shown)
    found = [" & ".join(tops) + r" \\"]
    return [*found, " & ".join(units) + r" \\"] if any(c.unit.code for c in columns) else found


def _align(columns: list[Column]) -> str:
    signs = [("@{\\,}" if c.glued else "") + ("l" if c.left else "r") for c in columns]
    return f"@{{}}{''.join(signs)}@{{}}"


def _float(summary: Summary, part: Part, body: list[str], note: str, place: tuple[int, int]) -> str:
    """One table; caption and note are as wide as the page or the table itself."""
    number, total = place
    star = "" if part.limit < 300 else "*"
    more = f" (part {number} of {total})" if total > 1 else ""
    suffix = f"-{number}" if number > 1 else ""
    lines = [
        rf"\begin{{table{star}}}[tbp]",
        r"\centering",
        rf"\caption{{{breakable(notes.caption(summary) + more)}}}",
        rf"\label{{tab:paper{suffix}}}\par\smallskip",
        rf"\{part.size}",
        rf"\setlength{{\tabcolsep}}{{{part.gap:g}pt}}",
        r"\sbox0{%",
        rf"\begin{{tabular}}{{{_align(part.columns)}}}",
        r"\toprule",
        *_heads(part.columns),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}%",
        r"\begin{minipage}{\wd0}",
        r"\usebox0",
        r"\par\smallskip",
        rf"\footnotesize\raggedright {note}",
        r"\end{minipage}",
        rf"\end{{table{star}}}",
    ]
    return "\n".join(lines)
