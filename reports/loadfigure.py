"""Requests served against requests in flight, and where a request's time goes."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from reports import text, waterfall
from reports.load import NAMES, Entry, Loads, conditions
from reports.loadtext import reversed_at
from reports.sheet import Drawn, Sheet
from reports.style import INK, Palette

MOST = 6
LEGEND = 3  # names in a line
HEADER = ("requests", "model", "label", "in_flight", "requests_per_s", "low", "high") + (
    "ratio", "ratio_low", "ratio_high",
)  # fmt: skip
FALLS = ("requests", "model", "label", "in_flight", "step", "ms")
CALLED = {"dense": "dense", **NAMES}


def draw(found: list[Loads], palette: Palette, folder: Path, mark: str) -> Drawn | None:
    """Two panels a kind of requests: served, and of dense's; None where nothing was served."""
    if not found:
        return None
    sheet = Sheet("load", 2 * len(found), width=4.4, height=3.4, columns=2)
    alts: list[str] = []
    table: list[list[object]] = [[*HEADER]]
    for loads in found:
        where = f", {loads.requests}" if len(found) > 1 else ""
        _lines(sheet.panel(f"Requests a second{where}", mark), loads, palette, of_dense=False)
        _lines(sheet.panel(f"Of dense's{where}", mark), loads, palette, of_dense=True)
        for entry in loads.at.values():
            gain = entry.gain
            table.append([
                loads.requests, entry.series.model, entry.series.label, int(entry.concurrency),
                *map(_known, (entry.requests_per_s, entry.requests_per_s_low,
                              entry.requests_per_s_high, gain.value, gain.low, gain.high)),
            ])  # fmt: skip
        said = "; ".join(
            f"{e.series.label} with {int(e.concurrency)} in flight: "
            f"{text.number(e.requests_per_s, 2)} requests/s"
            + ("" if e.is_base else f", {e.gain.shown}")
            for e in loads.at.values()
        )
        alts += [f"{said}.", "The same as ratios to dense."]
    caption = (
        "Requests served a second in a closed loop, against how many are in flight, and the same "
        "as ratios to dense; bands are 95 % intervals over whole rounds. Below 1 fewer are served "
        f"than with dense. {conditions(found[0])}."
    )
    return sheet.save(folder, "Requests served under load", caption, alts, table)


def _known(value: float) -> float | str:
    return value if value == value else ""


def _lines(axes: Axes, loads: Loads, palette: Palette, of_dense: bool) -> None:
    for series in loads.rows:
        entries = [e for count in loads.counts if (e := loads.at.get((series, count))) is not None]
        if of_dense:
            entries = [e for e in entries if e.gain.value == e.gain.value]
            points = [(e.gain.value, e.gain.low, e.gain.high) for e in entries]
        else:
            points = [
                (e.requests_per_s, e.requests_per_s_low, e.requests_per_s_high) for e in entries
            ]
        if not entries:
            continue
        x, colour = [int(e.concurrency) for e in entries], palette.colour(series)
        value, low, high = zip(*points, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if len(x) == 1:  # a band of one point has no width
            axes.vlines(x, low, high, color=colour, linewidth=1.4)
        axes.plot(x, value, color=colour, marker=palette.marker(series), markersize=4.5,
                  label=entries[0].name, linewidth=1.4)  # fmt: skip
    if axes.lines:  # dense alone has no ratio
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=LEGEND)
    axes.set_xscale("log", base=2)
    axes.set_xticks(loads.counts, [str(count) for count in loads.counts])
    axes.xaxis.set_minor_locator(NullLocator())
    if of_dense:
        axes.axhline(1.0, color=INK, linewidth=0.8, zorder=0)
        axes.set_ylabel("of dense's requests/s (×)")
    else:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("requests/s")
    axes.set_xlabel("requests in flight")


def falls(found: list[Loads], folder: Path, mark: str) -> Drawn | None:
    """From dense's time a request to a method's, a panel a method; None where none is known.

    The reversed ones first, at their worst; else those that differ from dense with the most in
    flight, else all of these.
    """
    table: list[list[object]] = [[*FALLS]]
    shown: list[tuple[Loads, Entry]] = []
    for loads in found:
        for entry in loads.at.values():
            steps = _steps(loads, entry)
            head = [loads.requests, entry.series.model, entry.series.label]
            table += [[*head, int(entry.concurrency), n, v] for n, v in (steps or {}).items()]
        shown += [(loads, entry) for entry in _telling(loads)]
    shown = shown[:MOST]
    if not shown:
        return None
    known = [(loads, entry, _steps(loads, entry) or {}) for loads, entry in shown]
    top = max(max(waterfall.reach(steps)) for _, _, steps in known)
    sheet, alts = Sheet("load-waterfall", len(shown), width=4.3, height=2.7), []
    for loads, entry, steps in known:
        axes = sheet.panel(f"{entry.name}, {int(entry.concurrency)} in flight", mark)
        waterfall.panel(axes, steps, top, CALLED)
        said = ", ".join(f"{CALLED.get(n, 'method')} {text.number(v, 2)} ms"
                         for n, v in steps.items())  # fmt: skip
        alts.append(f"{entry.series.label} on {loads.spec(int(entry.concurrency))}: {said}.")
    caption = (
        "Milliseconds of the engine's time that a request takes, from dense to the method; blue "
        "is saved, orange is added, and the steps add up. Padding is its share of the prompt's "
        "positions; waiting are slots whose answer had ended; selection is the method's decisions, "
        f"timed in a pass of its own. {conditions(found[0])}. All rows are in the CSV."
    )
    return sheet.save(folder, "Where a request's time goes", caption, alts, table)


def _steps(loads: Loads, entry: Entry) -> dict[str, float] | None:
    base = loads.base(int(entry.concurrency))
    if base is None or entry.is_base or entry.request_ms != entry.request_ms:
        return None
    parts = {name: one.value for name, one in entry.added.items()}
    if math.isnan(sum(parts.values())):
        return None
    return {"dense": base.request_ms, **parts, "method": entry.request_ms}


def _telling(loads: Loads) -> list[Entry]:
    worst: dict[str, Entry] = {}
    for entry in reversed_at(loads):
        worst.setdefault(entry.name, entry)
    at_most = loads.others(loads.most)
    differ = [e for e in at_most if e.gain.verdict(True) and e.name not in worst]
    found = [*worst.values(), *differ] or at_most
    return [e for e in found if _steps(loads, e) is not None]
