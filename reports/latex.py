"""The report's tables as LaTeX for a paper: ``tables/NAME.tex``, to be taken in with ``\\input``.

booktabs only (graphicx as well where a table is wide). Bold is what it is everywhere here:
significant after correction. Conditions and n stand below the table, so that a copied table still
says what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.tables import Cell, Column, Table

WIDE = 6  # columns from which a table is scaled to the page
ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "|": "$|$", "[": "{[}", "]": "{]}", '"': r"\textquotedbl{}",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "Δ": r"$\Delta$", "σ": r"$\sigma$",
    "×": r"$\times$", "−": "$-$", "–": "--", "—": "---", "…": r"\dots{}", "·": r"$\cdot$",
    "→": r"$\rightarrow$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≈": r"$\approx$",
    "≯": r"$\not>$",
    "▲": r"$\uparrow$", "▼": r"$\downarrow$", "≥": r"$\geq$", "≤": r"$\leq$", "²": r"$^2$",
    "’": "'", "“": "``", "”": "''", "\u00a0": "~", "±": r"$\pm$",
}  # fmt: skip


def write(tables: Sequence[Table], folder: Path, conditions: str) -> list[Path]:
    """One file a table; ``conditions`` is what stands below each of them."""
    folder.mkdir(exist_ok=True)
    written = []
    for one in tables:
        path = folder / f"{one.name}.tex"
        path.write_text(render(one, conditions), encoding="utf-8")
        written.append(path)
    return written


def render(table: Table, conditions: str) -> str:
    """A whole ``table`` environment."""
    wide = len(table.columns) > WIDE
    star = "*" if wide else ""
    packages = "booktabs,graphicx" if wide else "booktabs"
    lines = [rf"% Needs \usepackage{{{packages}}} in the preamble."]
    lines += [rf"\begin{{table{star}}}", r"\centering", rf"\caption{{{escape(table.title)}}}"]
    lines += [rf"\label{{tab:{label(table.name)}}}"]
    lines += [r"\resizebox{\textwidth}{!}{%"] if wide else [r"\small"]
    lines += [rf"\begin{{tabular}}{{{''.join(map(_align, table.columns))}}}", r"\toprule"]
    lines += [" & ".join(map(_head, table.columns)) + r" \\", r"\midrule"]
    for row in table.rows:
        cells = [_cell(c, column) for c, column in zip(row, table.columns, strict=True)]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}" + ("}" if wide else "")]
    footnote = " ".join(filter(None, (table.note, _legend(table), conditions)))
    lines += [rf"\par\smallskip{{\footnotesize {escape(footnote)}\par}}"]
    return "\n".join([*lines, rf"\end{{table{star}}}", ""])


LEGEND = "Bold: significant after Holm's correction; brackets: 95 % CI."
LEGENDS = {
    "arms": "Bold: the 95 % CI in brackets leaves out zero, without correction for the number of "
    "arms."
}


def escape(text: str) -> str:
    """Text that LaTeX prints as it stands; control characters go."""
    flat = " ".join(text.split())
    return "".join(ESCAPES.get(c, c) for c in flat if c.isprintable())


def label(name: str) -> str:
    """A name that can stand in ``\\label``."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)


def _legend(table: Table) -> str:
    if not any(cell.strong for row in table.rows for cell in row):
        return ""
    return LEGENDS.get(table.name, LEGEND)


def _align(column: Column) -> str:
    return "p{6cm}" if column.prose else "r" if column.numeric else "l"


def _head(column: Column) -> str:
    name = escape(column.title) + (" (mini)" if column.mini else "")
    if not column.unit:
        return name
    unit = rf"\scriptsize {escape(column.unit)}"
    return rf"\shortstack{{{name}\\{{{unit}}}}}"


def _cell(cell: Cell, column: Column) -> str:
    """Main line and interval, below them the second line; the second is what may be bold."""
    main = escape(cell.main)
    if cell.strong and not cell.sub:
        main = rf"\textbf{{{main}}}"
    if cell.note and cell.note != "mini" and not cell.sub:  # a verdict goes without saying: bold
        main += rf" {{\scriptsize {escape(cell.note)}}}"
    main += _small(cell.ci) + _small(cell.mark)
    if not cell.sub:
        return main
    sub = rf"\textbf{{{escape(cell.sub)}}}" if cell.strong else escape(cell.sub)
    side = "r" if column.numeric else "l"
    return rf"\shortstack[{side}]{{{main}\\{{\scriptsize {sub}{_small(cell.sub_ci)}}}}}"


def _small(ci: str) -> str:
    return rf" {{\scriptsize {escape(ci)}}}" if ci else ""
