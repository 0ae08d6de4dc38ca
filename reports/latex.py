"""The report's other tables as LaTeX, ``tables/NAME.tex``: those that a page is wide enough for.

The main table of a run on benchmarks is ``reports.paper.table``'s. Bold is what it is in the
report: significant after correction. Conditions and n stand below the table, so that a copied
table still says what it is. booktabs only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from reports.files import write as put
from reports.paper.layout import PAGE, Column, Part, fit
from reports.paper.tex import Piece, bold, breakable, escape, fine, label, piece, space
from reports.tables import Cell, Table
from reports.tables import Column as Head
from reports.text import plural

MARK = r"% Needs \usepackage{booktabs"
"""How each of these files begins, also those of older reports."""
MOST_ROWS = 30
CUT = ("speed",)
"""Tables whose first columns say what they are for."""
TEXT = (12.0, 9.0, 7.0)
"""Ems that words may take before they run over several lines, the most pleasant first."""


def write(tables: Sequence[Table], folder: Path, conditions: str) -> list[Path]:
    """One file a table that fits; ``conditions`` is what stands below each of them.

    What does not fit is not written, and what an earlier report wrote goes.
    """
    folder.mkdir(exist_ok=True)
    found = {f"{one.name}.tex": render(one, conditions) for one in tables}
    for path in folder.glob("*.tex"):
        if not found.get(path.name) and _is_ours(path):
            path.unlink()
    return [put(folder / name, content) for name, content in found.items() if content]


def _is_ours(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline(200).startswith(MARK)


def render(table: Table, conditions: str) -> str:
    """A whole ``table`` environment; empty where it would leave the page."""
    table, part = next(
        ((one, part) for one in _narrower(table) if (part := _fitted(one))), (table, None)
    )
    if part is None or len(table.rows) > MOST_ROWS:
        return ""
    columns = part.columns
    heads = [" & ".join(column.head.code for column in columns) + r" \\"]
    if any(column.unit.code for column in columns):
        heads.append(" & ".join(column.unit.code for column in columns) + r" \\")
    note = " ".join(filter(None, (table.note, _legend(table), conditions)))
    lines = [
        MARK + "} in the preamble.",
        r"\begin{table*}[tbp]",
        r"\centering",
        rf"\caption{{{escape(table.title)}}}",
        rf"\label{{tab:{label(table.name)}}}\par\smallskip",
        rf"\{part.size}\setlength{{\tabcolsep}}{{{part.gap:g}pt}}",
        rf"\begin{{tabular}}{{@{{}}{''.join('l' if c.left else 'r' for c in columns)}@{{}}}}",
        r"\toprule",
        *heads,
        r"\midrule",
        *(" & ".join(c.cells[i].code for c in columns) + r" \\" for i in range(len(table.rows))),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\par\smallskip\parbox{{{PAGE:g}pt}}{{\footnotesize\raggedright {breakable(note)}}}",
        r"\end{table*}",
    ]
    return "\n".join([*lines, ""])


def _fitted(table: Table) -> Part | None:
    found = (_columns(table, most) for most in TEXT)
    return next(filter(None, (fit(columns, PAGE) for columns in found)), None)


def _narrower(table: Table) -> Iterator[Table]:
    """The table; then, where its first columns say what it is for, without others, which it says.

    Those go first that the page shows on demand only, then from the right.
    """
    yield table
    if table.name not in CUT:
        return
    kept = [i for i, column in enumerate(table.columns) if not column.fold]
    for count in range(min(len(kept), len(table.columns) - 1), 2, -1):
        chosen = kept[:count]
        left = plural(len(table.columns) - count, "column")
        note = f"{table.note} Left out for width: {left}.".strip()
        rows = [[row[i] for i in chosen] for row in table.rows]
        yield replace(table, columns=[table.columns[i] for i in chosen], rows=rows, note=note)


LEGEND = "Bold: significant after Holm's correction; brackets: 95 % CI."
LEGENDS = {
    "arms": "Bold: the 95 % CI in brackets leaves out zero, without correction for the number of "
    "arms."
}


def _legend(table: Table) -> str:
    if not any(cell.strong for row in table.rows for cell in row):
        return ""
    return LEGENDS.get(table.name, LEGEND)


def _columns(table: Table, most: float) -> list[Column]:
    found = []
    for i, head in enumerate(table.columns):
        unit = ", ".join(filter(None, (head.unit, "mini" if head.mini else "")))
        cells = [_cell(row[i], head, most) for row in table.rows]
        title = _words(head.title, most), _words(unit, most, small=True)
        found.append(Column(*title, cells, left=not head.numeric))
    return found


def _cell(cell: Cell, column: Head, most: float) -> Piece:
    """Main line and interval, below them the second line; the second is what may be bold."""
    main = _words(cell.main, 1.5 * most if column.prose else most)
    main = bold(main) if cell.strong and not cell.sub else main
    if cell.note and cell.note != "mini" and not cell.sub:  # a verdict goes without saying: bold
        main = _beside(main, cell.note)
    main = _beside(_beside(main, cell.ci), cell.mark)
    if not cell.sub:
        return main
    sub = Piece(rf"{{\scriptsize {escape(cell.sub)}}}", fine=fine(cell.sub).fine)
    sub = _beside(bold(sub) if cell.strong else _words(cell.sub, most, small=True), cell.sub_ci)
    widest = max(main, sub, key=lambda one: one.points("small"))
    side = "r" if column.numeric else "l"
    return Piece(rf"\shortstack[{side}]{{{main.code}\\{sub.code}}}", widest.wide, widest.fine)


def _beside(main: Piece, more: str) -> Piece:
    return main + space() + fine(more) if more else main


def _words(said: str, most: float, small: bool = False) -> Piece:
    """Text on one line, or within so many ems on several."""
    one = fine(said) if small else piece(said)
    if one.wide + one.fine <= most:
        return one
    size = r"\scriptsize" if small else ""
    code = rf"\parbox[t]{{{most:g}em}}{{\raggedright{size}\strut {breakable(said)}\strut}}"
    return Piece(code, most)
