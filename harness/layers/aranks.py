"""`--analyse arank`: ARank, block influence and cosine of every layer, document by document."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from harness.layers.analysis import Analysis, image_ids
from harness.layers.dense import Document, in_batches
from harness.layers.ranks import VARIANTS
from harness.layers.states import COSINES, TOP, Measured, measure
from harness.statistics.stats import quantity_interval
from harness.store.columns import layers as columns

SIZES = (5, 10, 25, 50, 100, 200)  # sample sizes beside the full one
FILES = ("arank.csv", "arank_heads.csv", "layer_samples.csv", "analysis_documents.csv")


def run_arank(analysis: Analysis) -> None:
    """Measure every bench and write `FILES`."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES}
    pooled: list[tuple[list[Document], list[list[int]], Measured]] = []
    seconds: dict[str, float] = {}
    for bench in analysis.benches:
        documents, tokens, found, spent = _measured(analysis, bench)
        pooled.append((documents, tokens, found))
        tables["analysis_documents.csv"] += _documents(analysis, documents, tokens)
        tables["layer_samples.csv"] += _samples(analysis, documents, found)
        tables["arank.csv"] += _layers(
            analysis, bench.name, bench.data, documents, tokens, found, spent
        )
        tables["arank_heads.csv"] += _heads(analysis, bench.name, found)
        for name, value in spent.items():
            seconds[name] = seconds.get(name, 0.0) + value
        took = ", ".join(f"{name} {value:.1f} s" for name, value in spent.items())
        analysis.say(f"arank on {bench.name}: {len(documents)} samples, {took}")
    if len(pooled) > 1:
        together = _together(pooled)
        data = "+".join(sorted({bench.data for bench in analysis.benches}))
        tables["arank.csv"] += _layers(
            analysis, columns.ALL, data, *together, seconds, nested=False
        )
        tables["arank_heads.csv"] += _heads(analysis, columns.ALL, together[2])
    for name, header in zip(
        FILES, (columns.ARANK, columns.HEADS, columns.SAMPLES, columns.DOCUMENTS), strict=True
    ):
        analysis.write(name, header, tables[name])


def _measured(
    analysis: Analysis, bench: Any
) -> tuple[list[Document], list[list[int]], Measured, dict[str, float]]:
    """Documents, their prompts' token ids, what was measured, and seconds by variant.

    Each variant is a pass of its own, so that its seconds are what it costs alone.
    """
    seconds: dict[str, float] = {}
    merged = Measured()
    tokens: list[list[int]] = []
    documents: list[Document] = []
    with analysis.dense.plain() as asker:
        for document in analysis.documents(bench):
            name = image_ids(asker.images(document.request))
            documents.append(replace(document, image_id=name))
        for variant in VARIANTS:
            tokens.clear()
            started = time.perf_counter()

            def batches() -> Iterator[dict[str, Any]]:
                for some in in_batches(documents, analysis.batch_size):
                    inputs = asker.inputs(some)
                    masks = inputs["attention_mask"].bool()
                    pairs = zip(inputs["input_ids"], masks, strict=True)
                    tokens.extend(ids[mask].tolist() for ids, mask in pairs)
                    yield inputs

            found = measure(analysis.dense.model, batches(), (variant,))
            seconds[variant] = time.perf_counter() - started
            merged.ranks |= found.ranks
            merged.block_influence, merged.cosine = found.block_influence, found.cosine
    return documents, tokens, merged, seconds


def _together(
    parts: Sequence[tuple[list[Document], list[list[int]], Measured]],
) -> tuple[list[Document], list[list[int]], Measured]:
    documents, tokens, whole = [], [], Measured(ranks={name: [] for name in VARIANTS})
    for docs, ids, found in parts:
        documents += docs
        tokens += ids
        for name in VARIANTS:
            whole.ranks[name] += found.ranks[name]
    return documents, tokens, whole


def _layers(
    analysis: Analysis,
    bench: str,
    data: str,
    documents: Sequence[Document],
    tokens: Sequence[list[int]],
    found: Measured,
    seconds: dict[str, float],
    nested: bool = True,
) -> Iterator[dict[str, Any]]:
    """Rows of arank.csv: every variant, layer and (nested, first documents) sample size."""
    count = len(documents)
    sizes = [size for size in SIZES if size < count] if nested else []
    for variant in VARIANTS:
        values = found.per_layer(variant).numpy()
        for size in [*sizes, count]:
            part = values[:size]
            images = [d.image_id for d in documents[:size]]
            means = torch.from_numpy(part.mean(axis=0))
            order = torch.argsort(means, descending=True, stable=True)[:TOP].tolist()
            for layer in range(part.shape[1]):
                interval = quantity_interval(part[:, layer].tolist(), images, analysis.seed)
                assert interval is not None
                yield {
                    "model": analysis.model, "bench": bench, "variant": variant, "layer": layer,
                    "n_samples": size, "arank": interval.value,
                    "arank_std": _std(part[:, layer]),
                    "ci_low": interval.low, "ci_high": interval.high,
                    "dense": int(layer in order),
                    "tokens_mean": float(np.mean([len(t) for t in tokens[:size]])),
                    "data": data, **analysis.conditions,
                    "seconds": round(seconds[variant], 3) if size == count else None,
                }  # fmt: skip


def _heads(analysis: Analysis, bench: str, found: Measured) -> Iterator[dict[str, Any]]:
    for variant in VARIANTS:
        values = np.asarray(found.ranks[variant], dtype=np.float64)  # [samples, layers, heads]
        for layer in range(values.shape[1]):
            for head in range(values.shape[2]):
                column = values[:, layer, head]
                yield {
                    "model": analysis.model, "bench": bench, "variant": variant, "layer": layer,
                    "head": head, "n_samples": len(column), "arank": float(column.mean()),
                    "arank_std": _std(column),
                }  # fmt: skip


def _std(values: np.ndarray) -> float | None:
    """Sample standard deviation; None for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _samples(
    analysis: Analysis, documents: Sequence[Document], found: Measured
) -> Iterator[dict[str, Any]]:
    for measure_name in (*VARIANTS, *COSINES):
        values = found.per_layer(measure_name).tolist()
        for document, row in zip(documents, values, strict=True):
            for layer, value in enumerate(row):
                yield {
                    "model": analysis.model, "bench": document.bench, "doc_id": document.doc_id,
                    "image_id": document.image_id, "measure": measure_name, "layer": layer,
                    "value": value,
                }  # fmt: skip


def _documents(
    analysis: Analysis, documents: Sequence[Document], tokens: Sequence[list[int]]
) -> Iterator[dict[str, Any]]:
    image = int(getattr(analysis.dense.model.config, "image_token_id", -1))
    for document, ids in zip(documents, tokens, strict=True):
        yield {
            "model": analysis.model, "bench": document.bench, "doc_id": document.doc_id,
            "image_id": document.image_id, "n_tokens": len(ids), "n_image": ids.count(image),
            "tokens": _run_lengths(ids),
        }  # fmt: skip


def _run_lengths(ids: Sequence[int]) -> str:
    """Token ids by spaces, repeats as `id*count`."""
    parts: list[list[int]] = []
    for token in ids:
        if parts and parts[-1][0] == token:
            parts[-1][1] += 1
        else:
            parts.append([token, 1])
    return " ".join(f"{token}*{n}" if n > 1 else str(token) for token, n in parts)
