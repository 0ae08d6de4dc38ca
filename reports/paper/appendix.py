"""``tables/appendix.tex``: every cell with its interval and test, and the pairs behind bold.

Long tables (booktabs and longtable), which run over pages. longtable knows one column only: in a
two-column document the file changes to one and back.
"""

from __future__ import annotations

import math

from reports import text
from reports.cell import UNSCORED, Score, Series
from reports.paper import names, notes
from reports.paper.layout import PAGE, Column, fit
from reports.paper.rows import Block, Names, blocks, name_rows
from reports.paper.tex import Piece, bold, breakable, escape, fine, piece, space
from reports.ranking import Ranked, Ranking
from reports.summary import Summary

MOST_PAIRS = 400
MOST_REASONS = 6
BEGIN = (
    r"\makeatletter\let\modsuiteback\relax",
    r"\if@twocolumn\onecolumn\let\modsuiteback\twocolumn\fi\makeatother",
)
END = r"\modsuiteback"
Line = list[Piece] | Piece
"""The cells of a row, or something that goes over all columns."""


def render(summary: Summary, ranking: Ranking) -> str:
    """The whole file."""
    found = blocks(summary, ranking)
    lines = [
        r"% Every cell of a run: \input it where the appendix is;",
        r"% needs \usepackage{booktabs,longtable}.",
        *BEGIN,
        *_cells(summary, ranking, found),
    ]
    pairs = _pairs(summary, ranking, found, name_rows(summary, found))
    return "\n".join([*lines, *pairs, END, ""])


def _cells(summary: Summary, ranking: Ranking, found: list[Block]) -> list[str]:
    heads = ["Bench", "n", "Score", "Δ to dense", "p adj.", "Verdict"]
    units = ["", "", "[95 % CI]", "[95 % CI]", "Holm", ""]
    lines: list[Line] = []
    for row in (row for block in found for row in block.rows):
        lines.append(bold(piece(_long_name(row.series))))
        lines += [_cell(summary, row.series, bench) for bench in summary.benches]
        if len(summary.benches) > 1 and row.complete:
            lines.append(_average(row, ranking))
    title = f"{notes.caption(summary)}: every cell with its interval and its test against dense"
    note = " ".join([*notes.metrics(summary), _note(summary), *_reasons(summary)])
    return _long("cells", title, heads, units, lines, "lrrrrl", note)


def _long_name(series: Series) -> str:
    said = ", ".join(names.parameters(series))
    model = series.label.removesuffix(f" ({series.model})") != series.label
    name = names.method(series.method) + (f" ({said})" if said else "")
    return f"{name}, {series.model}" if model else name


def _cell(summary: Summary, series: Series, bench: str) -> Line:
    cell, score = summary.cell(series, bench), summary.score(series, bench)
    mini = space() + fine("mini") if summary.is_mini_bench(bench) else Piece()
    head = piece(names.bench(bench)) + mini
    if score is None:
        why = "not run" if cell.status == "missing" else cell.status
        why = f"{UNSCORED}: {cell.waits}" if cell.waits else why
        return [head, Piece(), piece(text.GAP), Piece(), Piece(), piece(why)]
    unit = text.factor(summary, bench)
    n = text.number(score.n if not math.isnan(score.n) else cell.n, 0)
    shown = [head, piece(n), _value(score.value, score.low, score.high, unit)]
    if series.is_reference:
        return [*shown, piece(""), piece(""), piece("reference")]
    delta = _value(score.delta, score.delta_low, score.delta_high, unit, signed=True)
    return [*shown, delta, p_value(score.p_adjusted), piece(_verdict(score))]


def _verdict(score: Score) -> str:
    if score.is_same:
        return "same answers"
    return "budget missed" if text.missed_budget(score) else score.verdict or text.GAP


def _reasons(summary: Summary) -> list[str]:
    """Why cells failed, each reason once."""
    found = dict.fromkeys(
        f"{names.method(series.method)} on {names.bench(bench)}: {cell.error}"
        for series in summary.series
        for bench in summary.benches
        if (cell := summary.cell(series, bench)).status == "failed" and cell.error
    )
    shown = list(found)[:MOST_REASONS]
    more = len(found) - len(shown)
    return [f"Failed: {'; '.join(shown)}{f'; and {more} more' if more else ''}."] if shown else []


def _average(row: Ranked, ranking: Ranking) -> Line:
    n = piece(text.number(row.n, 0))
    shown = [piece("Average"), n, _value(row.average, row.low, row.high, 100)]
    if row.reference is None or not row.reference.is_reference:
        pair = None
    else:
        pair = ranking.pairs.get(row.series, row.reference)
    if pair is None:
        return [*shown, Piece(), Piece(), piece("reference" if row.series.is_reference else "")]
    delta = _value(pair.delta, pair.low, pair.high, 100, signed=True)
    return [*shown, delta, p_value(row.p_adjusted), piece(row.verdict)]


def _value(value: float, low: float, high: float, unit: float, signed: bool = False) -> Piece:
    if math.isnan(value):
        return piece(text.GAP)
    ci = text.interval(low * unit, high * unit, signed=signed)
    shown = piece(text.number(value * unit, signed=signed))
    return shown + space() + fine(ci) if ci else shown


def p_value(p: float) -> Piece:
    return piece("< 0.001" if p < 0.001 else text.number(p, 3))


def _note(summary: Summary) -> str:
    known = any(
        summary.score(s, b) and not math.isnan(summary.score(s, b).margin)  # type: ignore[union-attr]
        for s in summary.series
        for b in summary.benches
    )
    margin = "the run's margin" if known else "the margin"
    return (
        "Δ: paired on the same documents. p: corrected by Holm's method over all rows and benches "
        "(averages: over the rows). Non-inferior: not settled as a loss, and the whole interval "
        f"lies above a loss of {margin}; inconclusive: neither."
    )


def _pairs(summary: Summary, ranking: Ranking, found: list[Block], called: Names) -> list[str]:
    """Method against method at comparable budgets; nothing where the run has no such tests."""
    unit = notes.points(summary)
    lines: list[Line] = []
    count = 0
    for block in found:
        own: list[Line] = []
        for at, one in enumerate(block.rows):
            for other in block.rows[at + 1 :]:
                pair = ranking.pairs.get(one.series, other.series)
                if pair is None or not pair.comparable:
                    continue
                delta = _value(pair.delta, pair.low, pair.high, unit, signed=True)
                both = [called.shown[row.series] for row in (one, other)]
                own.append([*both, delta, p_value(pair.p_adjusted), piece(pair.told)])
        count += len(own)
        if own and block.title:
            lines.append(Piece(rf"\emph{{{escape(block.title)}}}"))
        lines += own
    if not count:
        return []
    if count > MOST_PAIRS:
        return [f"% {count} pairs of methods at comparable budgets: see comparisons.csv."]
    title = f"{notes.caption(summary)}: rows against each other at comparable budgets"
    several = len(summary.benches) > 1
    on = "the average" if several else names.bench(summary.benches[0])
    heads = ["Method", "against", f"Δ of {on}", "p adj.", "Verdict"]
    note = (
        "Paired on the same documents; verdict and sign are the first row's. p: corrected by "
        "Holm's method over all comparable pairs" + (" on the average." if several else " here.")
    )
    note = " ".join([note, *(f"{mark}." for mark in called.marks)])
    return _long("pairs", title, heads, ["", "", "[95 % CI]", "Holm", ""], lines, "llrrl", note)


def _long(
    name: str, title: str, heads: list[str], units: list[str], lines: list[Line], align: str,
    note: str,
) -> list[str]:  # fmt: skip
    """A table over pages, its heading on each of them."""
    cells = [line for line in lines if isinstance(line, list)]
    columns = [
        Column(piece(head), fine(unit), [line[i] for line in cells], left=align[i] == "l")
        for i, (head, unit) in enumerate(zip(heads, units, strict=True))
    ]
    part = fit(columns, PAGE)
    size, gap = (part.size, part.gap) if part else ("scriptsize", 2.0)
    count = len(columns)
    head = [
        r"\toprule",
        " & ".join(_head(c.head, c.left) for c in columns) + r" \\",
        " & ".join(_head(c.unit, c.left) for c in columns) + r" \\",
        r"\midrule",
    ]
    over = rf"\multicolumn{{{count}}}{{@{{}}p{{{PAGE - 10:g}pt}}@{{}}}}"
    body = []
    for number, line in enumerate(lines):
        if isinstance(line, list):
            body.append(" & ".join(one.code for one in line) + r" \\")
        else:
            rule = [r"\addlinespace"] if number else []
            body += [*rule, rf"{over}{{\raggedright {line.code}}} \\*"]
    return [
        r"\begingroup",
        rf"\{size}\setlength{{\tabcolsep}}{{{gap:g}pt}}",
        rf"\begin{{longtable}}{{@{{}}{align}@{{}}}}",
        rf"\caption{{{breakable(title)}}}\label{{tab:{name}}}\\",
        *head,
        r"\endfirsthead",
        *head,
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
        *body,
        r"\end{longtable}",
        rf"{{\centering\parbox{{{PAGE:g}pt}}{{\footnotesize\raggedright {breakable(note)}}}\par}}",
        r"\endgroup",
        r"\medskip",
    ]


def _head(shown: Piece, left: bool) -> str:
    return shown.code if left else rf"\multicolumn{{1}}{{r}}{{{shown.code}}}"
