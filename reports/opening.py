"""The first sentences of a report: what leads, what is settled between methods, what beats chance.

Nothing is said that the tests do not say; what stays open is said to be open.
"""

from __future__ import annotations

import math

from methods import names
from reports import fronts, text
from reports.cell import Score, Series
from reports.pairs import Pair
from reports.ranking import NEAR, Ranked, Ranking
from reports.summary import Summary

MOST_BUDGETS, MOST_WINNERS, MOST_NAMES = 3, 2, 3


def sentences(summary: Summary, ranking: Ranking) -> list[str]:
    """At most a handful, the most telling first; empty for a run without scores."""
    found = [*leaders(summary, ranking), *settled(summary, ranking)]
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
    name = f"{where}{_name(best.series)}" if where else _name(best.series)
    unit, scale = _unit(summary)
    value, low, high = _value(summary, best, scale)
    shown = f"{text.number(value)}{unit} {text.interval(low, high)}".rstrip()
    said = f"{name} scores highest: {shown} {_on(summary, ranking)}"
    ties = [
        r
        for r in rows
        if r is not best and not _is(ranking.pairs.get(best.series, r.series), "better")
    ]
    if ties and len(rows) > 1:
        several = f"{len(ties)} others" if len(ties) > MOST_NAMES else ""
        said += f", not separable from {several or text.listing([_name(r.series) for r in ties])}"
    if best.reference is not None and not math.isnan(best.delta):
        of = f"{text.percent(best.of_dense)} of dense, " if not math.isnan(best.of_dense) else ""
        word = {"better": "better", "worse": "worse", "non-inferior": "not worse"}
        verdict = word.get(best.verdict, "open")
        said += f"; {of}{_points(best.delta, best.delta_low, best.delta_high, scale)} to "
        said += f"{_name(best.reference)} ({verdict})"
    return said + "."


def settled(summary: Summary, ranking: Ranking) -> list[str]:
    """Who beats whom at the same KV cache, a sentence a winner; else that nobody does."""
    scale = _unit(summary)[1]
    rows = [r for r in ranking.rows if r.complete and not r.series.is_blind]
    wins: list[tuple[Ranked, list[tuple[Ranked, Pair]], list[Ranked]]] = []
    compared = 0
    for row in rows:
        if row.series.is_reference or row.series.is_control:
            continue
        beaten, open_ = [], []
        for other in rows:
            pair = ranking.pairs.get(row.series, other.series) if other is not row else None
            if pair is None or not pair.comparable:
                continue
            compared += 1
            if _is(pair, "better"):
                beaten.append((other, pair))
            elif not _is(pair, "worse") and not other.series.is_control:
                open_.append(other)
        if beaten:
            wins.append((row, beaten, open_))
    if not compared:
        return []
    own = [w for w in wins if w[0].series.method not in names()]
    told = (own + [w for w in wins if w not in own])[:MOST_WINNERS]
    said = [_win(row, beaten, open_, scale) for row, beaten, open_ in told]
    more = len(wins) - len(told)
    if more:
        said[-1] += f" {text.plural(more, 'more row')} beat{'s' if more == 1 else ''} another."
    if not wins:
        n = text.sample_count(summary)
        return [f"No two methods at the same KV cache are separable ({n})."]
    return said


def pairs_finding(summary: Summary, ranking: Ranking) -> str:
    """How many pairs at one budget are settled, and the largest difference among them."""
    scale = _unit(summary)[1]
    order = [r.series for r in ranking.rows if r.complete]
    found = [
        (a, b, pair)
        for i, a in enumerate(order)
        for b in order[i + 1 :]
        if (pair := ranking.pairs.get(a, b)) is not None and pair.comparable
    ]
    told = [one for one in found if one[2].settled]
    said = f"{len(told)} of {text.plural(len(found), 'pair')} at the same KV cache are settled"
    if told:
        a, b, pair = max(told, key=lambda one: abs(one[2].delta))
        if pair.delta < 0:
            a, b, pair = b, a, pair.turned
        ci = text.interval(pair.low * scale, pair.high * scale)
        by = f"{text.number(pair.delta * scale)} {ci}".rstrip()
        said += f"; the widest is {_name(a)} over {_name(b)} by {by}"
    return said + "."


def front(summary: Summary, chances: fronts.Fronts) -> str:
    """Who stands on the front of accuracy and prefill, and how surely."""
    bench = fronts.AVERAGE if chances.of(fronts.AVERAGE) else "".join(summary.benches[:1])
    places = [(s, p) for s, p in chances.of(bench).items() if not s.is_reference]
    on = sorted((one for one in places if one[1].on_front), key=lambda one: -one[1].probability)
    if not on:
        return ""
    named = [f"{_name(s)} ({fronts.percent(p.probability)} of draws)" for s, p in on]
    where = "average" if bench == fronts.AVERAGE else bench
    return f"Nothing is as cheap and better on the {where} than {text.listing(named)}."


def benches(summary: Summary) -> str:
    """Where methods lose most: the widest settled loss to dense."""
    losses = [
        (score, series, bench)
        for series in summary.series
        for bench in summary.benches
        if not (series.is_reference or series.is_control)
        and (score := summary.score(series, bench)) is not None
        and score.significant
    ]
    told = sum(1 for s in summary.series for b in summary.benches if _tested(summary, s, b))
    if not losses:
        return f"No method differs from dense on a bench beyond chance ({told} tests)."
    score, series, bench = min(losses, key=lambda one: one[0].delta * text.factor(summary, one[2]))
    unit = text.factor(summary, bench)
    change = _points(score.delta, score.delta_low, score.delta_high, unit)
    said = f"{len(losses)} of {told} differences to dense are settled; "
    return f"{said}the widest is {_name(series)} on {bench}, {change} points."


def changed(summary: Summary) -> str:
    """Who changes most answers, and who fewest."""
    shares = {
        series: sum(s.right_to_wrong + s.wrong_to_right for s in known) / n
        for series in summary.series
        if not (series.is_reference or series.is_control)
        and (known := _counted(summary, series))
        and (n := sum(s.n_paired for s in known))
    }
    if not shares:
        return ""
    most, least = (pick(shares, key=lambda s: shares[s]) for pick in (max, min))
    said = f"{_name(most)} changes whether {text.percent(shares[most], 1)} of the answers are right"
    if least is most:
        return said + "."
    return f"{said}, the most; {_name(least)} {text.percent(shares[least], 1)}, the fewest."


def _counted(summary: Summary, series: Series) -> list[Score]:
    scores = [summary.score(series, bench) for bench in summary.benches]
    return [s for s in scores if s is not None and s.n_paired > 0]


def _tested(summary: Summary, series: Series, bench: str) -> bool:
    score = summary.score(series, bench)
    return not (series.is_reference or series.is_control) and bool(score and score.verdict)


def chance(ranking: Ranking) -> str:
    """Which methods are not shown to beat random tokens at their own budget."""
    rows = [r for r in _methods(ranking) if r.held]
    short = [r for r in rows if not r.above]
    if not rows:
        return ""
    if not short:
        every = all(r.above_random for r in rows)
        return "Every method beats random tokens at its budget." if every else ""
    named = [_name(r.series) for r in short]
    if len(named) > 2 * MOST_NAMES:
        many = f"{len(named)} of {len(rows)} methods are"
        return f"{many} not shown to beat random tokens at their budget."
    return f"Not shown to beat random tokens at the same budget: {text.listing(named)}."


def _win(row: Ranked, beaten: list[tuple[Ranked, Pair]], open_: list[Ranked], scale: float) -> str:
    ordered = sorted(beaten, key=lambda pair: (pair[0].series.is_control, -pair[1].delta))
    parts = [
        f"{_name(other.series)} by {text.number(pair.delta * scale)} "
        f"{text.interval(pair.low * scale, pair.high * scale)}".rstrip()
        for other, pair in ordered[:MOST_NAMES]
    ]
    if len(ordered) > MOST_NAMES:
        parts.append(text.plural(len(ordered) - MOST_NAMES, "other row"))
    said = f"{_name(row.series)} beats {text.listing(parts)} at the same KV cache"
    if open_:
        named = [_name(r.series) for r in open_[:MOST_NAMES]]
        more = len(open_) - len(named)
        named += [text.plural(more, "other")] if more > 0 else []
        said += f"; not separable from {text.listing(named)}"
    return said + "."


def _methods(ranking: Ranking) -> list[Ranked]:
    return [r for r in ranking.rows if not (r.series.is_reference or r.series.is_control)]


def _is(pair: Pair | None, word: str) -> bool:
    return pair is not None and pair.comparable and pair.told == word


def _name(series: Series) -> str:
    return series.short or series.label


def _unit(summary: Summary) -> tuple[str, float]:
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


def _points(delta: float, low: float, high: float, scale: float) -> str:
    ci = text.interval(low * scale, high * scale, signed=True)
    return f"{text.number(delta * scale, signed=True)} {ci}".rstrip()
