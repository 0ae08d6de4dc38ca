"""`--analyse damage`: what a layer is worth, measured by taking it away.

Two probes a layer, run through the engine as ordinary decisions: `skip-layer` (no token is
processed there, generated ones included) and `half-image` (half of the image tokens, drawn anew
for every sample, skip it; text is processed). Damage is the drop of the bench's own score and
the rise of the target's negative log-likelihood, both paired with dense on the same documents.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.bench.loop import CellResult
from harness.layers.analysis import Analysis
from harness.layers.dense import Document, in_batches
from harness.statistics.stats import paired, quantity_interval
from harness.store.columns import layers as columns
from harness.store.csvfile import read_rows, write_csv
from methods.base import Method
from methods.dense import Dense
from methods.plan import Planned
from methods.probe import SkipLayer

FILES = ("damage.csv", "damage_samples.csv")
HALF = 0.5
UNIT = "nats per answer"


def skip_layer(layer: int, depth: int) -> Method:
    """The model without one layer."""
    return SkipLayer(at=layer)


def half_image(layer: int, depth: int) -> Method:
    """Half of the image tokens skip one layer."""
    steps = tuple(HALF if i == layer else 1.0 for i in range(depth))
    return Planned(steps=steps, rank="random")


PROBES: dict[str, Callable[[int, int], Method]] = {
    "skip-layer": skip_layer,
    "half-image": half_image,
}


def run_damage(analysis: Analysis) -> None:
    """Probe every layer on every bench and write `FILES`; a stopped run's probes count."""
    samples: list[dict[str, Any]] = []
    facts: dict[tuple[str, str, int], dict[str, Any]] = {}
    for bench in analysis.benches:
        started = time.perf_counter()
        result = analysis.answer(bench, Dense(), analysis.planned)
        documents = _documents(analysis, bench, result)
        scores, nll = _scores(result, documents), _likelihoods(analysis, Dense(), documents)
        for probe, make in PROBES.items():
            for layer in range(analysis.dense.layers):
                rows, spent = _probe(analysis, bench, probe, layer, make, documents, scores, nll)
                samples += rows
                facts[bench.name, probe, layer] = {
                    "metric": result.headline.metric, "data": bench.data, "seconds": spent,
                }  # fmt: skip
        spent = time.perf_counter() - started
        analysis.say(f"damage on {bench.name}: {len(documents)} samples, {spent:.1f} s")
    analysis.write("damage_samples.csv", columns.PROBED, samples)
    analysis.write("damage.csv", columns.DAMAGE, summarise(analysis, samples, facts))
    shutil.rmtree(analysis.parts, ignore_errors=True)


def _documents(analysis: Analysis, bench: Any, result: CellResult) -> list[Document]:
    """The documents that were answered, with their targets as token ids."""
    found = []
    samples = {sample.doc_id: sample for sample in result.samples}
    with analysis.dense.plain() as asker:
        for document in analysis.documents(bench):
            sample = samples.get(document.doc_id)
            if sample is None or not sample.target:
                continue
            answer = asker.answer_ids(document.request, sample.target)
            named = replace(document, image_id=sample.image_id, target=sample.target)
            found.append(replace(named, answer=answer))
    return found


def _probe(
    analysis: Analysis,
    bench: Any,
    probe: str,
    layer: int,
    make: Callable[[int, int], Method],
    documents: Sequence[Document],
    dense_scores: Sequence[float | None],
    dense_nll: Sequence[float],
) -> tuple[list[dict[str, Any]], float]:
    """One row a document, from the part file of a stopped run or measured now; and the seconds."""
    part = analysis.parts / f"{bench.name}-{probe}-{layer}.csv".replace("/", "_")
    before = read_rows(part)
    if len(before) == len(documents) and before:
        return [_typed(row) for row in before], float(before[0]["seconds"])
    started = time.perf_counter()
    method = make(layer, analysis.dense.layers)
    scores = _scores(analysis.answer(bench, method, analysis.planned), documents)
    nll = _likelihoods(analysis, method, documents)
    spent = round(time.perf_counter() - started, 3)
    rows = [
        {
            "model": analysis.model, "bench": bench.name, "probe": probe, "layer": layer,
            "doc_id": document.doc_id, "image_id": document.image_id, "score": score,
            "dense_score": dense_score, "nll": new, "dense_nll": old, "target": document.target,
            "n_answer": len(document.answer),
        }
        for document, score, dense_score, new, old in zip(
            documents, scores, dense_scores, nll, dense_nll, strict=True
        )
    ]  # fmt: skip
    write_csv(part, (*columns.PROBED, "seconds"), [row | {"seconds": spent} for row in rows])
    return rows, spent


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    numbers = ("score", "dense_score", "nll", "dense_nll")
    typed: dict[str, Any] = {name: row[name] for name in columns.PROBED}
    typed |= {name: float(row[name]) if row[name] else None for name in numbers}
    return typed | {"layer": int(row["layer"]), "n_answer": int(row["n_answer"])}


def _scores(result: CellResult, documents: Sequence[Document]) -> list[float | None]:
    found = {sample.doc_id: sample.score for sample in result.samples}
    return [found.get(document.doc_id) for document in documents]


def _likelihoods(analysis: Analysis, method: Method, documents: Sequence[Document]) -> list[float]:
    with analysis.dense.asked(method) as asker:
        parts = in_batches(documents, analysis.batch_size)
        return [value for part in parts for value in asker.nll(part)]


# --- summary ------------------------------------------------------------------------------------
def summarise(
    analysis: Analysis,
    samples: Sequence[Mapping[str, Any]],
    facts: Mapping[tuple[str, str, int], Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Rows of damage.csv: every bench, and all of them together where their scales agree."""
    names = list(dict.fromkeys(str(row["bench"]) for row in samples))
    groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in samples:
        groups.setdefault((row["bench"], row["probe"], row["layer"]), []).append(row)
    for name in names:
        for probe in PROBES:
            for layer in range(analysis.dense.layers):
                rows = groups.get((name, probe, layer), [])
                yield _line(analysis, name, probe, layer, rows, facts[name, probe, layer])
    if len(names) < 2:
        return
    for probe in PROBES:
        for layer in range(analysis.dense.layers):
            rows = [row for name in names for row in groups.get((name, probe, layer), [])]
            said = [facts[name, probe, layer] for name in names]
            whole = {
                "metric": "mean of the benches' scores",
                "data": "+".join(sorted({str(f["data"]) for f in said})),
                "seconds": round(sum(f["seconds"] for f in said), 3),
            }
            yield _line(analysis, columns.ALL, probe, layer, rows, whole)


def _line(
    analysis: Analysis,
    bench: str,
    probe: str,
    layer: int,
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    scored = [r for r in rows if r["score"] is not None and r["dense_score"] is not None]
    images = [r["image_id"] for r in scored]
    ours, theirs = [r["score"] for r in scored], [r["dense_score"] for r in scored]
    compared = paired(ours, theirs, images, analysis.seed)
    rise = [r["nll"] - r["dense_nll"] for r in rows]
    nll = quantity_interval(rise, [r["image_id"] for r in rows], analysis.seed)
    line: dict[str, Any] = {
        "model": analysis.model, "bench": bench, "probe": probe, "layer": layer,
        "n_samples": len(rows), **facts, **analysis.conditions, "nll_unit": UNIT,
    }  # fmt: skip
    if compared is not None:
        drop = -compared.delta
        line |= {
            "dense_accuracy": compared.dense, "accuracy": compared.dense - drop.value,
            "drop": drop.value, "drop_ci_low": drop.low, "drop_ci_high": drop.high,
            "p_value": compared.p_value,
        }  # fmt: skip
    if nll is not None:
        line |= {
            "nll_dense": sum(r["dense_nll"] for r in rows) / len(rows),
            "nll_increase": nll.value, "nll_ci_low": nll.low, "nll_ci_high": nll.high,
        }  # fmt: skip
    return line
