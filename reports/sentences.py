"""The sentences of the report: how to read it, what was run, what the tests say."""

from __future__ import annotations

from reports import text
from reports.cell import Score, Series
from reports.summary import Summary

READING = (
    ("Accuracy", "is each benchmark's own score on n samples, with a 95 % confidence interval."),
    (
        "Δ to dense",
        "compares a method with the dense model on the same samples, in points. Only a significant "
        "difference is bold, after correction for the number of comparisons; bold never means "
        "highest.",
    ),
    (
        "Non-inferior",
        "means that the whole interval of a row lies above a loss of the margin, without "
        "correction for the number of rows. Inconclusive means that the samples show neither that "
        "nor a significant difference. Same answers, with their number: dense's in every document.",
    ),
    (
        "Detectable",
        "is the smallest true difference that the paired test (exact, two-sided 5 %, before the "
        "correction) finds with 80 % power, at this n, its images and this many changed answers. A "
        "smaller loss goes unnoticed more often.",
    ),
    (
        "Prefill",
        "is the language model's compute for reading the prompt once, per sample. The counter and "
        "the convention stand in the conditions: numbers under different conventions do not "
        "compare.",
    ),
    (
        "KV cache",
        "is the share of dense's vision-token entries that stay in the cache, over all layers.",
    ),
    (
        "Skipped",
        "is the share of token-layers not processed, over the layers that a method routes and over "
        "all layers.",
    ),
    ("A dash", "means not measured, never zero. Failed and missing cells are listed, not filled."),
)
"""How to read the report: a name and what it means."""

OF_ANSWERS = ("Accuracy", "Δ to dense", "Non-inferior", "Detectable")
COUNTED = tuple(note for note in READING if note[0] not in OF_ANSWERS)
"""The same for a run that only counts."""


def opening(summary: Summary) -> str:
    """One plain sentence of what was run."""
    dense = [s for s in summary.series if s.is_reference]
    controls = [s for s in summary.series if s.is_control]
    others = [s for s in summary.series if s not in dense and s not in controls]
    who = [_counted(others, "method")] if others else []
    who += [_counted(controls, "control")] if controls else []
    against = " against dense" if dense and who else ""
    models = list(dict.fromkeys(s.model for s in summary.series if s.model)) or ["an unknown model"]
    benches = [b for b in summary.benches if b]
    on = f" on {text.listing(benches)}" if benches else ""
    total = len(summary.series) * len(summary.benches)
    counted = summary.count("costs")
    if total and (counted == total or (counted and summary.run.is_ledger)):
        rows = text.plural(counted if counted < total else len(summary.series), "row")
        more = f" {total - counted} could not be counted." if counted < total else ""
        of = f"{rows}, model {text.listing(models)}"
        return f"FLOPs and KV cache of {of}; no benchmark was run.{more}"
    said = f"{text.listing(who) or 'The dense model'}{against}{on}, model {text.listing(models)}: "
    said += f"{summary.count('done')} of {text.plural(total, 'cell')} done"
    for status, word in (("failed", "failed"), ("missing", "not run"), ("costs", "costs only")):
        if summary.count(status):
            said += f", {summary.count(status)} {word}"
    return said + "."


def _counted(rows: list[Series], noun: str) -> str:
    """``6 methods``, or ``3 methods in 9 rows`` where parameters or budgets differ."""
    names = len({row.method for row in rows})
    return text.plural(names, noun) + (f" in {len(rows)} rows" if len(rows) > names else "")


def findings(summary: Summary) -> list[str]:
    """What the tests against dense say, in a few sentences; nothing beyond the verdicts."""
    found: dict[str, dict[str, list[str]]] = {}
    for series in summary.series:
        for bench in summary.benches:
            score = summary.score(series, bench)
            # That a control loses is what it is there for; that one wins would be news.
            told = not series.is_control or (score is not None and score.verdict == "better")
            if score and (score.verdict or score.is_same) and not series.is_reference and told:
                word = "same" if score.is_same else score.verdict
                found.setdefault(word, {}).setdefault(series.label, []).append(bench)
    words = {
        "better": "Significantly better than dense",
        "worse": "Significantly worse than dense",
        "same": "The same answers as dense in every document",
        "non-inferior": "No worse than dense by more than the margin",
        "inconclusive": "Neither a significant difference nor shown to be as good",
    }
    sentences = []
    for name, word in words.items():
        places = found.get(name, {})
        if places:
            shown = text.by_method(places)
            sentences.append(f"{word}: {shown}.")
        elif name == "better" and found:
            sentences.append("Nothing is significantly better than dense.")
    return sentences + missed(summary)


def missed(summary: Summary) -> list[str]:
    """Which rows are not at the budget that was asked for."""
    places = {
        series.label: benches
        for series in summary.series
        if (benches := [b for b in summary.benches if _missed(summary.score(series, b))])
    }
    shown = text.by_method(places)
    return [f"Missed the budget asked for, so no verdict: {shown}."] if places else []


def _missed(score: Score | None) -> bool:
    return score is not None and bool(text.missed_budget(score))


def mini_note(summary: Summary) -> str:
    """What every reader of mini numbers must know; empty for a run without them."""
    mini = [b for b in summary.benches if summary.is_mini_bench(b)]
    parts = ["the shipped mini model"] if summary.is_mini_model else []
    parts += [f"mini data ({text.listing(mini)})"] if mini else []
    if not parts:
        return ""
    return (
        f"Numbers here come from {text.listing(parts)}. They compare methods with each other "
        "under one set of conditions; they say nothing about the published benchmarks of the same "
        "name."
    )
