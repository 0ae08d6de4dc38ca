"""Caption and note of the paper's tables: what a number means, on what data, and what bold says."""

from __future__ import annotations

import math

from reports import numbering, text
from reports.paper import names
from reports.paper.layout import Choice
from reports.paper.rows import Block, Names
from reports.paper.tex import breakable
from reports.ranking import NEAR, Ranking
from reports.summary import Summary
from reports.tables import Marks

CHANCE = (
    "†: not above the random control at the same budget and numbering (paired test, Holm over the "
    "methods and benches)."
)
LONG_NOTE = 260
"""Letters of parameters from which on the note points to the appendix."""


def all_mini(summary: Summary) -> bool:
    return all(summary.is_mini_bench(bench) for bench in summary.benches)


def points(summary: Summary) -> float:
    """The factor that makes points of a difference."""
    only = summary.benches[0] if len(summary.benches) == 1 else ""
    return text.factor(summary, only) if only else 100.0


def reference(ranking: Ranking) -> str:
    """What the column of differences is to, in a word."""
    if len(ranking.against) == 1:
        word = ranking.against[0].partition(":")[0]
        return "dense" if word == "dense" else names.method(word)
    return "ref."


def caption(summary: Summary) -> str:
    """Who, on what: mini is always said."""
    models = list(dict.fromkeys(s.model for s in summary.series if s.model))
    model = text.listing(models) or "an unknown model"
    model += " (mini model)" if summary.is_mini_model else ""
    count = len(summary.benches)
    on = names.bench(summary.benches[0]) if count == 1 else text.plural(count, "bench", "benches")
    mini = [bench for bench in summary.benches if summary.is_mini_bench(bench)]
    data = " (mini data)" if len(mini) == count else ""
    data = data or (f" (mini data: {text.listing(_shown(mini))})" if mini else "")
    return f"Accuracy of {model} on {on}{data}"


def keys(summary: Summary) -> list[str]:
    """Comment lines: under which keys of CITATION.bib the methods of the rows stand."""
    known = names.references()["methods"]
    found = dict.fromkeys(
        rf"%   {known[s.method]['name']}: \cite{{{known[s.method]['key']}}}"
        for s in summary.series
        if "key" in known.get(s.method, {})
    )
    return ["% Methods, with their keys in CITATION.bib:", *found] if found else []


def table(
    summary: Summary, ranking: Ranking, found: list[Block], called: Names, choice: Choice,
    settled: bool,
    marks: Marks,
) -> str:  # fmt: skip
    """What stands below the table, as LaTeX."""
    parts = [
        *metrics(summary),
        *_columns(summary, ranking, choice),
        _medals(ranking, settled),
        CHANCE if marks.on else "",
        _kv(summary, found),
        *_rows(summary, found, called),
        text.conditions(summary) + ".",
    ]
    return breakable(" ".join(part for part in parts if part))


def metrics(summary: Summary) -> list[str]:
    """Metric and n of each bench; one word where all have the same."""
    said = {bench: _metric(summary, bench) for bench in summary.benches}
    counts = {text.sample_count(summary, bench) for bench in summary.benches}
    same = len(counts) == 1
    groups: dict[str, list[str]] = {}
    for bench, metric in said.items():
        more = "" if same else f", {text.sample_count(summary, bench)}"
        groups.setdefault(f"{metric}{more}", []).append(names.bench(bench))
    if len(groups) == 1:
        shown = next(iter(groups))
    else:
        shown = "; ".join(f"{what} ({text.listing(on)})" for what, on in groups.items())
    count = f"; {next(iter(counts))}" + (" a bench" if len(said) > 1 else "") if same else ""
    return [f"Scores: {shown}{count}."]


def _metric(summary: Summary, bench: str) -> str:
    name = summary.metric.get(bench, ("", ""))[1].partition(",")[0].replace("_", " ")
    return f"{name or 'score'} in %" if text.factor(summary, bench) == 100 else name or "score"


def _columns(summary: Summary, ranking: Ranking, choice: Choice) -> list[str]:
    heads = [column.head.code for column in choice.last]
    found = []
    if "Avg." in heads:
        found.append(f"Avg.: mean over {averaged(summary, ranking)}, each as a share of its scale.")
    if "Rel." in heads:
        found.append(f"Rel.: {'Avg.' if 'Avg.' in heads else 'the score'} as a share of dense's.")
    if any(head.startswith(r"$\Delta$") for head in heads):
        to = text.listing([names.method(n) for n in ranking.against])
        found.append(
            f"Δ: difference to {to.lower() if to == 'Dense' else to}, paired on the same "
            "documents"
            + (", with a 95 % bootstrap interval by image" if choice.intervals else "")
            + "; *: p < 0.05 after Holm's correction over the column."
        )
    if choice.short:
        shorts = names.shorts(summary.benches)
        longs = [names.bench(bench) for bench in summary.benches]
        pairs = [f"{a}: {b}" for a, b in zip(shorts, longs, strict=True) if a != b]
        found.append(f"{', '.join(pairs)}." if pairs else "")
    return found


def averaged(summary: Summary, ranking: Ranking) -> str:
    """Over how many benches an average goes: one where less is better has no place in it."""
    total = len(summary.benches)
    count = ranking.benches or total
    return f"the {total} benches" if count == total else f"{count} of the {total} benches"


def _medals(ranking: Ranking, settled: bool) -> str:
    if not any(pair.comparable for pair in ranking.pairs.found.values()):
        return (
            "Nothing is bold: the run has no tests between methods, and the highest number alone "
            "says nothing."
        )
    if not settled:
        return (
            "Nothing is bold: no row is settled to be better than every other at its budget "
            "(paired tests, p < 0.05 after Holm's correction over all such pairs and benches)."
        )
    return (
        f"Bold: better than every other row at the same budget (KV within {100 * NEAR:g} points), "
        "controls included (paired tests, "
        "p < 0.05 after Holm's correction over all such pairs and benches, averages apart); "
        "underlined: the same but for the best. Ties are neither."
    )


def _kv(summary: Summary, found: list[Block]) -> str:
    known = any(not math.isnan(row.kv) for block in found for row in block.rows)
    unknown = any(math.isnan(row.kv) for block in found for row in block.rows)
    kept = "KV: share of dense's image entries that stay in the cache, mean over all layers"
    kept += "; a dash: not counted." if unknown else "."
    numbered = "Pos.: kept tokens have their original position ids, or are numbered anew."
    return " ".join([kept if known else "", numbered if numbering.differ(summary) else ""]).strip()


def _rows(summary: Summary, found: list[Block], called: Names) -> list[str]:
    rows = [row.series for block in found for row in block.rows]
    said = []
    controls = [names.method(s.method) for s in rows if s.is_control]
    if controls:
        said.append("Italic: controls.")
    said += [f"{mark}." for mark in called.marks]
    settings = "; ".join(called.settings)
    if settings and len(settings) <= LONG_NOTE:
        said.append(f"Not at their defaults: {settings}.")
    elif settings:
        said.append("Parameters that are not at their defaults stand in the appendix.")
    missed = {
        names.method(series.method): what
        for series in rows
        for bench in summary.benches
        if (score := summary.score(series, bench)) and (what := text.missed_budget(score))
    }
    if missed:
        shown = "; ".join(f"{name} {what}" for name, what in missed.items())
        said.append(f"‡: missed its budget, so no verdict ({shown}).")
    return [*said, gaps(summary)]


def gaps(summary: Summary) -> str:
    """What a dash stands for in this run."""
    places: dict[str, dict[str, list[str]]] = {}
    for series in summary.series:
        for bench in summary.benches:
            status = summary.cell(series, bench).status
            if status in ("failed", "missing"):
                word = "failed" if status == "failed" else "not run"
                on = places.setdefault(word, {}).setdefault(names.method(series.method), [])
                on += [name for name in _shown([bench]) if name not in on]
    if not places:
        return ""
    shown = "; ".join(f"{word}: {text.by_method(on)}" for word, on in places.items())
    return f"A dash is no number ({shown}); such a row has no average."


def _shown(benches: list[str]) -> list[str]:
    return [names.bench(bench) for bench in benches]
