"""From how many image tokens on a method pays, by batch and answer length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from reports import text
from reports.sheet import Drawn, Sheet
from reports.style import GRID, HUES, INK, ON_ACCENT
from reports.tables import Cell, Column, Table, name_cell
from reports.timing import Timed, conditions, panel_title

FASTER, SLOWER = HUES[2], HUES[1]
MOST_PANELS = 18
HEADER = ("model", "label", "n_image", "batch", "n_out", "n_text", "speedup", "ci_low", "ci_high")

Place = tuple[float, float]  # image tokens, batch


def grouped(entries: list[Timed]) -> dict[tuple[str, float], dict[Place, Timed]]:
    """(label, n_out) -> (n_image, batch) -> entry, of all methods but dense."""
    found: dict[tuple[str, float], dict[Place, Timed]] = {}
    for entry in entries:
        if not entry.series.is_reference and "end_to_end" in entry.phases:
            panel = found.setdefault((entry.series.label, entry.n_out), {})
            panel[entry.n_image, entry.batch] = entry
    return found


def is_map(entries: list[Timed]) -> bool:
    """Whether there is more than one workload of different size to compare."""
    return len({(e.n_image, e.batch, e.n_out) for e in entries}) > 1


def verdict(entry: Timed) -> str:
    """``faster`` or ``slower`` than dense beyond the interval, else ``neither``."""
    whole = entry.phases["end_to_end"]
    if whole.speedup_low > 1:
        return "faster"
    return "slower" if whole.speedup_high < 1 else "neither"


@dataclass(frozen=True)
class Crossing:
    """Between which measured numbers of image tokens a method starts to pay; None: no such end."""

    above: float | None
    """The largest number at which it is not (surely) faster yet."""
    upto: float | None
    """The smallest number from which on every larger one measured is faster."""

    def __str__(self) -> str:
        if self.upto is None:
            return f"> {self.above:.0f} (largest measured)"
        if self.above is None:
            return f"≤ {self.upto:.0f} (smallest measured)"
        return f"> {self.above:.0f}, ≤ {self.upto:.0f}"


def crossing(places: dict[Place, Timed], batch: float) -> Crossing:
    """Where a method starts to pay at a batch, as far as what was measured tells."""
    row = sorted((n, verdict(e)) for (n, b), e in places.items() if b == batch)
    above = max((n for n, word in row if word != "faster"), default=None)
    upto = next((n for n, _ in row if above is None or n > above), None)
    return Crossing(above, upto)


def table(entries: list[Timed]) -> Table | None:
    """Break-even by batch and answer length; None for a single workload."""
    if not is_map(entries):
        return None
    pairs = sorted({(e.batch, e.n_out) for e in entries})
    columns = [Column("Method", numeric=False)]
    columns += [Column(f"Batch {b:.0f}", f"{n:.0f} new tokens") for b, n in pairs]
    rows = []
    by_label = {e.series.label: e.series for e in entries if not e.series.is_reference}
    groups = grouped(entries)
    for label, series in by_label.items():
        row = [name_cell(series)]
        for batch, n_out in pairs:
            places = groups.get((label, n_out), {})
            if not any(b == batch for _, b in places):
                row.append(Cell(text.GAP))
                continue
            found = crossing(places, batch)
            row.append(Cell(str(found), sort=math.inf if found.upto is None else found.upto))
        rows.append(row)
    note = (
        "Image tokens from which on the method is faster than dense end to end, between the two "
        "measured numbers named: the whole 95 % interval of the speed-up lies above 1 at the upper "
        "one and at every larger one, and not at the lower one."
    )
    return Table("breakeven", "Break-even", columns, rows, note)


def draw(entries: list[Timed], folder: Path, mark: bool | str) -> Drawn | None:
    """Panels of methods and answer lengths: image tokens by batch; None for one workload."""
    groups = grouped(entries)
    if not is_map(entries) or not groups:
        return None
    shown = dict(list(groups.items())[:MOST_PANELS])
    images = sorted({n for places in shown.values() for n, _ in places})
    batches = sorted({b for places in shown.values() for _, b in places})
    height = 1.05 + 0.34 * len(batches)
    sheet = Sheet("breakeven", len(shown), width=max(2.6, 1.0 + 0.62 * len(images)), height=height)
    alts = []
    for (label, n_out), places in shown.items():
        title = panel_title(next(iter(places.values())))
        axes = sheet.panel(f"{title}, {n_out:.0f} new", mark)
        _panel(axes, places, images, batches)
        alts.append(f"{label}, {n_out:.0f} new tokens: " + "; ".join(_said(places)))
    left = len(groups) - len(shown)
    more = f" {left} further panels are in the CSV only." if left else ""
    caption = (
        "Speed-up end to end by image tokens and batch. Green: faster than dense beyond the 95 % "
        "interval; orange: slower; plain: the interval contains 1. "
        f"{conditions(entries)}.{more}"
    )
    rows: list[list[object]] = [[*HEADER]]
    for places in groups.values():
        for (n_image, batch), entry in sorted(places.items()):
            whole = entry.phases["end_to_end"]
            numbers = [whole.speedup, whole.speedup_low, whole.speedup_high]
            rows.append(
                [entry.series.model, entry.series.label, n_image, batch, entry.n_out, entry.n_text]
                + ["" if math.isnan(v) else v for v in numbers]
            )
    return sheet.save(folder, "Break-even map", caption, alts, rows)


def _said(places: dict[Place, Timed]) -> list[str]:
    return [
        f"{n:.0f} image tokens at batch {b:.0f} {text.number(e.phases['end_to_end'].speedup, 2)}"
        for (n, b), e in sorted(places.items())
    ]


def _panel(
    axes: Axes, places: dict[Place, Timed], images: list[float], batches: list[float]
) -> None:
    axes.grid(False)
    axes.set_xlim(-0.5, len(images) - 0.5)
    axes.set_ylim(-0.5, len(batches) - 0.5)
    axes.set_xticks(range(len(images)), [f"{n:.0f}" for n in images])
    axes.set_yticks(range(len(batches)), [f"{b:.0f}" for b in batches])
    axes.set_xlabel("image tokens")
    axes.set_ylabel("batch")
    faces = {"faster": FASTER, "slower": SLOWER, "neither": "none"}
    for (n_image, batch), entry in places.items():
        x, y = images.index(n_image), batches.index(batch)
        word = verdict(entry)
        box = Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=faces[word], edgecolor=GRID)
        axes.add_patch(box)
        value = entry.phases["end_to_end"].speedup
        colour = INK if word == "neither" else ON_ACCENT
        axes.text(x, y, text.number(value, 2), ha="center", va="center", color=colour)
