"""The rows of the paper's tables: dense, then the methods by budget, best first, then no image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from string import ascii_lowercase

from methods.budget import NAMES as BUDGETS
from reports import text
from reports.cell import Series
from reports.pairs import Pairs
from reports.paper import names
from reports.paper.tex import Piece, breakable, fine, italic, piece, raised, space, width
from reports.ranking import NEAR, Ranked, Ranking
from reports.summary import Summary

LONGEST = 9.0
"""Ems that the name of a row may take in a table."""


@dataclass
class Block:
    """Rows between two rules; ``title`` stands above them where it is not empty."""

    rows: list[Ranked]
    title: str = ""
    is_budget: bool = False
    """Whether the title says which budget all of the rows have."""

    @property
    def has_methods(self) -> bool:
        return not all(r.series.is_reference or r.series.is_blind for r in self.rows)


@dataclass
class Names:
    """What each row is called in a table, and what the note has to add."""

    shown: dict[Series, Piece] = field(default_factory=dict)
    marks: list[str] = field(default_factory=list)
    """``a: k=3, r=0.75`` of parameters that are too long for a name."""
    settings: list[str] = field(default_factory=list)
    """``FastV k=3, r=0.75`` of rows whose name says nothing of it."""


def blocks(summary: Summary, ranking: Ranking) -> list[Block]:
    """All rows of a run in the order of the tables."""
    models = list(dict.fromkeys(row.series.model for row in ranking.rows))
    found = []
    for model in models:
        mine = [row for row in ranking.rows if row.series.model == model]
        own = _of_model(summary, mine)
        if len(models) > 1:
            for block in own:
                block.title = f"{model}, {block.title}" if block.title else ""
            first = next(block for block in own if block.rows)
            first.title = first.title or model
        found += own
    return [block for block in found if block.rows]


def _of_model(summary: Summary, rows: list[Ranked]) -> list[Block]:
    dense = [row for row in rows if row.series.is_reference]
    blind = [row for row in rows if row.series.is_blind]
    budgets = by_budget([r for r in rows if not r.series.is_reference and not r.series.is_blind])
    several = [b for b in budgets if sum(not r.series.is_control for r in b) > 1]
    rest = sum(len(b) for b in budgets)
    if len(several) > 1 and len(budgets) <= rest / 2:
        found = [Block(block, _title(summary, block), True) for block in budgets]
    else:
        found = [Block([row for row in rows if row not in dense and row not in blind])]
    return [Block(dense), *found, Block(blind)]


def by_budget(rows: list[Ranked]) -> list[list[Ranked]]:
    """Rows that keep as much of the image's KV cache, largest first; each in its given order."""
    starts: list[float] = []
    for kv in sorted((row.kv for row in rows if not math.isnan(row.kv)), reverse=True):
        if not starts or kv < starts[-1] - NEAR - 1e-9:
            starts.append(kv)
    found: list[list[Ranked]] = [[] for _ in [*starts, math.nan]]
    for row in rows:
        at = sum(row.kv < start - NEAR - 1e-9 for start in starts)
        found[len(starts) if math.isnan(row.kv) else at].append(row)
    return [block for block in found if block]


def _title(summary: Summary, rows: list[Ranked]) -> str:
    known = [row.kv for row in rows if not math.isnan(row.kv)]
    if not known:
        return "KV share not counted"
    low, high = (text.number(100 * kv, 0) for kv in (min(known), max(known)))
    share = f"{low} %" if low == high else f"{low}–{high} %"
    said = f"{share} of the image's KV cache"
    tokens = {asked(summary, row.series) for row in rows if not row.series.is_control}
    only = next(iter(tokens)) if len(tokens) == 1 else None
    return f"{only:g} image tokens: {said}" if only else said


def asked(summary: Summary, series: Series) -> float | None:
    """The budget in tokens that a row was given, else None."""
    for bench in summary.benches:
        score = summary.score(series, bench)
        if score and score.budget_unit == "tokens" and not math.isnan(score.budget_asked):
            return score.budget_asked
    return None


def has_budget(summary: Summary, series: Series) -> bool:
    scores = (summary.score(series, bench) for bench in summary.benches)
    return any(score and not math.isnan(score.budget_asked) for score in scores)


def name_rows(summary: Summary, found: list[Block]) -> Names:
    """Short names, alike in no block: the method's, with parameters only where rows need them."""
    out = Names()
    for block in found:
        for series in (row.series for row in block.rows):
            alike = [r.series for r in block.rows if r.series.method == series.method]
            own = _parameters(summary, series, block.is_budget)
            others = [set(_parameters(summary, s, block.is_budget)) for s in alike]
            differ = [p for p in own if not all(p in other for other in others)]
            out.shown[series] = _name(series, differ if len(alike) > 1 else None, out)
            rest = [p for p in own if len(alike) == 1 or p not in differ]
            line = f"{names.method(series.method)} {', '.join(rest)}"
            if rest and line not in out.settings:
                out.settings.append(line)
    return out


def _parameters(summary: Summary, series: Series, titled: bool) -> list[str]:
    """All that a block's title does not say already."""
    own = names.parameters(series)
    if titled and has_budget(summary, series):
        own = [p for p in own if p.partition("=")[0] not in BUDGETS]
    return own


def _name(series: Series, differ: list[str] | None, out: Names) -> Piece:
    plain = names.method(series.method)
    said = f"({', '.join(differ) or 'default'})" if differ is not None else ""
    if differ and width(plain) + 0.9 * width(said) > LONGEST:
        mark = _letter(len(out.marks))
        out.marks.append(f"{mark}: {', '.join(differ)}")
        shown = _short(plain) + raised(mark)
    else:
        shown = _short(plain) + (space() + fine(said) if said else Piece())
    return italic(shown) if series.is_control or series.is_blind else shown


def _short(plain: str) -> Piece:
    """A name, over several lines where it is too long for one."""
    if width(plain) <= LONGEST:
        return piece(plain)
    code = rf"\parbox[t]{{{LONGEST:g}em}}{{\raggedright {breakable(plain)}\strut}}"
    return Piece(code, LONGEST)


def _letter(number: int) -> str:
    more, at = divmod(number, len(ascii_lowercase))
    return (_letter(more - 1) if more else "") + ascii_lowercase[at]


class Medals:
    """Who is settled best and second among the rows of a block, bench by bench."""

    def __init__(self, summary: Summary, pairs: Pairs) -> None:
        self.summary, self.pairs = summary, pairs
        self.comparable = {
            frozenset((a, b)) for (a, b, _), pair in pairs.found.items() if pair.comparable
        }

    def of(self, rows: list[Ranked], bench: str | None) -> dict[Series, str]:
        """``best`` and ``second`` on a bench, or (None) on the average of all.

        Settled against every other row at a comparable budget, controls included: all of its
        paired differences are better after Holm. The second is beaten by the best alone.
        """
        rivals = [row.series for row in rows if self._scored(row, bench)]
        found: dict[Series, str] = {}
        for series in rivals:
            told = sorted(self._told(series, other, bench) for other in rivals if other != series
                          and frozenset((series, other)) in self.comparable)  # fmt: skip
            if told and told[-1] == "better" == told[0]:
                found[series] = "best"
            elif len(told) > 1 and told == ["better"] * (len(told) - 1) + ["worse"]:
                found[series] = "second"
        return found if "best" in found.values() else {}

    def _scored(self, row: Ranked, bench: str | None) -> bool:
        if row.series.is_reference or row.series.is_blind:
            return False
        return row.complete if bench is None else bool(self.summary.score(row.series, bench))

    def _told(self, a: Series, b: Series, bench: str | None) -> str:
        pair = self.pairs.get(a, b, bench)
        return pair.told if pair is not None else ""
