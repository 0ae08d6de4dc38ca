"""Which layers are redundant: ARank by task and sample size, measured damage, plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from reports import grid, text
from reports.layerdata import ALL, PROBES, SHORT, Layers
from reports.sheet import Drawn, Sheet
from reports.style import ACCENT, HUES, INK, MUTED
from reports.summary import Summary

TITLE = "Layer redundancy"
INTRO = (
    "ARank is the rank of a layer's attention maps, mean over heads and samples; γ-MoD keeps the "
    "four layers of highest ARank dense (outlined, but for ties). Damage is what the dense model "
    "loses when one layer is skipped, or when half of the image tokens skip it. A rank is not "
    "normalised by length, so shades are scaled within each row."
)
VARIANTS = {
    "probs": f"ARank ({SHORT['probs']}: the released code's)",
    "logits": f"ARank ({SHORT['logits']}: ranks of Q·Kᵀ)",
}
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

Rows = list[tuple[str, pd.DataFrame]]


def draw_all(summary: Summary, layers: Layers, folder: Path) -> list[Drawn]:
    """ARank by task and by sample size, then the damage beside ARank."""
    drawn = [make(summary, layers, folder, v) for v in VARIANTS for make in (_maps, _lines)]
    return [d for d in (*drawn, _damage(summary, layers, folder)) if d is not None]


# --- ARank --------------------------------------------------------------------------------------
def _maps(summary: Summary, layers: Layers, folder: Path, variant: str) -> Drawn | None:
    """Layer by task at the full sample size."""
    frame = layers.arank[layers.arank["variant"] == variant]
    if frame.empty:
        return None
    full = _largest(frame)
    rows = [(b, full[full["bench"] == b]) for b in dict.fromkeys(full["bench"])]
    depth = int(frame["layer"].max()) + 1
    sheet = Sheet(
        f"arank_{variant}", 1, columns=1, height=0.85 + 0.24 * len(rows),
        width=0.5 + 0.075 * max(len(n) for n, _ in rows)
        + max(2.6, (0.42 if depth <= grid.NUMBERED else 0.19) * depth),
    )  # fmt: skip
    mini = bool(layers.mini or summary.is_mini_model)
    title = f"ARank ({SHORT[variant]}) by task"
    _map(sheet.panel(title, mini, covered=True), rows, depth)
    spent = full.loc[full["bench"] != ALL].groupby("bench")["seconds"].first().sum()
    caption = (
        f"{VARIANTS[variant]} of each decoder layer, mean over heads and samples, "
        f"n = {_sizes(full)} documents a task. Shade: the row's own scale, the stronger the "
        "higher. Outlined: those of the row's four highest that no other layer ties with. "
        f"Measured in {text.number(float(spent), 0)} s, forward passes included; "
        f"{text.conditions(summary)}."
    )
    caption += BOUND if variant == "logits" else ""
    return sheet.save(folder, f"{TITLE}: {VARIANTS[variant]}", caption,
                      [f"{title}: {_said(rows)}"], _arank_table(full))  # fmt: skip


def _lines(summary: Summary, layers: Layers, folder: Path, variant: str) -> Drawn | None:
    """Layer by sample size, a panel a task; None where no task has two sizes."""
    frame = layers.arank[layers.arank["variant"] == variant]
    sizes = frame.groupby("bench")["n_samples"].nunique()
    shown = [b for b in layers.benches if sizes.get(b, 0) > 1]
    if not shown:
        return None
    frame = frame[frame["bench"].isin(shown)]
    sheet = Sheet(f"arank_{variant}_samples", len(shown), width=3.6, height=2.5)
    alts = []
    for bench in shown:
        axes = sheet.panel(bench, bool(layers.mini or summary.is_mini_model))
        part = frame[frame["bench"] == bench].sort_values(["n_samples", "layer"])
        counts = sorted(part["n_samples"].unique())
        names = [f"n = {int(c)}" for c in counts]
        named = part.assign(size=part["n_samples"].map(dict(zip(counts, names, strict=True))))
        shades = sns.light_palette(ACCENT, len(names) + 1)[1:]
        sns.lineplot(named, x="layer", y="arank", hue="size", style="size", hue_order=names,
                     style_order=names[::-1], palette=shades, errorbar=None, ax=axes,
                     linewidth=1.5)  # fmt: skip
        whole = part[part["n_samples"] == counts[-1]]
        axes.fill_between(whole["layer"], whole["ci_low"], whole["ci_high"], color=ACCENT,
                          alpha=0.14, linewidth=0)  # fmt: skip
        axes.set(xlabel="decoder layer", ylabel="mean rank")
        axes.legend(title=None, labelspacing=0.2, handlelength=1.6, borderaxespad=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        alts.append(f"{bench}: " + _said([(n, named[named["size"] == n]) for n in names]))
    caption = (
        f"{VARIANTS[variant]} of each decoder layer by sample size, mean over heads and samples; "
        "smaller samples are the first documents of the largest, whose 95 % band is shown. "
        f"{text.conditions(summary)}; n = {_sizes(frame)} documents."
    )
    title = f"{TITLE}: {VARIANTS[variant]} by sample size"
    return sheet.save(folder, title, caption, alts, _arank_table(frame))


def _largest(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["n_samples"] == frame.groupby("bench")["n_samples"].transform("max")]


def _sizes(frame: pd.DataFrame) -> str:
    counts = sorted({int(n) for n in frame.loc[frame["bench"] != ALL, "n_samples"]})
    return text.listing([str(c) for c in counts])


def _arank_table(frame: pd.DataFrame) -> list[list[object]]:
    header = ["bench", "variant", "n_samples", "layer", "arank", "arank_std", "ci_low", "ci_high"]
    table: list[list[object]] = [[*header, "dense"]]
    return table + [_blank(row) for row in frame[[*header, "dense"]].to_numpy().tolist()]


def _map(axes: Axes, rows: Rows, depth: int) -> None:
    """A row's own range gives the shades; its settled four highest are outlined."""
    ranks = pd.DataFrame({i: f.set_index("layer")["arank"] for i, (_, f) in enumerate(rows)}).T
    ranks = ranks.reindex(columns=range(depth))
    low, high = ranks.min(axis=1), ranks.max(axis=1)
    shades = ranks.sub(low, axis=0).div((high - low).where(high > low), axis=0)
    shades = shades.where(shades.notna() | ranks.isna(), 0.5)
    words = [["" if math.isnan(v) else f"{v:.0f}" if v >= 100 else f"{v:.1f}" for v in row]
             for row in ranks.to_numpy()]  # fmt: skip
    names = [name for name, _ in rows]
    grid.draw(axes, shades.to_numpy(float), names, [str(i) for i in range(depth)],
              words if depth <= grid.NUMBERED else None)  # fmt: skip
    for y, (_, frame) in enumerate(rows):
        for layer in _settled(frame):
            axes.add_patch(Rectangle((layer + 0.04, y + 0.05), 0.92, 0.9, fill=False,
                                     edgecolor=HUES[1], linewidth=1.6))  # fmt: skip
    axes.set_xlabel("decoder layer")


def _settled(frame: pd.DataFrame) -> list[int]:
    """Layers chosen as the highest that lie above every layer not chosen."""
    chosen = frame["dense"] == 1
    bar = frame.loc[~chosen, "arank"].max()
    above = frame["arank"] > bar * (1 + 1e-9) if not math.isnan(bar) else chosen
    return sorted(int(i) for i in frame.loc[chosen & above, "layer"])


def _said(rows: Rows) -> str:
    parts = []
    for name, frame in rows:
        top, ties = _settled(frame), int((frame["dense"] == 1).sum())
        said = f"highest in layers {', '.join(map(str, top))}" if top else "no settled highest"
        tied = f", {ties - len(top)} more tied" if ties > len(top) else ""
        parts.append(f"{name}, {said}{tied}")
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
        "layer_damage", len(panels) + extra, columns=1 + len(panels) // 2, width=3.4,
        height=1.1 + 0.18 * depth,
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
            axes = sheet.panel(f"ARank ({SHORT['probs']})", mark)
            _bars(axes, arank["layer"], arank["arank"], arank["ci_low"], arank["ci_high"],
                  "mean rank", MUTED, bars=False)  # fmt: skip
            alts.append(f"ARank ({SHORT['probs']}) of the same layers.")
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
    axes.set_yticks(range(0, int(max(layer)) + 1, 1 if max(layer) < grid.NUMBERED else 4))
    if log and max(abs(value)) > FAR * sorted(abs(value))[len(value) // 2]:
        axes.set_xscale("symlog", linthresh=LINEAR)
        axes.set_xticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
        axes.minorticks_off()
        unit = f"{unit} (log beyond {LINEAR:g})"
    axes.set_xlabel(unit)
    axes.set_ylabel("decoder layer")


def _blank(row: Sequence[Any]) -> list[object]:
    return ["" if isinstance(v, float) and math.isnan(v) else v for v in row]
