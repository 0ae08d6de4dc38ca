"""`--analyse plan`: retention plans at one KV budget, checked on documents nobody planned on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import methods
from harness.bench.loop import Sample
from harness.layers.analysis import Analysis
from harness.layers.plans import RetentionPlan, measured, papers, top_dense
from harness.layers.tables import damage_tables, layer_tables
from harness.statistics.stats import Paired, holm, mean_interval, paired
from harness.store.columns import layers as columns

FILE = "plans.csv"
REFERENCE = "prd"  # the paper's schedule that every other plan is compared with
PREDICTOR = "probs"  # the released code's ARank plans, as it does there

Samples = list[tuple[str, Sample]]  # bench and sample, held out


def make_plans(analysis: Analysis) -> list[RetentionPlan]:
    """All plans at `analysis.kv`: the papers', and those the files of this run allow."""
    depth = analysis.dense.layers
    found = papers(depth, analysis.kv)
    layers = layer_tables(analysis.read("layer_samples.csv"))
    damage = damage_tables(analysis.read("damage_samples.csv"))
    whole = columns.ALL if len(analysis.benches) > 1 else analysis.benches[0].name
    if (whole, PREDICTOR) in layers:
        scores = layers[whole, PREDICTOR].mean().tolist()
        top = top_dense(scores, analysis.kv)
        found += [] if top is None else [top]
        found.append(measured("arank", f"ARank ({PREDICTOR})", scores, analysis.kv))
    for probe in ("skip-layer", "half-image"):
        if (whole, f"{probe} nll_increase") in damage:
            scores = damage[whole, f"{probe} nll_increase"].mean().tolist()
            found.append(measured(probe, f"damage of {probe}, nll", scores, analysis.kv))
    return found


def run_plan(analysis: Analysis) -> None:
    """Make the plans, answer the held-out documents with each, write `FILE`."""
    plans = make_plans(analysis)
    used = _used(analysis)
    started = time.perf_counter()
    dense = _answers(analysis, methods.build(methods.REFERENCE), used)[0]
    answers: dict[str, Samples] = {}
    kept: dict[str, float | None] = {}
    spent: dict[str, float] = {}
    for plan in plans:
        begun = time.perf_counter()
        answers[plan.name], kept[plan.name] = _answers(analysis, methods.parse(plan.spec), used)
        spent[plan.name] = round(time.perf_counter() - begun, 3)
    rows = []
    for bench in [
        *(b.name for b in analysis.benches),
        *([columns.ALL] if len(analysis.benches) > 1 else []),
    ]:
        for plan in plans:
            row = _row(analysis, bench, plan, dense, answers[plan.name], answers[REFERENCE])
            extra = {"kv_measured": kept[plan.name], "seconds": spent[plan.name]}
            rows.append(row | (extra if row else {}))
    rows = [row for row in rows if row]
    _adjust(rows)
    analysis.write(FILE, columns.PLANS, rows)
    took = time.perf_counter() - started
    analysis.say(f"plan: {len(plans)} plans on {len(dense)} held-out samples, {took:.1f} s")


def _used(analysis: Analysis) -> set[tuple[str, str]]:
    """(bench, document) and ("", image) of everything a plan was made on."""
    rows = [*analysis.read("analysis_documents.csv"), *analysis.read("damage_samples.csv")]
    found = {(row["bench"], row["doc_id"]) for row in rows}
    return found | {("", row["image_id"]) for row in rows if row["image_id"]}


def _answers(
    analysis: Analysis, method: Any, used: set[tuple[str, str]]
) -> tuple[Samples, float | None]:
    """Held-out samples of every bench, and the mean share of the image-token cache."""
    found: Samples = []
    kept: list[float] = []
    for bench in analysis.benches:
        result = analysis.answer(bench, method, analysis.checked)
        chosen = [
            sample
            for sample in result.samples
            if used.isdisjoint([(bench.name, sample.doc_id), ("", sample.image_id)])
        ]
        found += [(bench.name, sample) for sample in chosen]
        ratios = [result.records[sample.doc_id].kv_ratio_vision for sample in chosen]
        kept += [ratio for ratio in ratios if ratio is not None]
    return found, sum(kept) / len(kept) if kept else None


def _row(
    analysis: Analysis,
    bench: str,
    plan: RetentionPlan,
    dense: Samples,
    ours: Samples,
    reference: Samples,
) -> dict[str, Any]:
    """One line of plans.csv, the rest of which :func:`_adjust` fills; {} without samples."""
    mine, images = _scores(ours, bench)
    base, _ = _scores(dense, bench)
    other, _ = _scores(reference, bench)
    docs = [d for d in mine if d in base and d in other]
    values = [mine[d] for d in docs]
    clusters = [images[d] for d in docs]
    interval = mean_interval(values, clusters, analysis.seed)
    if interval is None:
        return {}
    to_dense = paired(values, [base[d] for d in docs], clusters, analysis.seed)
    to_reference = paired(values, [other[d] for d in docs], clusters, analysis.seed)
    assert to_dense is not None and to_reference is not None
    of = [b for b in analysis.benches if bench in (b.name, columns.ALL)]
    row: dict[str, Any] = {
        "model": analysis.model, "bench": bench, "plan": plan.name, "source": plan.source,
        "spec": plan.spec, "kv_budget": analysis.kv, "kv_planned": plan.kv, "n": len(docs),
        "accuracy": interval.value, "ci_low": interval.low, "ci_high": interval.high,
        "dense_accuracy": to_dense.dense, **_delta(to_dense, "delta_dense"),
        "retention": "+".join(map(str, plan.retention)), "made_on": analysis.planned,
        "data": "+".join(sorted({b.data for b in of})),
        **analysis.conditions,
    }  # fmt: skip
    if plan.name != REFERENCE:
        row |= {
            "reference": REFERENCE, **_delta(to_reference, "delta"),
            "p_value": to_reference.p_value,
        }  # fmt: skip
    return row


def _scores(samples: Samples, bench: str) -> tuple[dict[tuple[str, str], float], dict[Any, str]]:
    chosen = [(b, s) for b, s in samples if bench in (b, columns.ALL) and s.score is not None]
    scores = {(b, s.doc_id): float(s.score) for b, s in chosen if s.score is not None}
    return scores, {(b, s.doc_id): s.image_id for b, s in chosen}


def _delta(found: Paired, name: str) -> dict[str, Any]:
    delta = found.delta
    return {name: delta.value, f"{name}_ci_low": delta.low, f"{name}_ci_high": delta.high}


def _adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Holm over every comparison with the reference in the file."""
    tested: list[Mapping[str, Any]] = [row for row in rows if "p_value" in row]
    adjusted = holm([float(row["p_value"]) for row in tested])
    for row, value in zip(tested, adjusted, strict=True):
        row["p_adjusted"] = value  # type: ignore[index]
