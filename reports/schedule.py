"""Retention schedules: the share of image tokens over depth, all methods in one panel."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from reports import retention, text
from reports.cell import Series
from reports.sheet import Drawn, Sheet
from reports.style import SIZE, Palette
from reports.summary import Summary

TITLE = "Retention schedules"
LINE = 0.17  # inches of a name


def draw(summary: Summary, folder: Path, palette: Palette) -> Drawn | None:
    """One curve a method, named at its end; None without routing of image tokens."""
    frame = retention.frame_of(summary)
    frame = frame[frame["kind"] == "image"]
    if not len(frame):
        return None
    shares = frame.groupby(["series", "layer"], as_index=False)["kept_fraction"].mean()
    shown = [summary.series[i] for i in sorted(shares["series"].unique())]
    benches = [str(b) for b in frame["bench"].unique()]
    mini = summary.is_mini_model or any(summary.is_mini_bench(b) for b in benches)
    longest = max(len(s.short) for s in shown)
    sheet = Sheet("retention_schedule", 1, width=3.4 + 0.07 * longest, columns=1,
                  height=max(3.0, 0.8 + LINE * len(shown)))  # fmt: skip
    axes = sheet.panel(TITLE, mini)
    _curves(axes, shares.assign(series=shares["series"].map(summary.series.__getitem__)), palette)
    ends = [(one, _of(shares, summary, one).iloc[-1]) for one in shown]
    _name_ends(axes, [(one, 100 * float(share)) for one, share in ends], palette, sheet.height)
    table: list[list[object]] = [["model", "label", "layer", "kept_fraction", "benches"]]
    table += [[one.model, one.label, row.layer, row.kept_fraction, " ".join(benches)]
              for row in shares.itertuples() for one in [summary.series[row.series]]]  # fmt: skip
    caption = (
        "Share of the image tokens that each decoder layer processes in prefill, mean over "
        f"{text.listing(benches)} and all samples; lines that end as one have their names below "
        "each other. The mean over layers is the image tokens' share of the KV cache. "
        f"{text.conditions(summary)}; {text.sample_count(summary)}."
    )
    means = [(one, float(_of(shares, summary, one).mean())) for one in shown]
    said = ", ".join(f"{one.label} {text.percent(mean)}" for one, mean in means)
    return sheet.save(folder, TITLE, caption, [f"{TITLE}, mean over layers: {said}."], table)


def _of(shares: pd.DataFrame, summary: Summary, series: Series) -> pd.Series:
    return shares.loc[shares["series"] == summary.series.index(series), "kept_fraction"]


def _curves(axes: Axes, shares: pd.DataFrame, palette: Palette) -> None:
    shown = list(shares["series"].unique())
    sns.lineplot(
        shares.assign(kept=100 * shares["kept_fraction"]), x="layer", y="kept", ax=axes,
        hue="series", style="series", hue_order=shown, style_order=shown,
        palette={one: palette.colour(one) for one in shown},
        dashes={one: palette.dash(one) for one in shown},
        estimator=None, drawstyle="steps-mid", linewidth=1.7, legend=False,
    )  # fmt: skip
    axes.set(ylim=(-4, 104), xlabel="decoder layer", ylabel="image tokens kept (%)")
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _name_ends(
    axes: Axes, ends: list[tuple[Series, float]], palette: Palette, height: float
) -> None:
    """Every name beside the end of its line, moved apart where ends are close."""
    gap = 108 * SIZE * 1.25 / (72 * (height - 0.8))  # in units of the y axis
    ranked = sorted(ends, key=lambda end: end[1])
    places = _apart([y for _, y in ranked], gap)
    for (series, y), place in zip(ranked, places, strict=True):
        colour = palette.colour(series)
        axes.annotate(
            series.short, (1, y), (1.06, place), xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"), color=colour, va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 1,
                        "shrinkB": 0, "relpos": (0, 0.5)},
        )  # fmt: skip


def _apart(values: list[float], gap: float) -> list[float]:
    """Ascending values moved apart to at least ``gap``, each group around its own mean."""
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _span(groups[-2], gap)[1] + gap > _span(groups[-1], gap)[0]:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_span(group, gap)[0] + i * gap for group in groups for i in range(len(group))]


def _span(group: list[float], gap: float) -> tuple[float, float]:
    """Where the first and the last of a group stand."""
    middle, half = sum(group) / len(group), gap * (len(group) - 1) / 2
    return middle - half, middle + half
