"""The first screen of a ledger without benchmarks: what to choose on costs, what a GPU holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns

from harness.statistics.bounds import Sample, whole_call
from harness.store import columns
from reports import text
from reports.cell import Series
from reports.csvio import Spec, read_table
from reports.section import Section
from reports.sheet import Drawn, Sheet
from reports.style import Palette
from reports.summary import Summary
from reports.tables import Cell, Column, Table, name_cell

FILE = Spec.of(columns.CAPACITY, "cell_id", "method", "label", "kv_gib")
TITLE = "What to choose on costs"
ABOUT = (
    "Nothing here was measured. FLOPs and the KV cache are counted from the routing that the "
    "engine predicts at the model's true sizes; weights are the closed form of its shape, "
    "activations an estimate at the widest layer, workspace and fragmentation are not counted, "
    "95 % of the GPU's memory counts as usable. Times are bounds at the maker's peaks (16-bit, "
    "dense): the larger of FLOPs over peak and bytes over bandwidth; kernels do not reach them."
)
BATCHES, NEW = (1, 4, 16, 64), (1, 32, 256, 1024)
MOST_PANELS = 8
NEAR = 0.02
"""Costs this close are one: a budget counts as met within as much."""
HEADER = ("label", "batch", "n_out", "predicted_ms", "dense_ms", "speed_up")
Frame = dict[Series, Any]


def section(summary: Summary, folder: Path, palette: Palette) -> Section | None:
    """Table and figure; None for a run without ``capacity.csv``."""
    found = load(summary)
    if not found:
        return None
    drawn = _draw(summary, found, folder)
    figures = (drawn,) if drawn else ()
    board = table(summary, found)
    return Section("overview", TITLE, "", figures, (board,), first=bool(drawn), about=ABOUT)


def load(summary: Summary) -> Frame:
    """The rows of capacity.csv by the report's rows."""
    frame = read_table(summary.run.path / FILE.name, FILE, summary.run.notices)
    names = {(s.model, s.method, s.label): s for s in summary.series}
    rows = {}
    for row in frame.itertuples():
        series = names.get((str(row.model), str(row.method), str(row.label)))
        if series is not None and not math.isnan(row.kv_gib):
            rows[series] = row
    return rows


def table(summary: Summary, found: Frame) -> Table:
    """One row a method, cheapest prefill first, each with its share of dense's."""
    dense = next((row for s, row in found.items() if s.is_reference), None)
    first = next(iter(found.values()))
    batch = f"batch {first.batch:.0f}, {first.n_out:.0f} new tokens"
    made: list[tuple[Column, str, float, int]] = [
        (Column("Prompt", "TFLOPs a sample: tower + prefill"), "tflops_prompt", 1, -1),
        (Column("New token", "GFLOPs a sample"), "tflops_token", 1e3, -1),
        (Column("KV cache", f"GiB, {batch}"), "kv_gib", 1, -1),
        (Column("Memory", "GiB: weights + KV + activations"), "memory_gib", 1, -1),
        (Column("Fits", f"samples on {first.gpu or 'a GPU'}, at most"), "largest_batch", 1, 0),
        (Column("Prefill", "ms at least, predicted"), "prefill_ms_least", 1, -1),
        (Column("Decode", "ms a token at least, predicted"), "decode_ms_least", 1, -1),
    ]
    made = [m for m in made if any(not math.isnan(getattr(r, m[1])) for r in found.values())]
    rows = []
    decimals = {m[1]: _decimals([getattr(r, m[1]) * m[2] for r in found.values()]) for m in made}
    for series, row in sorted(found.items(), key=lambda one: one[1].tflops_prompt):
        cells = [name_cell(series)]
        for _, field, scale, places in made:
            value = getattr(row, field) * scale
            base = getattr(dense, field) * scale if dense is not None else math.nan
            share = value / base if base and not series.is_reference else math.nan
            shown = text.number(value, decimals[field] if places < 0 else places)
            sub = "" if math.isnan(share) else _share(field, share)
            cells.append(Cell(shown, sub=sub, sort=value))
        rows.append(cells)
    note = f"{first.bench} tokens, {first.dtype}; below each number its ratio to dense."
    return Table("overview", TITLE, [Column("Method", numeric=False), *(m[0] for m in made)],
                 rows, note)  # fmt: skip


def _decimals(values: list[float]) -> int:
    """Decimals that leave the smallest number of a column three figures that matter."""
    least = min((abs(v) for v in values if v and not math.isnan(v)), default=1.0)
    return max(0, 2 - math.floor(math.log10(least)))


def _share(field: str, share: float) -> str:
    return f"{text.number(share, 2)}×" if field == "largest_batch" else text.percent(share)


def choose(summary: Summary) -> list[str]:
    """Which rows are cheapest, which never are, and what that means on the named GPU."""
    found = load(summary)
    if len(found) < 2:
        return []
    costs = {s: (r.tflops_prompt, r.tflops_token, r.kv_gib) for s, r in found.items()}
    front = [s for s in costs if not any(_cheaper(costs[o], costs[s]) for o in costs)]
    front = front or [min(costs, key=costs.__getitem__)]
    beaten = [s for s in costs if s not in front]
    said = f"Cheapest in prompt, new token or KV cache: {_names(front)}."
    if beaten:
        said += f" Never on costs: {_names(beaten)}, since another row costs less"
        said += " and no more in any of the three"
        said += f" (within {text.percent(NEAR)} is the same)."
    said += " Costs alone: accuracy is not known here."
    return [said, *_held(found), *_bounds(found)]


def _cheaper(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether `one` costs no more anywhere and less somewhere, by more than budgets are met."""
    near = [math.isclose(a, b, rel_tol=NEAR) for a, b in zip(one, other, strict=True)]
    below = [a < b for a, b in zip(one, other, strict=True)]
    return all(n or b for n, b in zip(near, below, strict=True)) and not all(near)


def _held(found: Frame) -> list[str]:
    dense = next((row for s, row in found.items() if s.is_reference), None)
    if dense is None or math.isnan(dense.largest_batch):
        return []
    series, most = max(found.items(), key=lambda one: one[1].largest_batch)
    where = f"{_gpu(dense)} in {dense.dtype}"
    if most.largest_batch < 1:
        return [f"No sample fits {where}: weights take {text.number(dense.weights_gib)} GiB of "
                f"{text.number(dense.usable_gib)} usable."]  # fmt: skip
    said = f"{where} holds at most {dense.largest_batch:.0f} samples of dense"
    if not series.is_reference and dense.largest_batch:
        times = text.number(most.largest_batch / dense.largest_batch, 1)
        said += f" and {most.largest_batch:.0f} of {series.short or series.label} ({times}×)"
    return [f"{said}; workspace is not counted."]


def _bounds(found: Frame) -> list[str]:
    dense = next((row for s, row in found.items() if s.is_reference), None)
    if dense is None or math.isnan(dense.prefill_ms_least):
        return []
    parts = []
    for field, what in (("prefill_ms_least", "prefill"), ("decode_ms_least", "a token")):
        now, best = getattr(dense, field), min(getattr(row, field) for row in found.values())
        least_of = [s for s, row in found.items() if math.isclose(getattr(row, field), best)]
        places = _decimals([now, best])
        shown, least = text.number(now, places), text.number(best, places)
        name = _names(least_of) if len(least_of) <= 2 else f"{len(least_of)} rows"
        parts.append(f"{what} takes at least {shown} ms with dense and {least} with {name}")
    batch = f"batch {dense.batch:.0f}"
    return [f"Predicted at {_gpu(dense)}'s peaks, {batch}: {'; '.join(parts)}. Bounds, no times."]


def _gpu(row: Any) -> str:
    return str(row.gpu)


def _names(series: list[Series]) -> str:
    return text.listing([s.short or s.label for s in series])


def _draw(summary: Summary, found: Frame, folder: Path) -> Drawn | None:
    """Predicted speed-up of the whole call over batch and output length, a panel a method."""
    dense = next((row for s, row in found.items() if s.is_reference), None)
    others = [(s, r) for s, r in found.items() if not s.is_reference][:MOST_PANELS]
    if dense is None or not others or math.isnan(dense.peak_tflops):
        return None
    sheet = Sheet("bounds", len(others), width=3.1, height=2.5, columns=2)
    base, rows, alts = _sample(dense), [], []
    weights = dense.weights_gib * 1024**3
    for series, row in others:
        one = _sample(row)
        grid = np.empty((len(BATCHES), len(NEW)))
        for i, batch in enumerate(BATCHES):
            for j, n_out in enumerate(NEW):
                how = (weights, batch, n_out, row.peak_tflops, row.peak_gb_s)
                ours, theirs = whole_call(one, *how), whole_call(base, *how)
                grid[i, j] = theirs / ours
                rows.append([series.label, batch, n_out, ours, theirs, grid[i, j]])
        axes = sheet.panel(series.short or series.label, summary.is_mini_model, covered=True)
        frame = pd.DataFrame(grid, index=list(BATCHES), columns=list(NEW))
        sns.heatmap(
            frame, ax=axes, annot=True, fmt=".2f", cbar=False, vmin=1, vmax=max(2.0, grid.max()),
            cmap=sns.light_palette("#5b9fd0", as_cmap=True), annot_kws={"color": "#15181c"},
        )  # fmt: skip
        axes.set(xlabel="new tokens", ylabel="batch")
        axes.tick_params(axis="y", rotation=0)
        axes.grid(visible=False)
        alts.append(f"{series.label}: predicted speed-up {grid.min():.2f} to {grid.max():.2f}.")
    caption = (
        f"Predicted speed-up over dense of the whole call at {_gpu(dense)}'s peaks "
        f"({dense.peak_tflops:g} TFLOP/s, {dense.peak_gb_s:g} GB/s), {dense.bench} tokens as "
        "the prompt, by batch and output length: a bound, not a measurement. Where it is near 1, "
        "reading the weights or the new tokens take the time, which no method here shortens."
    )
    return sheet.save(folder, "Where the saving could pay", caption, alts, [[*HEADER], *rows])


def _sample(row: Any) -> Sample:
    return Sample(row.tflops_prompt, row.tflops_token, row.kv_mib_prompt, row.kv_mib_token, 0.0)
