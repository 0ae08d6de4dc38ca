"""Which image tokens each layer of each method takes, for one sample; and attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, to_rgba
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from harness.store.record import IMAGE
from reports import shown as routing
from reports import text
from reports.record import PROCESSED, token_states
from reports.sheet import Drawn, Sheet
from reports.shown import Shown
from reports.style import HUES, MAP, MAP_SHADES, MUTED
from reports.summary import Summary

INKS = ListedColormap([to_rgba(MAP), to_rgba(MUTED, 0.10), to_rgba(MUTED, 0.32),
                       to_rgba(HUES[1])])  # fmt: skip
"""Of processed, skipped, dropped and merged tokens, on a light and on a dark page."""


def draw(summary: Summary, folder: Path, samples: Sequence[Shown]) -> Drawn | None:
    """Token by layer, one panel a method, for the first sample that most methods recorded."""
    chosen = [s for s in _most_common(samples) if s.kept_images.size and not s.kept_images.all()]
    if not chosen:
        return None
    first = chosen[0]
    depth = max(s.record.layers for s in chosen)
    sheet = Sheet("selection", len(chosen), columns=2, width=4.0,
                  height=1.05 + max(1.0, 0.055 * depth))  # fmt: skip
    mini = summary.is_mini_model or summary.is_mini_bench(first.bench)
    table: list[list[object]] = [["label", "bench", "doc_id", "layer", "tokens", "kept", "mask"]]
    alts = []
    for sample in chosen:
        states = token_states(sample.record)[:, sample.record.kinds == IMAGE]
        axes = sheet.panel(sample.series.short, mini, covered=True)
        _map(axes, states, INKS, (0, INKS.N - 1))
        axes.set(xlabel="image token", ylabel="decoder layer")
        kept = states == PROCESSED
        share = text.percent(float(kept.mean()))
        alts.append(f"{sample.series.label}: {share} of the image tokens, mean over layers.")
        table += [
            [sample.series.label, first.bench, first.doc_id, layer, row.size, int(row.sum()),
             np.packbits(row).tobytes().hex()]
            for layer, row in enumerate(kept)
        ]  # fmt: skip
    caption = (
        f"Image tokens in reading order against decoder layers, {first.bench} document "
        f"{first.doc_id}: blue processed, pale skipped, grey dropped, orange merged into another "
        f"token. Methods that choose once show columns. {text.conditions(summary)}; n = 1."
    )
    return sheet.save(folder, "Selection map", caption, alts, table)


def _most_common(samples: Sequence[Shown]) -> list[Shown]:
    """All records of one document: the first among those that the most methods have."""
    groups: dict[tuple[str, str], dict[object, Shown]] = {}
    for sample in samples:
        groups.setdefault((sample.bench, sample.doc_id), {}).setdefault(sample.series, sample)
    return list(max(groups.values(), key=len).values()) if groups else []


def attention(summary: Summary, folder: Path) -> Drawn | None:
    """Head-mean attention maps of a few layers of the dense model, or None."""
    found = routing.attention(summary)
    if found is None:
        return None
    bench, maps = found
    values = maps["maps"]
    tokens, side = maps["tokens"], values.shape[1]
    sheet = Sheet("attention", len(values), width=3.2, height=3.3, columns=4)
    mini = summary.is_mini_model or summary.is_mini_bench(bench)
    table: list[list[object]] = [["bench", "doc_id", "layer", "query", "key", "attention"]]
    alts = []
    for layer, value in zip(maps["layers"], values, strict=True):
        axes = sheet.panel(f"Layer {layer}", mini, covered=True)
        _map(axes, np.log10(np.maximum(value, 1e-4)), MAP_SHADES, (-4, 0), tokens / side)
        axes.set(xlabel="attended token", ylabel="attending token")
        first = text.percent(float(value[:, 0].mean()))
        alts.append(f"Layer {layer}: {first} of the attention goes to the first token.")
        rows, cols = np.nonzero(value > 0.05)
        table += [[bench, str(maps["doc_id"]), int(layer), int(r), int(c), round(value[r, c], 3)]
                  for r, c in zip(rows.tolist(), cols.tolist(), strict=True)]  # fmt: skip
    small = f" Averaged down to {side} by {side} blocks." if side < tokens else ""
    caption = (
        f"Attention of the dense model in prefill, mean over heads, {bench} document "
        f"{maps['doc_id']}: the stronger the colour the more, on a logarithmic scale from 0.0001 "
        f"to 1.{small} The CSV has entries above 0.05. {text.conditions(summary)}; n = 1."
    )
    return sheet.save(folder, "Attention maps", caption, alts, table)


def _map(
    axes: Axes, values: NDArray[Any], cmap: Colormap, ends: tuple[float, float], unit: float = 1.0
) -> None:
    """A map of more cells than a drawing holds: one pixel each, ``unit`` tokens or layers wide."""
    down, across = (size * unit for size in values.shape)
    axes.imshow(values, cmap=cmap, vmin=ends[0], vmax=ends[1], extent=(0, across, down, 0),
                interpolation="none", aspect="auto")  # fmt: skip
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, prune="upper"))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, prune="upper"))
