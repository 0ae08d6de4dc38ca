"""The first sentences of a report: what leads, what is settled between methods, what beats chance.

Nothing is said that the tests do not say; what stays open is said to be open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from methods import REGISTRY
from reports import text
from reports.cell import Series
from reports.pairs import Pair
from reports.ranking import NEAR, Ranked, Ranking
from reports.summary import Summary

BUDGETS = ("kv=", "ratio=", "tokens=")
MOST, MOST_BUDGETS, MOST_OWN, MOST_NAMES = 4, 3, 3, 3


def sentences(summary: Summary, ranking: Ranking) -> list[str]:
    """At most a handful, the most telling first; empty for a run without scores."""
    found = leaders(summary, ranking)
    found += settled(summary, ranking, max(1, MOST - len(found)))
    return [one for one in [*found, chance(ranking)] if one]


def leaders(summary: Summary, ranking: Ranking) -> list[str]:
    """The best row of each budget, with what it keeps of dense."""
    rows = [r for r in _methods(ranking) if r.complete]
    budgets: list[list[Ranked]] = []
    for row in sorted((r for r in rows if not math.isnan(r.kv)), key=lambda r: -r.kv):
        near = budgets and abs(budgets[-1][0].kv - row.kv) <= NEAR + 1e-9
        (budgets[-1].append(row) if near else budgets.append([row]))
    several = [group for group in budgets if len(group) > 1]
    if not several:
        return [_leader(summary, ranking, rows, "")] if rows else []
    return [
        _leader(summary, ranking, group, f"At {text.percent(group[0].kv)} of the image's KV cache ")
        for group in several[:MOST_BUDGETS]
    ]


def _leader(summary: Summary, ranking: Ranking, rows: list[Ranked], where: str) -> str:
    best = max(rows, key=lambda r: r.average)
    called = bare if where else name
    who = f"{where}{called(best.series)}"
    unit, scale = unit_of(summary)
    value, low, high = _value(summary, best, scale)
    shown = f"{text.number(value)}{unit} {text.interval(low, high)}".rstrip()
    waiting = sum(not r.complete for r in _methods(ranking))
    alone = waiting and len(rows) == 1  # the first that is done leads nobody yet
    leads = "scores" if alone else "scores highest of the methods:"
    said = f"{who} {leads} {shown} {_on(summary, ranking)}"
    if waiting:
        said += f" ({text.plural(waiting, 'other row')} not done on every bench)"
    ties = [
        r
        for r in rows
        if r is not best
        and (pair := ranking.pairs.get(best.series, r.series)) is not None
        and pair.comparable
        and not _is(pair, "better")
        and not _column_settles(best, r)
    ]
    if not where and len(rows) > 1 and not ties:
        said += ", at a KV cache of its own" if _apart(best, rows, ranking) else ""
    if ties and len(rows) > 1:
        several = f"{len(ties)} others" if len(ties) > MOST_NAMES else ""
        said += f", not separable from {several or text.listing([called(r.series) for r in ties])}"
    if best.reference is not None and not math.isnan(best.delta):
        of = f"{text.percent(best.of_dense)} of dense, " if not math.isnan(best.of_dense) else ""
        word = {"better": "better", "worse": "worse", "non-inferior": "not worse"}
        verdict = word.get(best.verdict, "open")
        said += f"; {of}{points(best.delta, best.delta_low, best.delta_high, scale)} to "
        said += f"{called(best.reference)} ({verdict})"
    return said + "."


def _apart(best: Ranked, rows: list[Ranked], ranking: Ranking) -> bool:
    """Whether no other of the rows keeps as much, so that none is compared with it."""
    pairs = [ranking.pairs.get(best.series, r.series) for r in rows if r is not best]
    return bool(ranking.pairs.found) and not any(pair and pair.comparable for pair in pairs)


@dataclass(frozen=True)
class Standing:
    """One row among those that keep as much: what it beats, loses to, and is not told from."""

    row: Ranked
    beaten: list[tuple[Ranked, Pair]]
    lost: list[tuple[Ranked, Pair]]
    open: list[Ranked]


def settled(summary: Summary, ranking: Ranking, room: int) -> list[str]:
    """Who beats whom at the same KV cache; a method of the reader's own first, whatever it did."""
    found = [one for row in _methods(ranking) if (one := _standing(row, ranking)) is not None]
    if not found:
        return []
    own = [one for one in found if not _ships(one.row.series)][:MOST_OWN]
    wins = [one for one in found if one.beaten and one not in own]
    told = [*own, *wins[: max(0, room - len(own))]]
    if not told:
        n = text.sample_count(summary)
        return [f"No two methods at the same KV cache are separable ({n})."]
    scale = unit_of(summary)[1]
    said = [_told(summary, one, scale) for one in told]
    more = len([one for one in wins if one not in told])
    if more:
        said[-1] += f" {text.plural(more, 'more row')} beat{'s' if more == 1 else ''} another."
    return said


def _standing(row: Ranked, ranking: Ranking) -> Standing | None:
    """None where no other row is comparable."""
    found = Standing(row, [], [], [])
    for other in ranking.rows:
        if other is row or not (row.complete and other.complete) or other.series.is_blind:
            continue
        pair = ranking.pairs.get(row.series, other.series)
        if pair is None or not pair.comparable:
            continue
        if pair.settled:
            (found.beaten if pair.told == "better" else found.lost).append((other, pair))
        else:
            found.open.append(other)
    return found if found.beaten or found.lost or found.open else None


def bare(series: Series) -> str:
    """A row's name without its budget, where the sentence says the budget."""
    words = name(series).split()
    kept = [word for word in words if not word.startswith(BUDGETS)]
    return " ".join(kept) or name(series)


def _ships(series: Series) -> bool:
    """Whether a method is one of ours; a file's is not, also while it is registered."""
    entry = REGISTRY.get(series.method)
    return entry is not None and entry.target.startswith("methods.")


def chance(ranking: Ranking) -> str:
    """Which methods are not shown to beat random tokens at their own budget."""
    rows = [r for r in _methods(ranking) if r.held]
    short = [r for r in rows if not r.above]
    if not rows:
        return ""
    if not short:
        every = all(r.above_random for r in rows)
        return "Every method beats random tokens at its budget." if every else ""
    named = [name(r.series) for r in short]
    if len(named) > 2 * MOST_NAMES:
        many = f"{len(named)} of {len(rows)} rows are"
        return f"{many} not shown to beat random tokens at their budget."
    return f"Not shown to beat random tokens at the same budget: {text.listing(named)}."


def _told(summary: Summary, one: Standing, scale: float) -> str:
    row, parts = one.row, []
    who = bare(row.series)
    where = "at the same KV cache"
    where += f" ({text.percent(row.kv)})" if who != name(row.series) else ""
    for word, pairs in (("beats", one.beaten), ("loses to", one.lost)):
        if pairs:
            parts.append(f"{word} {_listed(summary, row, pairs, scale)}")
    told = [r for r in one.open if _column_settles(row, r)]
    column = "".join(_in_the_column(summary, row, r, scale) for r in told)
    others = [r for r in one.open if not _column_settles(row, r)]
    if not parts:
        if not others:
            return f"{who} {where}: no pair settled{column}."
        return f"{who} is not separable from {_open(summary, row, others)} {where}{column}."
    said = f"{who} {' and '.join(parts)} {where}{column}"
    others = [r for r in others if not r.series.is_control]
    if others:
        said += f"; not separable from {_open(summary, row, others)}"
    return said + "."


def _column_settles(row: Ranked, other: Ranked) -> bool:
    """Whether the table settles a row against its reference, which all pairs together leave open.

    The table corrects over its column, the sentences over all comparable pairs.
    """
    return row.reference == other.series and row.verdict in ("better", "worse")


def _in_the_column(summary: Summary, row: Ranked, other: Ranked, scale: float) -> str:
    ends = (row.delta_low, row.delta_high) if row.delta >= 0 else (-row.delta_high, -row.delta_low)
    low, high = (end * scale for end in ends)
    by = f"{text.number(abs(row.delta) * scale)} {text.interval(low, high)}".rstrip()
    named = _numbered(summary, other, row)
    return f"; {row.verdict} than {named} by {by} in the table's column, open among all pairs"


def _listed(summary: Summary, row: Ranked, pairs: list[tuple[Ranked, Pair]], scale: float) -> str:
    """Methods before controls, the widest difference first."""
    ordered = sorted(pairs, key=lambda one: (one[0].series.is_control, -abs(one[1].delta)))
    parts = []
    for other, pair in ordered[:MOST_NAMES]:
        shown = pair if pair.delta >= 0 else pair.turned
        ci = text.interval(shown.low * scale, shown.high * scale)
        by = f"{text.number(shown.delta * scale)} {ci}".rstrip()
        parts.append(f"{_numbered(summary, other, row)} by {by}")
    if len(ordered) > MOST_NAMES:
        parts.append(text.plural(len(ordered) - MOST_NAMES, "other row"))
    return text.listing(parts)


def _open(summary: Summary, row: Ranked, others: list[Ranked]) -> str:
    named = [_numbered(summary, r, row) for r in others[:MOST_NAMES]]
    more = len(others) - len(named)
    return text.listing([*named, *([text.plural(more, "other")] if more > 0 else [])])


def _numbered(summary: Summary, other: Ranked, row: Ranked) -> str:
    """A row's name, and how it numbers its tokens where that is not how the first one does."""
    ours, theirs = summary.positions(row.series), summary.positions(other.series)
    differ = ours and theirs and ours != theirs
    said = f" (numbered {'anew' if theirs == 'compact' else 'as the image'})" if differ else ""
    return f"{bare(other.series)}{said}"


def _methods(ranking: Ranking) -> list[Ranked]:
    return [r for r in ranking.rows if not (r.series.is_reference or r.series.is_control)]


def _is(pair: Pair | None, word: str) -> bool:
    return pair is not None and pair.comparable and pair.told == word


def name(series: Series) -> str:
    """How sentences call a row."""
    return series.short or series.label


def unit_of(summary: Summary) -> tuple[str, float]:
    """Unit and factor of averages: percent, or the scale of the only bench."""
    if len(summary.benches) == 1:
        scale = text.factor(summary, summary.benches[0])
        return (" %" if scale == 100 else ""), scale
    return " %", 100.0


def _value(summary: Summary, row: Ranked, scale: float) -> tuple[float, float, float]:
    """A row's average as it is shown; of a single bench its own score, whatever its scale."""
    score = summary.score(row.series, summary.benches[0]) if len(summary.benches) == 1 else None
    if score is not None:
        return score.value * scale, score.low * scale, score.high * scale
    return row.average * scale, row.low * scale, row.high * scale


def _on(summary: Summary, ranking: Ranking) -> str:
    if len(summary.benches) == 1:
        return f"on {summary.benches[0]}"
    return f"on the average of {text.plural(ranking.benches, 'bench', 'benches')}"


def points(delta: float, low: float, high: float, scale: float) -> str:
    """A signed difference with its interval."""
    ci = text.interval(low * scale, high * scale, signed=True)
    return f"{text.number(delta * scale, signed=True)} {ci}".rstrip()
