"""Which share of the tokens each layer still processes, method by method."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

from reports import grid, labels, text
from reports.cell import Series
from reports.sheet import Drawn, Sheet
from reports.summary import Summary

KINDS = {
    "image": "Image tokens kept by layer",
    "question": "Question tokens kept by layer",
    "system": "Prompt tokens before the image kept by layer",
    "answer": "Answer tokens processed by layer",
}

SCALE = {"format": PercentFormatter(1, 0, " %"), "ticks": [0, 0.5, 1]}

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
    layers = range(int(frame["layer"].min()), int(frame["layer"].max()) + 1)
    values = means["mean"].unstack("layer").reindex(range(len(summary.series)), columns=layers)
    left, row = labels.inches([s.short for s in summary.series])
    numbered = len(layers) <= grid.NUMBERED
    sheet = Sheet(
        f"retention_{kind}",
        1,
        columns=1,
        height=0.85 + max(0.22, row) * len(summary.series),
        width=left + 0.1 + max(2.4, (0.36 if numbered else 0.19) * len(layers)),
    )
    benches = [str(b) for b in frame["bench"].unique()]
    mini = summary.is_mini_model or any(summary.is_mini_bench(b) for b in benches)
    axes = sheet.panel(KINDS[kind], mini, covered=True)
    shown = values.to_numpy(float)
    words = [["" if math.isnan(v) else f"{100 * v:.0f}" for v in row] for row in shown]
    grid.draw(
        axes, shown, [s.short for s in summary.series], [str(i) for i in layers],
        words if numbered else None, cbar=not numbered, cbar_kws=SCALE,
    )  # fmt: skip
    axes.set_xlabel("decoder layer")
    spread = float((means["max"] - means["min"]).max())
    absent = [s for i, s in enumerate(summary.series) if i not in set(frame["series"])]
    caption = _caption(summary, benches, spread, absent, whole)
    alt = f"{KINDS[kind]}: " + "; ".join(
        f"{s.label} {text.percent(float(np.nanmean(row)))} on average"
        for s, row in zip(summary.series, shown, strict=True)
        if not np.isnan(row).all()
    )
    table: list[list[object]] = [["model", "label", "bench", "layer", "kind", "kept_fraction"]]
    for row in frame.itertuples():
        one = summary.series[row.series]
        table.append([one.model, one.label, row.bench, row.layer, kind, row.kept_fraction])
    return sheet.save(folder, KINDS[kind], caption, [alt], table)


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
