"""What a section of the report found, in a sentence with number and interval."""

from __future__ import annotations

import math

from reports import evidence, fronts, retention, text
from reports.cell import Score, Series
from reports.controls import RANDOM, Rivals
from reports.opening import name, points, unit_of
from reports.ranking import Ranking
from reports.summary import Summary


def pairs(summary: Summary, ranking: Ranking) -> str:
    """How many pairs at one budget are settled, and the largest difference among them."""
    scale = unit_of(summary)[1]
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
        said += f"; the widest is {name(a)} over {name(b)} by {by}"
    return said + "."


def front(summary: Summary, chances: fronts.Fronts) -> str:
    """Who stands on the front of accuracy and prefill, and how surely."""
    bench = fronts.AVERAGE if chances.of(fronts.AVERAGE) else "".join(summary.benches[:1])
    places = [(s, p) for s, p in chances.of(bench).items() if not s.is_reference]
    on = sorted((one for one in places if one[1].on_front), key=lambda one: -one[1].probability)
    if not on:
        return ""
    named = [f"{name(s)} ({fronts.percent(p.probability)} of draws)" for s, p in on]
    where = "average" if bench == fronts.AVERAGE else bench
    whole = all(summary.score(s, b) for s in summary.series for b in summary.benches)
    of = "" if whole or bench != fronts.AVERAGE else "Of the rows that have every bench: "
    said = f"nothing is as cheap and better on the {where} than {text.listing(named)}."
    return f"{of}{said if of else said[0].upper() + said[1:]}"


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
    change = points(score.delta, score.delta_low, score.delta_high, unit)
    said = f"{len(losses)} of {told} differences to dense are settled; "
    return f"{said}the widest is {name(series)} on {bench}, {change} points."


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
    said = f"{name(most)} changes whether {text.percent(shares[most], 1)} of the answers are right"
    if least is most:
        return said + "."
    return f"{said}, the most; {name(least)} {text.percent(shares[least], 1)}, the fewest."


def _counted(summary: Summary, series: Series) -> list[Score]:
    scores = [summary.score(series, bench) for bench in summary.benches]
    return [s for s in scores if s is not None and s.n_paired > 0]


def _tested(summary: Summary, series: Series, bench: str) -> bool:
    score = summary.score(series, bench)
    return not (series.is_reference or series.is_control) and bool(score and score.verdict)


def controls(summary: Summary, rivals: Rivals) -> str:
    """Who stands furthest above random tokens at its budget, and who does not."""
    told = {
        (series, bench): rival
        for (series, bench, control), rival in rivals.found.items()
        if control == RANDOM and rival.is_matched and rival.verdict
    }
    above = {key: rival for key, rival in told.items() if rival.verdict == "above"}
    if not told:
        return ""
    said = f"Above random tokens at the same budget in {len(above)} of {len(told)} comparisons"
    if above:
        widest = max(above, key=lambda key: above[key].delta * text.factor(summary, key[1]))
        rival, unit = above[widest], text.factor(summary, widest[1])
        by = points(rival.delta, rival.low, rival.high, unit)
        said += f"; furthest {name(widest[0])} on {widest[1]}, {by} points"
    return said + "."


def kept(summary: Summary) -> str:
    """Who keeps most and least of the image, as a mean over layers."""
    shares = _kept(summary)
    if len(shares) < 2:
        return ""
    most, least = (pick(shares, key=lambda s: shares[s]) for pick in (max, min))
    return (
        f"Of the image's tokens, layers process between {text.percent(shares[least])} "
        f"({name(least)}) and {text.percent(shares[most])} ({name(most)}), mean over layers and "
        "benches."
    )


def recall(summary: Summary) -> str:
    """Who finds the patches that bear the answer better than by chance, and who worse."""
    frame = evidence.frame_of(summary)
    frame = frame[(frame["scope"] == "mean") & (frame["answered"] == "all")]
    kept_of = retention.frame_of(summary)
    kept_of = kept_of[kept_of["kind"] == "image"]
    shares = kept_of.groupby(["series", "bench"])["kept_fraction"].mean()
    found = [
        (row.recall - share, summary.series[int(row.series)], row, share)
        for row in frame.itertuples()
        if not math.isnan(share := float(shares.get((row.series, row.bench), math.nan)))
        and share < 0.995
    ]
    found = [one for one in found if not one[1].is_control]
    if not found:
        return ""
    parts = []
    for pick, word in ((max, "most above"), (min, "least above")):
        over, series, row, share = pick(found, key=lambda one: one[0])
        ci = text.interval(100 * row.ci_low, 100 * row.ci_high)
        parts.append(
            f"{name(series)} on {row.bench} {word} its share: {text.percent(row.recall, 1)} {ci} "
            f"of the answer-bearing patches, {text.percent(share, 1)} of all"
        )
        if over == found[0][0] and len(found) == 1:
            break
    return "; ".join(dict.fromkeys(parts)) + "."


def _kept(summary: Summary) -> dict[Series, float]:
    frame = retention.frame_of(summary)
    frame = frame[frame["kind"] == "image"]
    shares = frame.groupby("series")["kept_fraction"].mean()
    found = {summary.series[int(index)]: float(share) for index, share in shares.items()}
    return {s: share for s, share in found.items() if not (s.is_reference or s.is_blind)}
