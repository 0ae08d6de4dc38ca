"""Retention schedules: the share of image tokens over depth, all methods in one panel."""

from __future__ import annotations

from pathlib import Path

from reports import retention, text
from reports.sheet import Drawn, Sheet
from reports.style import Palette
from reports.summary import Summary

TITLE = "Retention schedules"


def draw(summary: Summary, folder: Path, palette: Palette) -> Drawn | None:
    """One curve a method; None without routing of image tokens."""
    frame = retention.frame_of(summary)
    frame = frame[frame["kind"] == "image"]
    if not len(frame):
        return None
    shares = frame.groupby(["series", "layer"])["kept_fraction"].mean()
    benches = [str(b) for b in frame["bench"].unique()]
    mini = summary.is_mini_model or any(summary.is_mini_bench(b) for b in benches)
    longest = max(len(s.short) for s in summary.series)
    right = 0.5 + 0.075 * longest
    sheet = Sheet("retention_schedule", 1, width=5.2 + right, height=3.1, right=right, columns=1)
    axes = sheet.panel(TITLE, mini)
    table: list[list[object]] = [["model", "label", "layer", "kept_fraction", "benches"]]
    said = []
    for index, series in enumerate(summary.series):
        if index not in shares.index.get_level_values("series"):
            continue
        curve = shares[index]
        axes.plot(
            curve.index, 100 * curve, drawstyle="steps-mid", label=series.short,
            color=palette.colour(series), marker=palette.marker(series), markersize=4.5,
            linewidth=1.4,
        )  # fmt: skip
        said.append(f"{series.label} {text.percent(float(curve.mean()))}")
        table += [[series.model, series.label, int(layer), share, " ".join(benches)]
                  for layer, share in curve.items()]  # fmt: skip
    axes.set_ylim(-4, 104)
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("image tokens kept (%)")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    caption = (
        "Share of the image tokens that each decoder layer processes in prefill, mean over "
        f"{text.listing(benches)} and all samples. The mean over layers is the image tokens' share "
        f"of the KV cache. {text.conditions(summary)}; {text.sample_count(summary)}."
    )
    alt = f"{TITLE}, mean over layers: " + ", ".join(said) + "."
    return sheet.save(folder, TITLE, caption, [alt], table)
