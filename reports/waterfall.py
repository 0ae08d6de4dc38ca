"""From dense's time to a method's: what the backend and the selection cost, what was saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from reports import text
from reports.sheet import Drawn, Sheet
from reports.style import HUES, INK, MUTED
from reports.timing import Board, Timed, conditions

COSTS, SAVES = HUES[1], HUES[0]
MOST = 6
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
DIFFER = ("faster", "slower")


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


def explained(board: Board) -> list[tuple[Timed, dict[str, float]]]:
    """The steps of the methods that differ from dense there, fastest first."""
    work = board.slowest
    known = all_steps(board.of(work))
    return [(e, found) for e, found in known if e.phases["end_to_end"].verdict in DIFFER]


def finding(board: Board) -> str:
    """What the method that saves most saves where; "" where nothing differs from dense."""
    found = [one for one in explained(board) if not one[0].series.is_control] or explained(board)
    if not found:
        return ""
    entry, parts = min(found, key=lambda one: one[1]["method"] - one[1]["dense"])
    change = parts["method"] - parts["dense"]
    said = [
        f"{NAMES[name]} {text.number(parts[name], signed=True)}"
        for name in STEPS[1:-1]
        if abs(parts[name]) >= 0.02 * abs(change)
    ]
    what = "saves" if change < 0 else "loses"
    of = f"{text.number(abs(change))} of {text.number(parts['dense'])} ms"
    gain = entry.phases["end_to_end"].gain
    name = entry.series.short or entry.series.label
    return f"On {board.names[entry.workload]}, {name} {what} {of} ({gain}): {', '.join(said)}."


def draw(board: Board, folder: Path, mark: bool | str) -> Drawn | None:
    """A panel for each method that differs from dense, on the workload that takes it longest.

    Where none does, for the fastest; None without methods.
    """
    known = [one for work in board.works for one in all_steps(board.of(work))]
    if not known:
        return None
    work = board.slowest
    shown = (explained(board) or [one for one in known if one[0].workload == work])[:MOST]
    if not shown:
        return None
    sheet = Sheet("waterfall", len(shown), width=4.3, height=2.3)
    alts = []
    top = max(max(reach(found)) for _, found in shown)
    for entry, found in shown:
        axes = sheet.panel(entry.series.short or entry.series.label, mark)
        panel(axes, found, top, NAMES)
        said = ", ".join(f"{name} {text.number(value)} ms" for name, value in found.items())
        alts.append(f"{entry.series.label} on {board.names[work]}: {said}.")
    caption = (
        f"Milliseconds a call from dense to the method on {board.names[work]}, medians; blue is "
        "saved, orange is added. Selection is the method's decisions during the prompt; moving the "
        f"tokens counts against the prefill. {conditions([e for e, _ in shown])}. "
        "All methods and workloads are in the CSV."
    )
    table: list[list[object]] = [[*HEADER]]
    for entry, found in known:
        head = [entry.workload, entry.series.model, entry.series.label]
        table += [[*head, name, value] for name, value in found.items()]
    return sheet.save(folder, "Where the time goes", caption, alts, table)


def reach(found: dict[str, float]) -> list[float]:
    """Where the bars end, from left to right; the last step is the method's whole."""
    *parts, whole = found.values()
    return [*np.cumsum(parts).tolist(), whole]


def panel(axes: Axes, found: dict[str, float], top: float, called: Mapping[str, str]) -> None:
    """One method's steps from dense to it, in their order; ``called``: what a step is called."""
    names = [n for n in found if n != "backend" or not math.isclose(found[n], 0, abs_tol=1e-9)]
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
        word = called.get(name, "method")
        axes.text(-0.02, row, word, ha="right", va="center", color=MUTED,
                  transform=side)  # fmt: skip
        shown = text.number(value, 1, signed=not whole)
        axes.text(1.02, row, shown, ha="left", va="center", color=INK,
                  transform=side)  # fmt: skip
        total = value if whole else total + value
