"""Which share of the tokens each layer still processes, method by method."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from reports import text
from reports.cell import Series
from reports.sheet import Drawn, Sheet
from reports.style import ACCENT, GRID, INK, MUTED, ON_ACCENT
from reports.summary import Summary

KINDS = {
    "image": "Image tokens kept by layer",
    "question": "Question tokens kept by layer",
    "system": "Prompt tokens before the image kept by layer",
    "answer": "Answer tokens processed by layer",
}

FULL = 0.9995
"""A share from here on reads as all tokens."""


def draw_all(summary: Summary, folder: Path) -> list[Drawn]:
    """A heat map of the image tokens, and one for every other kind that some method leaves out."""
    frame = frame_of(summary)
    drawn = []
    lowest = frame.groupby("kind")["kept_fraction"].min()
    whole = [k for k in KINDS if k != "image" and lowest.get(k, 0.0) >= FULL]
    for kind in KINDS:
        part = frame[frame["kind"] == kind]
        if len(part) and (kind == "image" or part["kept_fraction"].min() < FULL):
            drawn.append(_draw(summary, folder, kind, part, whole if kind == "image" else []))
    return drawn


def frame_of(summary: Summary) -> pd.DataFrame:
    """routing.csv of the finished cells, with the series each row belongs to."""
    place = {
        cell.cell_id: summary.series.index(series)
        for (series, _), cell in summary.cells.items()
        if cell.status == "done" and cell.cell_id
    }
    frame = summary.run.routing
    frame = frame.assign(series=frame["cell_id"].map(place))
    usable = frame["series"].notna() & frame["kept_fraction"].notna()
    usable &= (frame["layer"] >= 0) & (frame["layer"] == frame["layer"].round())
    return frame[usable].astype({"series": int, "layer": int})


def _draw(
    summary: Summary, folder: Path, kind: str, frame: pd.DataFrame, whole: list[str]
) -> Drawn:
    means = frame.groupby(["series", "layer"])["kept_fraction"].agg(["mean", "min", "max", "size"])
    first, last = int(frame["layer"].min()), int(frame["layer"].max())
    layers = list(range(first, last + 1))
    values = {tuple(k): float(v) for k, v in means["mean"].items()}  # (series, layer) -> share
    longest = max(len(s.short) for s in summary.series)
    numbered = len(layers) <= 16
    step = 0.36 if numbered else 0.2
    left = 0.25 + 0.066 * longest
    sheet = Sheet(
        f"retention_{kind}", 1, columns=1, left=left, right=0.2, bottom=0.5 if numbered else 0.72,
        width=left + 0.2 + max(2.4, step * len(layers)), height=1.0 + 0.25 * len(summary.series),
    )  # fmt: skip
    benches = [str(b) for b in frame["bench"].unique()]
    mini = summary.is_mini_model or any(summary.is_mini_bench(b) for b in benches)
    axes = sheet.panel(KINDS[kind] + (" (mini)" if mini else ""), mark=False)
    _cells(axes, summary.series, layers, values, with_numbers=numbered)
    spread = float((means["max"] - means["min"]).max())
    absent = [s for i, s in enumerate(summary.series) if i not in set(frame["series"])]
    caption = _caption(summary, benches, spread, absent, whole)
    alt = f"{KINDS[kind]}: " + "; ".join(
        f"{s.label} {text.percent(sum(row) / len(row))} on average"
        for i, s in enumerate(summary.series)
        if (row := [v for (series, _), v in values.items() if series == i])
    )
    table: list[list[object]] = [["model", "label", "bench", "layer", "kind", "kept_fraction"]]
    for row in frame.itertuples():
        one = summary.series[row.series]
        table.append([one.model, one.label, row.bench, row.layer, kind, row.kept_fraction])
    return sheet.save(folder, KINDS[kind], caption, [alt], table)


def _cells(
    axes: Axes,
    series: list[Series],
    layers: list[int],
    values: dict[tuple[int, int], float],
    with_numbers: bool,
) -> None:
    """One square a method and layer; its ink is the share, so it suits light and dark pages."""
    known, inks = [], []
    for row in range(len(series)):
        for column, layer in enumerate(layers):
            share = values.get((row, layer))
            box = Rectangle((column - 0.47, row - 0.44), 0.94, 0.88)
            if share is None:
                box.set(facecolor="none", edgecolor=GRID, hatch="////", linewidth=0)
                axes.add_patch(box)
                continue
            known.append(box)
            inks.append(_ink(share))
            if with_numbers:
                colour = ON_ACCENT if share > 0.55 else INK
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center",
                          color=colour, fontsize=7)  # fmt: skip
    axes.add_collection(PatchCollection(known, facecolors=inks, linewidths=0))
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(len(series) - 0.5, -0.5)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    every = 1 if with_numbers else 4
    shown = range(0, len(layers), every)
    axes.set_xticks(shown, [str(layers[i]) for i in shown])
    axes.set_yticks(range(len(series)), [s.short for s in series])
    axes.set_xlabel("decoder layer")
    if not with_numbers:
        _key(axes, len(layers))


def _ink(share: float) -> tuple[float, float, float, float]:
    return to_rgba(ACCENT, 0.04 + 0.96 * share)


def _key(axes: Axes, columns: int) -> None:
    """A small scale of the inks, below the map at the right."""
    place = axes.get_xaxis_transform()
    rows = abs(axes.get_ylim()[0] - axes.get_ylim()[1])
    top, height = -1.15 / rows, 0.45 / rows
    size = columns * 0.035
    left = columns - 2.4 - 5 * size
    for i in range(5):
        axes.add_patch(
            Rectangle(
                (left + i * size, top), size * 0.94, height, transform=place, clip_on=False,
                facecolor=_ink(i / 4), linewidth=0,
            )
        )  # fmt: skip
    words: dict[str, Any] = {"transform": place, "va": "center", "color": MUTED, "fontsize": 7}
    axes.text(left - size * 0.3, top + height / 2, "0 %", ha="right", **words)
    axes.text(left + 5.3 * size, top + height / 2, "100 %", ha="left", **words)


def _caption(
    summary: Summary, benches: list[str], spread: float, absent: list[Series], whole: list[str]
) -> str:
    many = len(benches) > 1
    parts = [
        "Share of the tokens that each decoder layer processes in prefill, in per cent"
        + (f", mean over {text.listing(benches)}" if many else f" on {benches[0]}")
        + "; the stronger the colour, the more."
    ]
    if many and not math.isnan(spread):
        parts.append(f"Benches differ by at most {text.number(100 * spread)} points in a layer.")
    if whole:
        parts.append(f"Every layer of every method keeps all {text.listing(whole)} tokens.")
    if absent:
        parts.append(f"Hatched: no routing recorded for {text.series_names(absent)}.")
    return " ".join([*parts, f"{text.conditions(summary)}; {text.sample_count(summary)}."])
