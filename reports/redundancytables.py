"""Tables of the layer analyses: layer plan, correlations, retention plans."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from reports import text
from reports.layerdata import ALL, SHORT, Layers, named
from reports.tables import Cell, Column, Table


def tables(layers: Layers) -> list[Table]:
    """Those that the files have rows for."""
    found = (_layer_plan(layers), _predictors(layers), _stability(layers), _plans(layers))
    return [table for table in found if table is not None]


def _layer_plan(layers: Layers) -> Table | None:
    """γ-MoD's rule: which layers stay dense, which would route."""
    frame = layers.arank
    if frame.empty:
        return None
    rows = []
    for (bench, variant), part in frame.groupby(["bench", "variant"], sort=False):
        part = part[part["n_samples"] == part["n_samples"].max()].sort_values("layer")
        dense = part["dense"] == 1
        spent = part["seconds"].iloc[0]
        rows.append(
            [
                Cell(str(bench), tone="name", sort=str(bench)),
                Cell(SHORT.get(str(variant), str(variant)), tone="name"),
                _count(part["n_samples"].iloc[0]),
                Cell(_numbers(part.loc[dense, "layer"])),
                Cell(_numbers(part.loc[~dense, "layer"])),
                _number(spent, 1),
            ]
        )
    columns = [Column("Bench", numeric=False), Column("ARank of", numeric=False), Column("n")]
    columns += [Column("Dense", "top 4", numeric=False), Column("MoD layers", numeric=False)]
    columns.append(Column("Seconds", "forward passes and ranks"))
    note = (
        "γ-MoD's published models keep layers 0, 1, 2 and the last dense, whatever the ARank. "
        "As a method: gamma:layers=3+4+... with the MoD layers."
    )
    return Table("layer-plan", "ARank's layer plan", columns, rows, note, searchable=len(rows) > 12)


def _predictors(layers: Layers) -> Table | None:
    """How well ARank, block influence and cosine rank the layers by measured damage."""
    frame = layers.correlation[layers.correlation["kind"] == "with damage"]
    whole = frame[frame["bench"] == ALL]
    frame = pd.concat([whole, frame[frame["bench"] != ALL]])
    if frame.empty:
        return None
    note = (
        "Positive: layers of a high measure hurt most when they are skipped. Cosine should be "
        "negative: a layer that changes little should cost little. Image-token cosine; block "
        "influence is 1 − cosine over all tokens (ShortGPT)."
    )
    names = [
        Cell(f"{named(row.x)} and {named(row.y)}", tone="name", sort=row.x)
        for row in frame.itertuples()
    ]
    return _correlations("layer-damage", "What predicts damage", frame, names, note)


def _stability(layers: Layers) -> Table | None:
    """ARank between tasks, and between disjoint samples of a task."""
    kinds = ["between tasks", "between sample sizes"]
    frame = layers.correlation[layers.correlation["kind"].isin(kinds)]
    if frame.empty:
        return None
    names = [Cell(f"{row.x} and {row.y}", tone="name", sort=row.x) for row in frame.itertuples()]
    note = "Samples of one task are disjoint and share no image."
    return _correlations("layer-stability", "Is ARank stable?", frame, names, note)


def _correlations(
    name: str, title: str, frame: pd.DataFrame, names: list[Cell], note: str
) -> Table:
    columns = [
        Column("Of", numeric=False), Column("Measures", numeric=False), Column("Layers"),
        Column("n", "documents"), Column("ρ", "95 % CI over layers"), Column("p"),
        Column("95 % CI", "over documents"),
    ]  # fmt: skip
    rows = []
    for label, row in zip(names, frame.itertuples(), strict=True):
        over = text.interval(row.documents_low, row.documents_high, 2, signed=True)
        ci = text.interval(row.ci_low, row.ci_high, 2, signed=True)
        rows.append(
            [
                Cell(named(row.bench), tone="name", sort=row.bench), label, _count(row.n_layers),
                _count(row.n_samples),
                Cell(text.number(row.rho, 2, signed=True), ci, sort=row.rho),
                _number(row.p_value, 3), Cell(over or text.GAP),
            ]
        )  # fmt: skip
    rest = (
        " ρ: Spearman over layers. Over layers (Fisher): what another model's layers might give; "
        "over documents (bootstrap of images): what other documents would give on this model. "
        "Not corrected for the number of rows."
    )
    return Table(name, title, columns, rows, note + rest, searchable=len(rows) > 12)


def _plans(layers: Layers) -> Table | None:
    """Every plan at the same KV budget on held-out documents."""
    frame = pd.concat([layers.plans[layers.plans["bench"] == ALL],
                       layers.plans[layers.plans["bench"] != ALL]])  # fmt: skip
    if frame.empty:
        return None
    top = frame[["accuracy", "dense_accuracy"]].max().max()
    unit = 100.0 if top <= 1 else 1.0
    columns = [
        Column("Bench", numeric=False), Column("Plan", numeric=False), Column("n", "held out"),
        Column("KV cache", "vision tokens, planned / measured"), Column("Accuracy", "95 % CI"),
        Column("Δ to dense", "95 % CI, points"), Column("Δ to prd", "95 % CI, points"),
        Column("p", "adjusted"), Column("Retention by layer", "%", numeric=False),
    ]  # fmt: skip
    rows = []
    for row in frame.itertuples():
        kv = f"{text.percent(row.kv_planned, 1)} / {text.percent(row.kv_measured, 1)}"
        significant = row.p_adjusted < 0.05
        tone = ("better" if row.delta > 0 else "worse") if significant else ""
        accuracy = text.number(row.accuracy * unit)
        rows.append(
            [
                Cell(row.bench, tone="name", sort=row.bench),
                Cell(row.plan, sub=row.source, tone="name", sort=row.plan),
                _count(row.n), Cell(kv, sort=row.kv_measured),
                Cell(accuracy, text.interval(row.ci_low * unit, row.ci_high * unit),
                     sort=row.accuracy),
                _delta(row.delta_dense, row.delta_dense_ci_low, row.delta_dense_ci_high, unit),
                _delta(row.delta, row.delta_ci_low, row.delta_ci_high, unit, significant, tone),
                _number(row.p_adjusted, 3), Cell(_percents(row.retention)),
            ]
        )  # fmt: skip
    budget, made = frame["kv_budget"].iloc[0], frame["made_on"].iloc[0]
    note = (
        f"All plans keep {text.percent(budget, 2)} of the image-token cache, without training; a "
        "layer reads the tokens that the last prompt token attends to most in it, the others "
        "skip it. fastv drops once after its second layer. Made on the first "
        f"{text.number(made, 0)} documents of each bench, checked on others that share no image "
        "with them. prd is p-MoD's cosine schedule; p by Holm over all rows compared with it. The "
        "specs stand in plans.csv, as --methods takes them."
    )
    return Table("plans", "Plans at one KV budget", columns, rows, note, searchable=len(rows) > 12)


def _delta(
    value: float, low: float, high: float, unit: float, strong: bool = False, tone: str = ""
) -> Cell:
    if math.isnan(value):
        return Cell(text.GAP)
    ci = text.interval(low * unit, high * unit, signed=True)
    shown = text.number(value * unit, signed=True)
    return Cell(shown, ci, strong=strong, tone=tone, sort=value)


def _numbers(layers: Any) -> str:
    return ", ".join(str(int(i)) for i in layers) or text.GAP


def _percents(retention: str) -> str:
    try:
        return " ".join(f"{100 * float(part):.0f}" for part in retention.split("+"))
    except ValueError:
        return text.GAP


def _count(value: float) -> Cell:
    return Cell(text.GAP if math.isnan(value) else str(int(value)), sort=value)


def _number(value: float, digits: int) -> Cell:
    return Cell(text.number(value, digits), sort=value)
