"""Accuracy of every method with its interval, beside the dense and the blind level."""

from __future__ import annotations

import math
from pathlib import Path

from methods import BLIND, REFERENCE
from reports import labels, points, text
from reports.cell import Series
from reports.points import Level, Row
from reports.sheet import Drawn, Sheet
from reports.style import CONTROL, INK, Palette
from reports.summary import Summary

HEADER = ("bench", "model", "label", "status", "metric", "n", "score", "ci_low", "ci_high") + (
    "dense", "blind", "verdict",
)  # fmt: skip
WORDS = {"failed": "failed", "missing": "not run"}


def draw(summary: Summary, folder: Path, palette: Palette) -> Drawn | None:
    """One panel a bench; None when nothing was scored."""
    benches = [b for b in summary.benches if any(summary.score(s, b) for s in summary.series)]
    if not benches:
        return None
    shown = sorted(_rows_shown(summary), key=lambda s: -_average(summary, s, benches))
    _, row = labels.inches([s.short for s in shown])
    sheet = Sheet("accuracy", len(benches), width=3.7, height=1.2 + row * len(shown))
    table: list[list[object]] = [[*HEADER]]
    alts = []
    for bench in benches:
        axes = sheet.panel(bench, summary.is_mini_bench(bench) or summary.is_mini_model)
        rows = [_row(summary, series, bench, palette) for series in shown]
        label = text.metric_name(summary, bench)
        points.draw(axes, rows, label, _levels(summary, bench, shown))
        scored = [(s.label, summary.score(s, bench)) for s in summary.series]
        unit = text.factor(summary, bench)
        said = ", ".join(f"{name} {text.number(v.value * unit)}" for name, v in scored if v)
        alts.append(f"{bench}, {label}: {said}.")
        table += _table(summary, bench)
    order = "Methods by their average over the benches, best first. " if len(benches) > 1 else ""
    caption = (
        f"Accuracy with 95 % CI. {order}Solid line: dense; dashed line: blind, the same model "
        "without the image. A filled marker differs significantly from dense, a hollow one does "
        f"not. {text.detectable(summary)} {text.conditions(summary)}; {text.sample_count(summary)}."
    ).replace("  ", " ")
    return sheet.save(folder, "Accuracy by bench", caption, alts, table)


def _rows_shown(summary: Summary) -> list[Series]:
    """Dense and blind are lines; of several models each has its own, so there they are rows."""
    rows = [s for s in summary.series if not (s.is_reference or s.is_blind)]
    several = len({s.model for s in summary.series}) > 1
    return summary.series if several or not rows else rows


def _average(summary: Summary, series: Series, benches: list[str]) -> float:
    """Mean over the benches, without those on a scale of their own; last where one is lacking."""
    scaled = [b for b in benches if text.factor(summary, b) == 100] or benches
    found = [score.value for b in scaled if (score := summary.score(series, b))]
    return sum(found) / len(found) if len(found) == len(scaled) else -math.inf


def _row(summary: Summary, series: Series, bench: str, palette: Palette) -> Row:
    score, unit = summary.score(series, bench), text.factor(summary, bench)
    if score is None:
        word = WORDS.get(summary.cell(series, bench).status, "no score")
        return Row(series.short, word=word)
    values = (score.value * unit, score.low * unit, score.high * unit)
    look = palette.colour(series), palette.marker(series)
    return Row(series.short, *values, *look, score.significant or series.is_reference)


def _levels(summary: Summary, bench: str, shown: list[Series]) -> list[Level]:
    """Dense and blind, each unless it is a row itself."""
    found = []
    for method, colour in ((REFERENCE, INK), (BLIND, CONTROL)):
        for series in summary.series:
            score = summary.score(series, bench)
            if series.method == method and series not in shown and score:
                value = score.value * text.factor(summary, bench)
                name = f"{method} {text.number(value)}"
                found.append(Level(name, value, colour, dashed=method == BLIND))
    return found


def _table(summary: Summary, bench: str) -> list[list[object]]:
    rows: list[list[object]] = []
    for series in summary.series:
        score = summary.score(series, bench)
        status = summary.cell(series, bench).status
        row: list[object] = [bench, series.model, series.label, status]
        if score:
            levels = [summary.reference(series, bench, m) for m in (REFERENCE, BLIND)]
            numbers = [score.n, score.value, score.low, score.high]
            numbers += [level.value if level else math.nan for level in levels]
            shown: list[object] = ["" if math.isnan(v) else v for v in numbers]
            rows.append([*row, score.metric, *shown, score.verdict])
        else:
            rows.append([*row, "", "", "", "", "", "", "", ""])
    return rows
