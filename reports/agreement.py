"""Do layers, and do methods, keep the same image tokens? Jaccard index of the kept sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports import grid, labels, text
from reports.cell import Series
from reports.sheet import Drawn, Sheet
from reports.shown import Shown
from reports.style import MAP_SHADES
from reports.summary import Summary

Floats = NDArray[np.float64]


def jaccard(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Floats:
    """[a, b] index of every row of ``first`` with every row of ``second``; NaN for two empty."""
    ours, theirs = first.astype(np.float64), second.astype(np.float64)
    both = ours @ theirs.T
    either = ours.sum(1)[:, None] + theirs.sum(1)[None, :] - both
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(either > 0, both / either, np.nan))


def by_chance(first: Floats, second: Floats) -> Floats:
    """What sets that hold these shares of the tokens would have if they were drawn at random."""
    both = first * second
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(both / (first + second - both))


def draw(summary: Summary, folder: Path, shown: Sequence[Shown]) -> list[Drawn]:
    """Between layers, one panel a method; between methods, one matrix."""
    chosen = {
        series: samples
        for series in summary.series
        if (samples := [s for s in shown if s.series == series and s.kept_images.size])
        and any(not s.kept_images.all() for s in samples)
        and any(s.kept_images.any(1).sum() > 1 for s in samples)
    }
    if not chosen:
        return []
    drawn: list[Drawn | None] = [_layers(summary, folder, chosen)]
    if len(chosen) > 1:
        drawn.append(_methods(summary, folder, chosen))
    return [one for one in drawn if one is not None]


def _mini(summary: Summary, samples: Sequence[Shown]) -> bool:
    return summary.is_mini_model or any(summary.is_mini_bench(s.bench) for s in samples)


def _layers(summary: Summary, folder: Path, chosen: dict[Series, list[Shown]]) -> Drawn:
    sheet = Sheet("agreement_layers", len(chosen), width=3.2, height=3.2)
    table: list[list[object]] = [
        ["model", "label", "layer", "other_layer", "jaccard", "chance", "n"]
    ]
    alts = []
    for series, samples in chosen.items():
        depth = samples[0].record.layers
        samples = [s for s in samples if s.record.layers == depth]
        index = _mean([jaccard(s.kept_images, s.kept_images) for s in samples])
        shares = [s.kept_images.mean(1) for s in samples]
        chance = _mean([by_chance(x[:, None], x[None, :]) for x in shares])
        routed = np.array([any(x[layer] < 1 for x in shares) for layer in range(depth)])
        pairs = np.outer(routed, routed) & ~np.eye(depth, dtype=bool)
        mean = float(np.nanmean(index[pairs])) if np.isfinite(index[pairs]).any() else np.nan
        mini = _mini(summary, samples)
        axes = sheet.panel(f"{series.short}: {text.number(mean, 2)}", mini, covered=True)
        names = [str(layer) for layer in range(depth)]
        pixels: dict[str, Any] = {"rasterized": True, "linewidths": 0, "cmap": MAP_SHADES}
        grid.draw(axes, index, names, names, **(pixels if depth > grid.NUMBERED else {}))
        axes.set_yticks(axes.get_xticks(), names[:: -(-depth // len(axes.get_xticks()))])
        axes.set(xlabel="decoder layer", ylabel="decoder layer")
        alts.append(f"{series.label}: mean agreement of its routed layers {text.number(mean, 2)}.")
        table += [
            [series.model, series.label, a, b, _csv(index[a, b]), _csv(chance[a, b]), len(samples)]
            for a in range(depth)
            for b in range(depth)
        ]
    caption = (
        "Agreement between the layers of a method: Jaccard index of the image tokens that two "
        "layers keep, 1 for the same set; in the title its mean over pairs of different layers "
        "that leave something out. Two layers that keep much agree by chance as well: the CSV has "
        f"what random sets of these sizes would have. {text.conditions(summary)}; "
        f"mean over n = {_counts(chosen)} recorded samples a method."
    )
    return sheet.save(folder, "Agreement between layers", caption, alts, table)


def _methods(summary: Summary, folder: Path, chosen: dict[Series, list[Shown]]) -> Drawn | None:
    names = list(chosen)
    table: list[list[object]] = [["label", "other_label", "jaccard", "chance", "n"]]
    values = np.full((len(names), len(names)), np.nan)
    chances, counts = values.copy(), []
    for a, first in enumerate(names):
        for b, second in enumerate(names[:a]):
            pairs = _pairs(chosen[first], chosen[second])
            if pairs:
                values[a, b] = float(np.mean([p[0] for p in pairs]))
                chances[a, b] = float(np.mean([p[1] for p in pairs]))
                counts.append(len(pairs))
            table.append([first.label, second.label, _csv(values[a, b]), _csv(chances[a, b]),
                          len(pairs)])  # fmt: skip
    if not counts:
        return None
    words = [
        [_words(v, c) if b < a else "" for b, (v, c) in enumerate(zip(*pair, strict=True))]
        for a, pair in enumerate(zip(values, chances, strict=True))
    ]
    shown = [s.short for s in names]
    room = labels.inches(shown)[0] + 0.1
    sheet = Sheet("agreement_methods", 1, columns=1, width=room + 0.58 * len(names),
                  height=room + 0.3 + 0.42 * len(names))  # fmt: skip
    mini = any(_mini(summary, s) for s in chosen.values())
    axes = sheet.panel("Between methods", mini, covered=True)
    # The first has nothing to its left and the last nothing below it: the matrix is a triangle.
    part = [row[:-1] for row in words[1:]]
    grid.draw(axes, values[1:, :-1], shown[1:], labels.wrapped(shown[:-1]), part)
    axes.patch.set_visible(False)
    axes.tick_params(axis="x", rotation=90)
    n = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    caption = (
        "Agreement between methods: Jaccard index of the image tokens that both keep at the same "
        "layer, mean over the layers where one of them leaves something out; in brackets what "
        "random sets of the same sizes would have. "
        f"{text.conditions(summary)}; mean over n = {n} recorded samples a pair."
    )
    alt = "Agreement between methods: " + "; ".join(
        f"{a.label} and {b.label} {text.number(float(values[i, j]), 2)}"
        for i, a in enumerate(names) for j, b in enumerate(names[:i])
    )  # fmt: skip
    return sheet.save(folder, "Agreement between methods", caption, [alt], table)


def _pairs(first: list[Shown], second: list[Shown]) -> list[tuple[float, float]]:
    """(index, index by chance) of every sample that both recorded."""
    others = {(s.bench, s.doc_id): s.kept_images for s in second}
    found = []
    for sample in first:
        ours, theirs = sample.kept_images, others.get((sample.bench, sample.doc_id))
        if theirs is None or ours.shape != theirs.shape:
            continue
        routed = ~(ours.all(1) & theirs.all(1)) & (ours.any(1) | theirs.any(1))
        if routed.any():
            index = np.diag(jaccard(ours[routed], theirs[routed]))
            chance = by_chance(ours[routed].mean(1), theirs[routed].mean(1))
            found.append((float(index.mean()), float(chance.mean())))
    return found


def _words(value: float, chance: float) -> str:
    return text.GAP if np.isnan(value) else f"{value:.2f}\n({chance:.2f})"


def _mean(parts: list[Floats]) -> Floats:
    """Mean over samples of what is defined, NaN where nothing is."""
    stack = np.stack(parts)
    known = np.isfinite(stack)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, stack, 0).sum(0) / known.sum(0))


def _csv(value: float) -> object:
    return round(float(value), 4) if np.isfinite(value) else ""


def _counts(chosen: dict[Series, list[Shown]]) -> str:
    counts = sorted({len(samples) for samples in chosen.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
