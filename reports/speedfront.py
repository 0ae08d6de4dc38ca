"""Accuracy against measured time, where a run has both."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from matplotlib.axes import Axes

from reports import scatter, text
from reports.cell import Score, Series
from reports.scatter import Mark
from reports.sheet import Drawn, Sheet
from reports.style import MUTED, Palette
from reports.summary import Summary
from reports.timing import Phase, Timed, watermark

Point = tuple[Series, Score, Phase]
HEADER = ("bench", "model", "label", "workload", "attn", "batch", "n_out", "n", "score") + (
    "ci_low", "ci_high", "median_ms", "speedup_vs_dense", "speedup_ci_low", "speedup_ci_high",
)  # fmt: skip


def draw(summary: Summary, entries: list[Timed], folder: Path, palette: Palette) -> Drawn | None:
    """One panel a timed bench; None when no method has both a score and an end-to-end time."""
    panels: dict[tuple[str, str], list[Timed]] = {}
    for entry in entries:
        if entry.bench in summary.benches:
            panels.setdefault((entry.bench, entry.workload), []).append(entry)
    drawn = {key: points for key, found in panels.items() if len(points := _points(summary, found))}
    if not drawn:
        return None
    sheet = Sheet("speed_accuracy", len(drawn), width=4.0, height=3.5)
    table: list[list[object]] = [[*HEADER]]
    alts = []
    placed: list[tuple[Axes, list[Mark]]] = []
    for (bench, work), points in drawn.items():
        mark = watermark(entries) or summary.is_mini_bench(bench) or summary.is_mini_model
        first = panels[bench, work][0]
        size = f"batch {text.number(first.batch, 0)}, {text.number(first.n_out, 0)} new tokens"
        axes = sheet.panel(f"{bench}, {size}", mark)
        marks = _marks(points, text.factor(summary, bench), palette)
        scatter.draw(axes, marks, also=[1.0])
        axes.axvline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        placed.append((axes, marks))
        axes.set_xlabel("End-to-end speed-up over dense (×)")
        axes.set_ylabel(text.metric_name(summary, bench))
        said = [f"{s.label} {text.number(p.speedup, 2)}×" for s, _, p in points]
        alts.append(f"{bench}: accuracy against end-to-end speed-up; {', '.join(said)}.")
        for series, score, phase in points:
            entry = next(e for e in panels[bench, work] if e.series == series)
            place = [bench, series.model, series.label, work, entry.attn, entry.batch, entry.n_out]
            numbers = [score.n, score.value, score.low, score.high, phase.median]
            numbers += [phase.speedup, phase.speedup_low, phase.speedup_high]
            table.append([*place, *("" if math.isnan(v) else v for v in numbers)])
    for axes, marks in placed:
        scatter.name(axes, sheet.size_of(axes), marks)
    caption = (
        "Accuracy (95 % CI) against the measured end-to-end speed-up over dense (95 % CI over "
        "rounds, one process); up and to the right is better. Times belong to the named device and "
        f"workload, whose documents may be fewer than those scored. {_devices(entries)}"
        f"{text.conditions(summary)}; {text.sample_count(summary)} scored."
    )
    return sheet.save(folder, "Accuracy against measured speed", caption, alts, table)


def _points(summary: Summary, entries: list[Timed]) -> list[Point]:
    """Dense stands at 1; under several backends, the rows of dense's first one."""
    dense = next((e for e in entries if e.series.is_reference), None)
    found = []
    for entry in entries:
        score = summary.score(entry.series, entry.bench)
        whole = entry.phases.get("end_to_end")
        if score is None or whole is None or (dense and entry.attn != dense.attn):
            continue
        if entry is dense and math.isnan(whole.speedup):
            whole = replace(whole, speedup=1.0)
        if not math.isnan(whole.speedup):
            found.append((entry.series, score, whole))
    return found


def _devices(entries: list[Timed]) -> str:
    names = list(dict.fromkeys(entry.device for entry in entries if entry.device))
    rounds = [entry.rounds for entry in entries if not math.isnan(entry.rounds)]
    few = f"; at least {text.number(min(rounds), 0)} rounds" if rounds else ""
    return f"Timed on {text.listing(names)}{few}. " if names else ""


def _marks(points: list[Point], unit: float, palette: Palette) -> list[Mark]:
    return [
        Mark(
            one.short, phase.speedup, score.value * unit, (phase.speedup_low, phase.speedup_high),
            (score.low * unit, score.high * unit), palette.colour(one), palette.marker(one),
        )
        for one, score, phase in points
    ]  # fmt: skip
