"""What the rows of a load say in sentences: who serves most, where it reverses, and why."""

from __future__ import annotations

import math

from reports import text
from reports.load import NAMES, Entry, Loads
from reports.summary import Summary

MOST_REVERSALS = 3
MOST_NAMES = 3  # of rows that the best one is not told apart from
LEAST_SHARE = 0.05  # of the difference, for a step to be named beside the cause


def opening(summary: Summary, found: list[Loads]) -> str:
    """One plain sentence of what was served."""
    models = text.listing(list(dict.fromkeys(s.model for s in summary.series if s.model)))
    device = str(summary.run.get("device_name") or "an unnamed device")
    rows = text.plural(len([s for s in summary.series if not s.is_reference]), "method")
    counts = sorted({count for loads in found for count in loads.counts})
    flying = text.listing([str(count) for count in counts])
    failed = f"; {summary.count('failed')} failed" if summary.count("failed") else ""
    return (
        f"Requests served by {rows} against dense with {flying} in flight, model {models}, on "
        f"{device}{failed}."
    )


def sentences(found: list[Loads]) -> list[str]:
    """Who serves most, what is reversed with its cause, and what memory holds."""
    said = []
    for loads in found:
        said += [_leader(loads), *reversals(loads), _held(loads)]
    return [one for one in said if one]


def _leader(loads: Loads) -> str:
    """The row that serves most with the most in flight, and what its requests wait."""
    known, base = loads.others(loads.most), loads.base(loads.most)
    if not known or base is None:
        return ""
    best = max(known, key=lambda e: e.gain.value)
    first, last = best.ratio("ttft_p95"), best.ratio("latency_p95")
    said = (
        f"With {loads.most} in flight, {best.name} serves most of the methods: {best.gain.shown} "
        f"of dense's {text.number(base.requests_per_s, 2)} requests/s"
    )
    said += {"slower": " (fewer than dense)", "": " (not told apart from dense)"}.get(
        best.gain.verdict(True), ""
    )
    near = [e.name for e in known if e is not best and e.gain.high >= best.gain.low]
    if near:
        named = near if len(near) <= MOST_NAMES else [text.plural(len(near), "other method")]
        said += f"; not told apart from {text.listing(named)} (the intervals overlap)"
    if first.value == first.value:
        said += f"; time to first token (p95) {first.shown}, whole answer (p95) {last.shown}"
    return said + "."


def reversed_at(loads: Loads) -> list[Entry]:
    """Rows that process fewer image tokens than dense and serve fewer requests, worst first."""
    known = [
        e
        for count in loads.counts
        for e in loads.others(count)
        if e.kept_share < 1 and e.gain.verdict(True) == "slower"
    ]
    return sorted(known, key=lambda e: e.gain.value)


def reversals(loads: Loads) -> list[str]:
    """A sentence a method, at its worst; one that says so where there is none."""
    worst: dict[str, Entry] = {}
    for entry in reversed_at(loads):
        worst.setdefault(entry.name, entry)
    if not worst:
        if not any(e.kept_share < 1 for count in loads.counts for e in loads.others(count)):
            return []
        return ["No method that processes fewer image tokens serves fewer requests than dense "
                "beyond the interval."]  # fmt: skip
    shown = list(worst.values())[:MOST_REVERSALS]
    said = [_reversal(loads, entry) for entry in shown]
    rest = [entry.name for entry in list(worst.values())[MOST_REVERSALS:]]
    return said + ([f"Reversed as well: {text.listing(rest)}."] if rest else [])


def _reversal(loads: Loads, entry: Entry) -> str:
    count = int(entry.concurrency)
    said = (
        f"Reversed with {count} in flight: {entry.name} serves {entry.gain.shown} of dense's "
        f"requests although its layers process {text.percent(entry.kept_share)} of the image "
        "tokens"
    )
    first = loads.at.get((entry.series, loads.counts[0]))
    if first is not None and first is not entry:
        said += f" (with {loads.counts[0]}: {first.gain.shown})"
    return f"{said}. {cause(entry)}".rstrip()


def cause(entry: Entry) -> str:
    """The step that adds most beyond its interval, and what the others add or save."""
    parts = entry.added
    whole = sum(one.value for one in parts.values())
    if math.isnan(whole):
        return ""
    in_all = f"{text.number(whole, 2, signed=True)} ms of the engine's time a request"
    costly = {name: one for name, one in parts.items() if one.low > 0}
    if not costly:
        return f"It takes {in_all} more; no single step adds time beyond its interval."
    name = max(costly, key=lambda step: costly[step].value)
    one = costly[name]
    others = [
        f"{NAMES[step]} {text.number(parts[step].value, 2, signed=True)}"
        for step in sorted(parts, key=lambda step: -parts[step].value)
        if step != name and abs(parts[step].value) >= LEAST_SHARE * abs(whole)
    ]
    said = f"The cause is {NAMES[name]}: {text.number(one.value, 2, signed=True)} ms "
    said += f"{text.interval(one.low, one.high, 2, signed=True)}, of {in_all}"
    return f"{said} ({', '.join(others)})." if others else f"{said}."


def _held(loads: Loads) -> str:
    """How many requests the named memory holds."""
    base, known = loads.base(loads.most), loads.others(loads.most)
    if base is None or not known or base.fits != base.fits:
        return ""
    best = max(known, key=lambda e: e.fits)
    said = f"{base.gpu} holds {base.fits:.0f} such requests in flight with dense"
    if base.fits:
        said += f" and {best.fits:.0f} with {best.name} ({best.ratio('fits').shown})"
    return f"{said}; predicted from the recorded KV cache, workspace is not counted."


READING = (
    (
        "In flight",
        "is how many requests are there at any moment: whoever has its answer sends the next "
        "request at once (a closed loop). Prompts and answers are of unequal lengths, the same for "
        "every row.",
    ),
    (
        "Batches",
        "are static: all requests in flight are answered together, shorter prompts are padded, and "
        "a slot whose answer has ended waits for the batch's longest. Its next request waits as "
        "long for its first token.",
    ),
    (
        "First token, between tokens, whole answer",
        "count from a request's sending, with the wait for the batch before; p95 is the time that "
        "95 % do not exceed.",
    ),
    (
        "Where the time goes",
        "divides the engine's time a request: waiting is measured by when each answer ended, "
        "padding is its share of the prompt's positions, selection is timed in a pass of its own.",
    ),
    (
        "Fits",
        "is how many requests the memory would hold beside the weights, predicted from the KV "
        "cache that the routing record says, without padding.",
    ),
    ("A dash", "means not measured, never zero."),
)
"""How to read the report of a load."""
