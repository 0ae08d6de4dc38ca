"""Numbers and conditions as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports.cell import Score, Series
from reports.summary import Summary

GAP = "–"
"""What stands where nothing was measured."""

SCALES = ((1.0, "TFLOPs"), (1e3, "GFLOPs"), (1e6, "MFLOPs"))
"""Factors from units of 1e12, largest unit first."""


def file_names(benches: Sequence[str]) -> dict[str, str]:
    """Every bench as a part of file names: no two alike, whatever paths own data has."""
    found: dict[str, str] = {}
    for bench in benches:
        name = "".join(c if c.isalnum() else "_" for c in bench)
        same = sum(one.partition("-")[0].casefold() == name.casefold() for one in found.values())
        found[bench] = f"{name}-{same + 1}" if same else name
    return found


def number(value: float, digits: int = 1, signed: bool = False) -> str:
    """A fixed number of decimals with a true minus sign; a dash when it is not known."""
    if math.isnan(value):
        return GAP
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def interval(low: float, high: float, digits: int = 1, signed: bool = False) -> str:
    """``[low, high]``, or nothing when it is not known."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low, digits, signed)}, {number(high, digits, signed)}]"


def percent(value: float, digits: int = 0) -> str:
    """A ratio from 0 to 1 as a percentage."""
    return GAP if math.isnan(value) else f"{number(100 * value, digits)} %"


def listing(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def plural(count: int, noun: str, nouns: str = "") -> str:
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def factor(summary: Summary, bench: str) -> float:
    """100 for metrics that are shares (all values at most 1), 1 for those on a scale of their own.

    The same for every method and metric of a bench, so that a row never changes its scale.
    """
    values = [
        abs(score.value)
        for series in summary.series
        for score in summary.cell(series, bench).scores
        if not math.isnan(score.value)
    ]
    return 100.0 if values and max(values) <= 1.0 else 1.0


def metric_name(summary: Summary, bench: str) -> str:
    """The bench's main metric without lmms-eval's filter suffix, with its unit."""
    name = summary.metric.get(bench, ("", ""))[1].partition(",")[0].replace("_", " ")
    judges = summary.judges(bench)
    by = f", judge {listing([judge.partition(' at ')[0] for judge in judges])}" if judges else ""
    unit = " (%)" if factor(summary, bench) == 100 else ""
    return f"{name or 'score'}{unit}{by}"


def flops_scale(summary: Summary) -> tuple[float, str]:
    """Factor and unit in which the run's prefill FLOPs read well (largest at least 1)."""
    found = [summary.prefill(s, b) for s in summary.series for b in summary.benches]
    top = max((c.tflops for c in found if c and not math.isnan(c.tflops)), default=math.nan)
    unit = next((c.unit for c in found if c), "FLOP")
    for scale, name in SCALES:
        if math.isnan(top) or top * scale >= 1:
            return scale, name.replace("FLOPs", f"{unit}s")
    return SCALES[-1][0], SCALES[-1][1].replace("FLOPs", f"{unit}s")


def verdict(score: Score) -> str:
    """The verdict in words with a sign, so that it never depends on colour."""
    if score.is_same:
        return f"same answers ({number(score.same_answers, 0)})"
    signs = {"better": "▲ better", "worse": "▼ worse", "non-inferior": "≈ non-inferior"}
    missed = missed_budget(score)
    return f"no verdict: {missed}" if missed else signs.get(score.verdict, score.verdict)


def missed_budget(score: Score) -> str:
    """``asked 64 tokens, got 72`` of a row that missed its budget, else nothing."""
    if score.budget_within != 0:
        return ""
    if score.budget_unit == "tokens":
        return f"asked {score.budget_asked:g} tokens, got {score.budget_met:.4g}"
    asked, got = (f"{100 * share:.4g} %" for share in (score.budget_asked, score.budget_met))
    return f"asked {asked}, got {got}"


def sample_count(summary: Summary, bench: str | None = None) -> str:
    """``n = 500``, or the range over cells, of one bench or of all that are scored."""
    counts = {
        int(cell.n)
        for (_, name), cell in summary.cells.items()
        if cell.status == "done" and not math.isnan(cell.n)
        if bench == name or (bench is None and not cell.waits)
    }
    if not counts:
        return "n not recorded"
    low, high = min(counts), max(counts)
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def detectable(summary: Summary, benches: list[str] | None = None) -> str:
    """For captions: the smallest differences that the tests could find; empty when not known."""
    found: dict[str, list[float]] = {}
    for bench in summary.benches if benches is None else benches:
        for series in summary.series:
            score = summary.score(series, bench)
            if score and not series.is_blind and not math.isnan(score.detectable):
                value = score.detectable * factor(summary, bench)
                found.setdefault(bench, []).append(value)
    if not found:
        return ""
    if len(found) > 4:
        lowest, highest = (pick(found, key=lambda b: pick(found[b])) for pick in (min, max))
        shown = f"{number(min(found[lowest]))} ({lowest}) to {number(max(found[highest]))} points "
        shown += f"({highest}), by method and bench"
    else:
        parts = [
            f"{number(min(v))} to {number(max(v))} points on {b}"
            if number(min(v)) != number(max(v))
            else f"{number(v[0])} points on {b}"
            for b, v in found.items()
        ]
        shown = ", ".join(parts)
    return f"Smallest difference the paired test finds with 80 % power (blind left out): {shown}."


def verdict_note(summary: Summary, more: str = "") -> str:
    """Below tables with verdicts: from which n on non-inferior can be had, where known; `more`."""
    needed: dict[str, float] = {}
    have: dict[str, float] = {}
    for bench in summary.benches:
        for series in summary.series:
            score = summary.score(series, bench)
            if score and not math.isnan(score.smallest_n):
                needed[bench] = max(score.smallest_n, needed.get(bench, 0))
                have[bench] = min(score.n_paired, have.get(bench, math.inf))
    if not needed:
        return more
    places: dict[float, list[str]] = {}
    for bench, n in needed.items():
        places.setdefault(n, []).append(bench)
    shown = listing([f"n = {n:.0f} on {_benches(on)}" for n, on in sorted(places.items())[:4]])
    if len(places) > 4:
        low, high = (pick(needed, key=lambda b: needed[b]) for pick in (min, max))
        shown = f"n = {needed[low]:.0f} ({low}) to {needed[high]:.0f} ({high})"
    few = [f"{b} ({have[b]:.0f})" for b in needed if have[b] < needed[b]]
    short = f"Fewer here: {listing(few)}." if few else ""
    said = f"A method that scores as dense on every document can be non-inferior from {shown} on."
    return " ".join(filter(None, (said, short, more)))


def _benches(names: list[str]) -> str:
    return listing(names) if len(names) <= 5 else plural(len(names), "bench", "benches")


def conditions(summary: Summary) -> str:
    """The short form that stands in every caption."""
    run = summary.run
    models = list(dict.fromkeys(s.model for s in summary.series if s.model))
    data = sorted({c.data for c in summary.cells.values() if c.data})
    parts = [
        listing(models) + (" (mini model)" if summary.is_mini_model else ""),
        f"{listing(data)} data" if data else "",
        str(run.get("device_name", "device.name", "device", "settings.device") or ""),
        str(run.get("dtype", "settings.dtype") or ""),
        str(run.get("attn", "attention", "settings.attn") or ""),
    ]
    batch = run.get("batch_size", "batch", "settings.batch_size")
    batch = None if run.get("settings.concurrency") else batch  # all that are in flight, then
    seed = run.get("seed", "settings.seed")
    parts += [f"batch {batch}" if batch is not None else ""]
    parts += [f"seed {seed}" if seed is not None else ""]
    protocol = run.get("protocol")
    parts += [f"protocol {protocol}" if protocol else ""]
    return ", ".join(p for p in parts if p)


def by_method(places: dict[str, list[str]]) -> str:
    """``gamma on gqa and pope; pmod on textvqa``, cut short in a large study."""
    parts = [f"{label} on {_benches(on)}" for label, on in places.items()]
    more = f"; and {plural(len(parts) - 6, 'more method')}" if len(parts) > 6 else ""
    return "; ".join(parts[:6]) + more


def series_names(series: list[Series]) -> str:
    return listing([s.label for s in series])
