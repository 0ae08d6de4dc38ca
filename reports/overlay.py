"""Small multiples of what a few layers keep of the image: the picture that needs no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from reports import geometry, text
from reports.record import GONE, LEFT_OUT, MERGED, PROCESSED, token_states
from reports.sheet import Drawn, Sheet
from reports.shown import Shown, question
from reports.style import INK
from reports.summary import Summary

COLUMNS, BENCHES, TILE = 5, 4, 132
IMAGES = 4  # of a sample, that are drawn
WASH = {LEFT_OUT: (0.84, 236), GONE: (0.80, 62), MERGED: (0.55, 236)}
"""How strongly, and towards which grey, the pixels of a token fade that is not processed."""


def draw(
    summary: Summary, folder: Path, groups: Sequence[Sequence[Shown]], images: dict[str, Path]
) -> list[Drawn]:
    """One figure a bench and image, of its first sample, for at most ``BENCHES`` benches."""
    drawn: list[Drawn] = []
    seen: set[str] = set()
    for group in groups:
        first = group[0]
        if first.bench in seen or len(seen) == BENCHES:
            continue
        names = list(map(str, first.about.get("images") or []))
        for number, name in enumerate(names[:IMAGES]):
            picture, grids = _open(images.get(name)), _finest(first, number)
            if picture is not None and grids:
                seen.add(first.bench)
                which = number if len(names) > 1 else None
                drawn.append(_draw(summary, folder, group, picture, grids, which))
    return drawn


def _finest(sample: Shown, number: int) -> list[dict[str, Any]]:
    """The finest grids of an image that know their place: its tiles, or the whole."""
    if sample.is_mixed:
        return []
    placed = [g for g in sample.record.grid if g.get("box") and g.get("number", 0) == number]
    return [g for g in placed if g["kind"] == "tile"] or placed[-1:]


def _open(path: Path | None) -> NDArray[np.float64] | None:
    if path is None:
        return None
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((TILE, TILE))
    return np.asarray(small, np.float64)


def _draw(
    summary: Summary,
    folder: Path,
    group: Sequence[Shown],
    picture: NDArray[np.float64],
    grids: Sequence[dict[str, Any]],
    number: int | None,
) -> Drawn:
    """Of the image ``number``, from 0, where the sample has several."""
    first = group[0]
    depth = first.record.layers
    layers = sorted({round(i * (depth - 1) / (COLUMNS - 1)) for i in range(COLUMNS)})
    high, wide = picture.shape[:2]
    across, down = len(layers) * (wide + 8), len(group) * (high + 8)
    scale = 1.35 / max(picture.shape[:2])
    left = 0.3 + 0.075 * max(len(s.series.short) for s in group)
    name = text.file_names(summary.benches)[first.bench]
    name += f"_{number + 1}" if number else ""
    sheet = Sheet(f"overlay_{name}", 1, columns=1,
                  width=left + 0.1 + across * scale, height=0.78 + down * scale)  # fmt: skip
    mini = summary.is_mini_model or summary.is_mini_bench(first.bench)
    which = "" if number is None else f", image {number + 1}"
    title = f"{first.bench} document {first.doc_id}{which}"
    axes = sheet.panel(title, mini, covered=True)
    table: list[list[object]] = [["label", "bench", "doc_id", "layer", "tokens", "processed",
                                  "skipped", "dropped", "merged"]]  # fmt: skip
    where = _label_map(grids, picture.shape[:2])
    tokens = np.concatenate([geometry.tokens(grid).ravel() for grid in grids])
    for row, sample in enumerate(group):
        for column, layer in enumerate(layers):
            states = token_states(sample.record)[layer, tokens]
            x, y = column * (wide + 8), row * (high + 8)
            axes.imshow(_faded(picture, where, states), extent=(x, x + wide, y + high, y),
                        interpolation="none")  # fmt: skip
            counts = np.bincount(states, minlength=4).tolist()
            table.append([sample.series.label, first.bench, first.doc_id, layer, tokens.size,
                          *counts])  # fmt: skip
        _boxes(axes, sample, (row * (high + 8), high, wide), grids[0], len(layers))
    axes.set(xlim=(-2, across), ylim=(down, -2), aspect="auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks([c * (wide + 8) + wide / 2 for c in range(len(layers))],
                    [f"layer {layer}" for layer in layers])  # fmt: skip
    axes.set_yticks([r * (high + 8) + high / 2 for r in range(len(group))],
                    [s.series.short for s in group], color=INK)  # fmt: skip
    part = ", its tile grid" if grids[0]["kind"] == "tile" else ""
    caption = (
        f"What {len(layers)} of {depth} decoder layers process of the image{part}{which}. Patches "
        "fade to "
        "pale where skipped, to dark where dropped, half where merged into another token; dashed "
        f"frames hold the answer. {_asked(group)} {text.conditions(summary)}; n = 1."
    )
    kept = [float((token_states(s.record)[:, tokens] == PROCESSED).mean()) for s in group]
    said = zip(group, kept, strict=True)
    alt = f"{title}: " + "; ".join(f"{s.series.label} keeps {text.percent(k)}" for s, k in said)
    drawn = sheet.save(folder, title, caption, [alt], table)
    drawn.photo = True
    return drawn


def _asked(group: Sequence[Shown]) -> str:
    about = group[0].about
    given = ", ".join(f"{s.series.short} “{s.about.get('prediction', '')}”" for s in group)
    return f"{question(group[0])} Target “{about.get('target', '')}”; answers: {given}."


def _label_map(grids: Sequence[dict[str, Any]], shape: tuple[int, int]) -> NDArray[np.int64]:
    """[h, w] which patch of the grids each pixel of the picture belongs to, -1 for none."""
    labels, first = np.full(shape, -1), 0
    for grid in grids:
        own = _labels(grid, shape)
        labels = np.where(own >= 0, own + first, labels)
        first += int(grid["rows"]) * int(grid["cols"])
    return labels


def _labels(grid: dict[str, Any], shape: tuple[int, int]) -> NDArray[np.int64]:
    """The same of one grid."""
    rows, cols = int(grid["rows"]), int(grid["cols"])
    left, top, right, bottom = map(float, grid["box"])
    high, wide = grid["image"]
    y = (np.arange(shape[0]) + 0.5) * high / shape[0]
    x = (np.arange(shape[1]) + 0.5) * wide / shape[1]
    row = np.floor((y - top) / (bottom - top) * rows).astype(int)
    col = np.floor((x - left) / (right - left) * cols).astype(int)
    inside = ((row >= 0) & (row < rows))[:, None] & ((col >= 0) & (col < cols))[None, :]
    return np.where(inside, row[:, None] * cols + col[None, :], -1)


def _faded(
    picture: NDArray[np.float64], where: NDArray[np.int64], states: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The picture with every patch in the look of its state; what no token sees turns dark."""
    state = np.where(where >= 0, states[np.maximum(where, 0)], GONE)
    result = picture.copy()
    for one, (strength, grey) in WASH.items():
        chosen = state == one
        result[chosen] = picture[chosen] * (1 - strength) + grey * strength
    return np.clip(result, 0, 255).astype(np.uint8)


def _boxes(
    axes: Axes, sample: Shown, row: tuple[int, int, int], grid: dict[str, Any], columns: int
) -> None:
    from matplotlib.patches import Rectangle

    top, high, wide = row
    full_high, full_wide = grid["image"]
    for box in sample.record.evidence:
        x, y = box[0] * wide / full_wide, box[1] * high / full_high
        size = (box[2] - box[0]) * wide / full_wide, (box[3] - box[1]) * high / full_high
        for column in range(columns):
            place = (column * (wide + 8) + x, top + y)
            for colour, width, dash in (("#ffffff", 2.4, "-"), (INK, 1.2, (0, (3, 2)))):
                axes.add_patch(Rectangle(place, *size, fill=False, edgecolor=colour,
                                         linewidth=width, linestyle=dash))  # fmt: skip
