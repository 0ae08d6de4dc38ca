"""From dense's time to a method's: what the backend and the selection cost, what was saved."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes

from reports import text
from reports.sheet import Drawn, Sheet
from reports.style import HUES, INK, MUTED
from reports.timing import Timed, conditions, panel_title, workloads

COSTS, SAVES = HUES[1], HUES[2]
STEPS = ("dense", "backend", "selection", "prefill", "decode", "rest", "method")
NAMES = {
    "dense": "dense",
    "backend": "backend penalty",
    "selection": "selection",
    "prefill": "prefill",
    "decode": "decode",
    "rest": "vision and rest",
}
HEADER = ("workload", "model", "label", "step", "ms")


def steps(method: Timed, dense: Timed, best: Timed | None = None) -> dict[str, float]:
    """Milliseconds of each step; all but the last add up to the last.

    ``dense`` ran on the method's backend, ``best`` on the best one where that is another. The
    prefill is saved gross of the selection, which stands alone. Medians of phases do not add up
    exactly: what is left over is the rest, with the vision tower's difference in it.
    """
    start = (best or dense).ms("end_to_end")
    selection = method.ms("selection")
    found = {
        "dense": start,
        "backend": dense.ms("end_to_end") - start,
        "selection": selection,
        "prefill": method.ms("prefill") - selection - dense.ms("prefill"),
        "decode": method.ms("decode") - dense.ms("decode"),
    }
    found["rest"] = method.ms("end_to_end") - sum(found.values())
    return {**found, "method": method.ms("end_to_end")}


def all_steps(entries: list[Timed]) -> list[tuple[Timed, dict[str, float]]]:
    """The steps of every method that has a dense row on its workload and backend."""
    found = []
    for entry in entries:
        if entry.series.is_reference or "end_to_end" not in entry.phases:
            continue
        same = [d for d in entries if _is_dense_of(d, entry)]
        own = next((d for d in same if d.attn == entry.attn), None)
        best = next((d for d in same if d.attn != entry.attn), None)
        if own is not None:
            found.append((entry, steps(entry, own, best)))
    return found


def _is_dense_of(dense: Timed, entry: Timed) -> bool:
    place = (entry.workload, entry.batch, entry.device, entry.series.model)
    found = (dense.workload, dense.batch, dense.device, dense.series.model)
    return dense.series.is_reference and found == place


def draw(entries: list[Timed], folder: Path, mark: bool | str) -> Drawn | None:
    """One panel a method, on the workload that takes dense longest; None without methods."""
    known = all_steps(entries)
    if not known:
        return None
    longest = max(known, key=lambda one: one[1]["dense"])[0].workload
    shown = [one for one in known if one[0].workload == longest]
    sheet = Sheet("waterfall", len(shown), width=4.3, height=2.3)
    alts = []
    top = max(max(_reach(found)) for _, found in shown)
    for entry, found in shown:
        axes = sheet.panel(panel_title(entry), mark)
        _panel(axes, found, top)
        said = ", ".join(f"{name} {text.number(value)} ms" for name, value in found.items())
        alts.append(f"{entry.series.label} on {longest}: {said}.")
    others = len(workloads(entries)) - 1
    more = f" The numbers of {text.plural(others, 'other workload')} are in the CSV." * bool(others)
    caption = (
        f"Milliseconds a call from dense to the method on {longest}, medians; green is saved, "
        "orange is added. Selection is the method's decisions during the prompt; moving the tokens "
        "counts against the prefill. "
        f"{conditions([e for e, _ in shown])}.{more}"
    )
    table: list[list[object]] = [[*HEADER]]
    for entry, found in known:
        head = [entry.workload, entry.series.model, entry.series.label]
        table += [[*head, name, value] for name, value in found.items()]
    return sheet.save(folder, "Where the time goes", caption, alts, table)


def _reach(found: dict[str, float]) -> list[float]:
    """Where the bars end, from left to right."""
    total, ends = 0.0, []
    for name in STEPS[:-1]:
        total += found[name]
        ends.append(total)
    return [*ends, found["method"]]


def _panel(axes: Axes, found: dict[str, float], top: float) -> None:
    names = [n for n in STEPS if n != "backend" or not math.isclose(found[n], 0, abs_tol=1e-9)]
    axes.set_xlim(0, top * 1.04)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("ms")
    total = 0.0
    for row, name in enumerate(names):
        value = found[name]
        whole = name in ("dense", "method")
        left = 0.0 if whole else min(total, total + value)
        colour = INK if whole else COSTS if value > 0 else SAVES
        axes.barh(row, abs(value), left=left, height=0.62, color=colour, zorder=2)
        side = axes.get_yaxis_transform()
        word = NAMES.get(name, "method")
        axes.text(-0.02, row, word, ha="right", va="center", color=MUTED,
                  transform=side)  # fmt: skip
        shown = text.number(value, 1, signed=not whole)
        axes.text(1.02, row, shown, ha="left", va="center", color=INK,
                  transform=side)  # fmt: skip
        total = value if whole else total + value
