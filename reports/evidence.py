"""Evidence recall: do the layers keep the patches that bear the answer?"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from reports import retention, text
from reports.sheet import Drawn, Sheet
from reports.style import MUTED, Palette
from reports.summary import Summary
from reports.tables import Cell, Column, Table, name_cell

TITLE = "Evidence recall"
LOOKS = (("right", "-", "o"), ("wrong", "--", "X"))


def frame_of(summary: Summary) -> pd.DataFrame:
    """evidence.csv of the finished cells, with the series each row belongs to."""
    place = {
        cell.cell_id: summary.series.index(series)
        for (series, _), cell in summary.cells.items()
        if cell.status == "done" and cell.cell_id
    }
    frame = summary.run.evidence
    frame = frame.assign(series=frame["cell_id"].map(place))
    return frame[frame["series"].notna() & frame["recall"].notna()].astype({"series": int})


def draw(summary: Summary, folder: Path, palette: Palette) -> list[Drawn]:
    """One figure a bench, one panel for every method that leaves some evidence out."""
    frame = frame_of(summary)
    layers = frame[(frame["scope"] == "layer") & (frame["layer"] >= 0)]
    drawn = []
    for bench in layers["bench"].unique():
        part = layers[layers["bench"] == bench]
        lowest = part.groupby("series")["recall"].min()
        chosen = [int(index) for index in sorted(lowest[lowest < 0.9995].index)]
        if chosen:
            drawn.append(_draw(summary, folder, str(bench), part, chosen, palette))
    return drawn


def _draw(
    summary: Summary,
    folder: Path,
    bench: str,
    frame: pd.DataFrame,
    chosen: list[int],
    palette: Palette,
) -> Drawn:
    name = text.file_names(summary.benches)[bench]
    sheet = Sheet(f"evidence_{name}", len(chosen), width=3.6, height=2.6)
    kept = retention.frame_of(summary)
    kept = kept[(kept["bench"] == bench) & (kept["kind"] == "image")]
    mini = summary.is_mini_model or summary.is_mini_bench(bench)
    table: list[list[object]] = [["label", "bench", "layer", "answered", "n", "recall", "ci_low",
                                  "ci_high", "merged"]]  # fmt: skip
    alts, counts = [], set()
    for index in chosen:
        series = summary.series[index]
        axes = sheet.panel(series.short, mini)
        own = frame[frame["series"] == index].sort_values("layer")
        base = kept[kept["series"] == index].sort_values("layer")
        axes.plot(base["layer"], 100 * base["kept_fraction"], color=MUTED, linestyle=":",
                  linewidth=1.2)  # fmt: skip
        said = _curves(axes, own, palette.colour(series))
        axes.set_ylim(-4, 122)  # with room for the counts above the curves
        axes.set_yticks(range(0, 101, 25))
        axes.set_xlabel("decoder layer")
        axes.set_ylabel("patches kept (%)")
        alts.append(f"{series.label}, mean over layers: {', '.join(said)}.")
        counts |= {int(n) for n in own.loc[own["answered"] == "all", "n"]}
        table += [
            [series.label, bench, int(r.layer), r.answered, int(r.n), r.recall]
            + [_csv(v) for v in (r.ci_low, r.ci_high, r.merged)]
            for r in own.itertuples()
        ]
    n = text.listing([str(c) for c in sorted(counts)])
    caption = (
        f"{bench}: share of the patches overlapping the answer's boxes that each layer still "
        "processes, mean over samples with a 95 % band drawn over images; solid for samples "
        "answered right, dashed for wrong, dotted the share of all image tokens kept. "
        f"{text.conditions(summary)}; n = {n}."
    )
    return sheet.save(folder, f"{TITLE} on {bench}", caption, alts, table)


def _curves(axes: Axes, frame: pd.DataFrame, colour: str) -> list[str]:
    """Right and wrong where the answers are split, else all; what to say of them."""
    said, counts = [], []
    looks = [look for look in LOOKS if (frame["answered"] == look[0]).any()]
    for answered, line, marker in looks or [("all", "-", "o")]:
        own = frame[frame["answered"] == answered]
        counts.append(f"{answered} n = {int(own['n'].max())}")
        axes.plot(own["layer"], 100 * own["recall"], color=colour, linestyle=line, marker=marker,
                  markersize=4, linewidth=1.4)  # fmt: skip
        if own["ci_low"].notna().all():
            axes.fill_between(own["layer"], 100 * own["ci_low"], 100 * own["ci_high"],
                              color=colour, alpha=0.14, linewidth=0)  # fmt: skip
        said.append(f"{answered} {text.percent(float(own['recall'].mean()))}")
    axes.text(0.02, 0.98, ", ".join(counts), transform=axes.transAxes, va="top", color=MUTED)
    return said


def table(summary: Summary) -> Table | None:
    """Mean over layers, by method and bench."""
    frame = frame_of(summary)
    frame = frame[frame["scope"] == "mean"]
    if not len(frame):
        return None
    kept = retention.frame_of(summary)
    kept = kept[kept["kind"] == "image"].groupby(["series", "bench"])["kept_fraction"].mean()
    columns = [
        Column("Method", numeric=False),
        Column("Bench", numeric=False),
        Column("All patches", "kept, mean over layers"),
        Column("Evidence", "recall, 95 % CI"),
        Column("Answered right", "recall, 95 % CI"),
        Column("Answered wrong", "recall, 95 % CI"),
        Column("Merged", "of the evidence"),
    ]
    rows = []
    for (index, bench), part in frame.groupby(["series", "bench"], sort=True):
        by = {str(r.answered): r for r in part.itertuples()}
        share = float(kept.get((index, bench), math.nan))
        note = "mini" if summary.is_mini_bench(str(bench)) else ""
        row = [name_cell(summary.series[index]), Cell(str(bench), note=note, sort=str(bench))]
        row.append(Cell(text.percent(share), sort=share))
        row += [_recall(by.get(answered)) for answered in ("all", "right", "wrong")]
        merged = float(by["all"].merged) if "all" in by else math.nan
        rows.append([*row, Cell(text.percent(merged), sort=merged)])
    note = (
        "Mean over layers of the share of answer-bearing patches processed in their own slot. "
        "Right is a score of at least 0.5. A difference between right and wrong answers is an "
        "observation, not a cause: hard samples may differ in both."
    )
    return Table("evidence", TITLE, columns, rows, note)


def _recall(row: object) -> Cell:
    if row is None:
        return Cell(text.GAP, tone="gap")
    value, low, high, n = (float(getattr(row, k)) for k in ("recall", "ci_low", "ci_high", "n"))
    ci = text.interval(100 * low, 100 * high)
    return Cell(text.percent(value, 1), ci, note=f"n = {int(n)}", sort=value)


def _csv(value: float) -> object:
    return "" if math.isnan(value) else value
