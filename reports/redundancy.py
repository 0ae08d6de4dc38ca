"""Which layers are redundant: ARank by task and sample size, measured damage, plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from reports import text
from reports.layerdata import ALL, Layers
from reports.sheet import Drawn, Sheet
from reports.style import ACCENT, HUES, INK, MUTED, ON_ACCENT
from reports.summary import Summary

TITLE = "Layer redundancy"
INTRO = (
    "ARank is the rank of a layer's attention maps, mean over heads and samples; γ-MoD keeps the "
    "four layers of highest ARank dense (outlined). Damage is what the dense model loses when one "
    "layer is skipped, or when half of the image tokens skip it. A rank is not normalised by "
    "length, so shades are scaled within each row."
)
VARIANTS = {"probs": "ARank of the softmax maps (released code)", "logits": "ARank of Q·Kᵀ (Eq. 5)"}
SHORT = {"probs": "softmax maps", "logits": "Eq. 5"}
PROBES = {"skip-layer": "layer skipped", "half-image": "half of the image tokens skip it"}
MEASURES = {
    "drop": ("drop", "drop_ci_low", "drop_ci_high", "accuracy lost, points", 100.0),
    "nll": ("nll_increase", "nll_ci_low", "nll_ci_high", "answer's NLL rises by, nats", 1.0),
}
BOUND = (
    " This rank cannot exceed a head's width; layers at that bound tie, and the lowest of them "
    "count as the highest."
)
FAR = 50  # one layer that outweighs the median this much puts the axis on a logarithmic scale
LINEAR = 0.1  # up to here such an axis stays linear
NUMBERED = 16  # layers up to which every square shows its number

Rows = list[tuple[str, pd.DataFrame]]


def draw_all(summary: Summary, layers: Layers, folder: Path) -> list[Drawn]:
    """Heat maps of ARank, then the damage beside ARank."""
    drawn = [_maps(summary, layers, folder, variant) for variant in VARIANTS]
    return [d for d in (*drawn, _damage(summary, layers, folder)) if d is not None]


# --- heat maps ----------------------------------------------------------------------------------
def _maps(summary: Summary, layers: Layers, folder: Path, variant: str) -> Drawn | None:
    """Layer by task at the full sample size, and layer by sample size of every task."""
    frame = layers.arank[layers.arank["variant"] == variant]
    if frame.empty:
        return None
    largest = frame.groupby("bench")["n_samples"].transform("max")
    full = frame[frame["n_samples"] == largest]
    tasks = [(b, full[full["bench"] == b]) for b in dict.fromkeys(full["bench"])]
    panels: list[tuple[str, Rows]] = [("by task", tasks)]
    for bench in layers.benches:
        part = frame[frame["bench"] == bench]
        sizes = sorted(part["n_samples"].unique())
        rows = [(f"n = {int(s)}", part[part["n_samples"] == s]) for s in sizes]
        if len(rows) > 1:
            panels.append((f"{bench} by sample size", rows))
    depth = int(frame["layer"].max()) + 1
    step = 0.4 if depth <= NUMBERED else 0.2
    most = max(len(rows) for _, rows in panels)
    sheet = Sheet(
        f"arank_{variant}", len(panels), columns=1, left=1.0, right=0.2, bottom=0.5, top=0.4,
        width=1.2 + max(4.4, step * depth), height=0.95 + 0.26 * most,
    )  # fmt: skip
    for title, rows in panels:
        mark = " (mini)" if layers.mini or summary.is_mini_model else ""
        _squares(sheet.panel(f"ARank, {SHORT[variant]}: {title}{mark}", mark=False), rows, depth)
    counts = sorted({int(n) for n in full.loc[full["bench"] != ALL, "n_samples"]})
    spent = full.loc[full["bench"] != ALL].groupby("bench")["seconds"].first().sum()
    caption = (
        f"{VARIANTS[variant]} of each decoder layer, mean over heads and samples, "
        f"n = {text.listing([str(c) for c in counts])} documents a task. Shade: the row's own "
        "scale, the stronger the higher. Outlined: the four highest of the row. Smaller samples "
        f"are the first documents of the largest. Measured in {text.number(float(spent), 0)} s, "
        f"forward passes included; {text.conditions(summary)}."
    )
    caption += BOUND if variant == "logits" else ""
    alts = [f"{title}: {_said(rows)}" for title, rows in panels]
    header = ["bench", "variant", "n_samples", "layer", "arank", "arank_std", "ci_low", "ci_high"]
    table: list[list[object]] = [[*header, "dense"]]
    table += [_blank(row) for row in frame[[*header, "dense"]].to_numpy().tolist()]
    return sheet.save(folder, f"{TITLE}: {VARIANTS[variant]}", caption, alts, table)


def _squares(axes: Axes, rows: Rows, depth: int) -> None:
    """One square a row and layer; the row's own range gives the ink."""
    for y, (_, frame) in enumerate(rows):
        low, high = frame["arank"].min(), frame["arank"].max()
        for row in frame.itertuples():
            place = (row.arank - low) / (high - low) if high > low else 0.5
            box = Rectangle((row.layer - 0.46, y - 0.43), 0.92, 0.86, facecolor=ACCENT,
                            alpha=0.05 + 0.9 * place, linewidth=0)  # fmt: skip
            axes.add_patch(box)
            if row.dense == 1:
                frame_box = Rectangle((row.layer - 0.44, y - 0.41), 0.88, 0.82, fill=False,
                                      edgecolor=HUES[1], linewidth=1.6)  # fmt: skip
                axes.add_patch(frame_box)
            if depth <= NUMBERED:
                colour = ON_ACCENT if place > 0.6 else INK
                axes.text(row.layer, y, f"{row.arank:.0f}" if row.arank >= 100 else
                          f"{row.arank:.1f}", ha="center", va="center", fontsize=6.5,
                          color=colour)  # fmt: skip
    axes.set_xlim(-0.5, depth - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    shown = range(0, depth, 1 if depth <= NUMBERED else 4)
    axes.set_xticks(shown, [str(i) for i in shown])
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlabel("decoder layer")


def _said(rows: Rows) -> str:
    parts = []
    for name, frame in rows:
        top = ", ".join(str(int(i)) for i in sorted(frame.loc[frame["dense"] == 1, "layer"]))
        parts.append(f"{name}, highest in layers {top or 'unknown'}")
    return "; ".join(parts) + "."


# --- damage -------------------------------------------------------------------------------------
def _damage(summary: Summary, layers: Layers, folder: Path) -> Drawn | None:
    """Per layer, with intervals: damage of both probes in both units, ARank beside them."""
    frame = _together(layers.damage)
    if frame.empty:
        return None
    probes = [p for p in PROBES if (frame["probe"] == p).any()]
    depth = int(frame["layer"].max()) + 1
    arank = _together(layers.arank[layers.arank["variant"] == "probs"])
    arank = arank[arank["n_samples"] == arank["n_samples"].max()]
    panels = [(p, m) for p in probes for m in MEASURES]
    extra = 1 if len(arank) else 0
    sheet = Sheet(
        "layer_damage", len(panels) + extra, columns=1 + len(panels) // 2, width=3.5,
        height=1.1 + 0.17 * depth, left=0.5, right=0.2,
    )  # fmt: skip
    mark = layers.mini or summary.is_mini_model
    alts = []
    # ARank stands at the end of the first row, so that it is beside what it should predict.
    for index, (probe, measure) in enumerate(panels):
        part = frame[frame["probe"] == probe]
        value, low, high, unit, scale = MEASURES[measure]
        axes = sheet.panel(f"{PROBES[probe]}", mark)
        colour = HUES[probes.index(probe)]
        _bars(axes, part["layer"], part[value] * scale, part[low] * scale, part[high] * scale,
              unit, colour, log=measure == "nll")  # fmt: skip
        worst = int(part.loc[part[value].idxmax(), "layer"]) if part[value].notna().any() else "?"
        alts.append(f"{PROBES[probe]}, {unit}: highest in layer {worst}.")
        if index == 1 and extra:
            axes = sheet.panel("ARank (softmax maps)", mark)
            _bars(axes, arank["layer"], arank["arank"], arank["ci_low"], arank["ci_high"],
                  "mean rank", MUTED, bars=False)  # fmt: skip
            alts.append("ARank of the same layers.")
    rows = int(frame["n_samples"].max())
    where = text.listing(layers.benches)
    caption = (
        f"Damage of every decoder layer on {where}, n = {rows} documents, paired with dense, 95 % "
        "CI (bootstrap of images): by the bench's own score, and by the negative log-likelihood of "
        "the target answer (teacher-forced, sum over its tokens). Half of the image tokens are "
        f"drawn at random for every sample. {text.conditions(summary)}."
    )
    header = ["bench", "probe", "layer", "n_samples", "dense_accuracy", "accuracy"]
    header += ["drop", "drop_ci_low", "drop_ci_high", "nll_increase", "nll_ci_low", "nll_ci_high"]
    table: list[list[object]] = [[*header]]
    table += [_blank(row) for row in layers.damage[header].to_numpy().tolist()]
    return sheet.save(folder, f"{TITLE}: what each layer is worth", caption, alts, table)


def _together(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows over all benches, or those of the only bench."""
    whole = frame[frame["bench"] == ALL]
    return (
        whole
        if len(whole)
        else frame[frame["bench"] == frame["bench"].iloc[0]]
        if len(frame)
        else frame
    )


def _bars(
    axes: Axes, layer: Any, value: Any, low: Any, high: Any, unit: str, colour: str,
    bars: bool = True,
    log: bool = False,
) -> None:  # fmt: skip
    if bars:
        axes.barh(layer, value, height=0.62, color=colour, alpha=0.55, zorder=2)
    else:
        axes.plot(value, layer, "o", color=colour, markersize=4, zorder=3)
    axes.hlines(layer, low, high, color=INK, linewidth=1.0, zorder=3)
    if bars:
        axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_ylim(float(max(layer)) + 0.6, -0.6)
    axes.set_yticks(range(0, int(max(layer)) + 1, 1 if max(layer) < NUMBERED else 4))
    if log and max(abs(value)) > FAR * sorted(abs(value))[len(value) // 2]:
        axes.set_xscale("symlog", linthresh=LINEAR)
        axes.set_xticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
        axes.minorticks_off()
        unit = f"{unit} (log beyond {LINEAR:g})"
    axes.set_xlabel(unit)
    axes.set_ylabel("decoder layer")


def _blank(row: Sequence[Any]) -> list[object]:
    return ["" if isinstance(v, float) and math.isnan(v) else v for v in row]
