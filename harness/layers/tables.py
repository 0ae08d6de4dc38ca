"""layer_correlation.csv from the files of `arank` and `damage`: stability, and what predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from harness.layers.analysis import Analysis
from harness.layers.correlation import Table, as_table, correlate
from harness.store.columns import layers as columns

FILE = "layer_correlation.csv"
MEASURES = ("logits", "probs", "block_influence", "cosine")
VARIANTS = ("logits", "probs")
STABLE_SIZES = (5, 10, 25, 50, 100)
DAMAGES = {"drop": ("dense_score", "score"), "nll_increase": ("nll", "dense_nll")}

Tables = dict[tuple[str, str], Table]  # (bench, measure) -> documents x layers


def write_correlations(analysis: Analysis) -> None:
    """Every correlation the files allow; nothing without `layer_samples.csv`."""
    layers = layer_tables(analysis.read("layer_samples.csv"))
    if not layers:
        return
    damage = damage_tables(analysis.read("damage_samples.csv"))
    rows = [*_between_tasks(analysis, layers), *_between_sizes(analysis, layers)]
    rows += _with_damage(analysis, layers, damage)
    analysis.write(FILE, columns.CORRELATION, rows)


def layer_tables(rows: Sequence[Mapping[str, str]]) -> Tables:
    """(bench, measure) -> its documents and layers, and `all` benches' documents together."""
    found: dict[tuple[str, str], dict[str, tuple[str, dict[int, float]]]] = {}
    for row in rows:
        table = found.setdefault((row["bench"], row["measure"]), {})
        values = table.setdefault(row["doc_id"], (row["image_id"], {}))[1]
        values[int(row["layer"])] = float(row["value"])
    return _tables(found)


def damage_tables(rows: Sequence[Mapping[str, str]]) -> Tables:
    """(bench, "probe drop" or "probe nll_increase") -> damage of its documents and layers."""
    found: dict[tuple[str, str], dict[str, tuple[str, dict[int, float]]]] = {}
    for row in rows:
        for name, (more, less) in DAMAGES.items():
            if row[more] and row[less]:
                table = found.setdefault((row["bench"], f"{row['probe']} {name}"), {})
                values = table.setdefault(row["doc_id"], (row["image_id"], {}))[1]
                values[int(row["layer"])] = float(row[more]) - float(row[less])
    return _tables(found)


def _tables(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> Tables:
    tables: Tables = {}
    for key, documents in found.items():
        depth = max(max(values) for _, values in documents.values()) + 1
        whole = [(i, v) for i, v in documents.values() if len(v) == depth]
        rows = [[values[layer] for layer in range(depth)] for _, values in whole]
        tables[key] = as_table(rows, [image for image, _ in whole])
    benches = list(dict.fromkeys(bench for bench, _ in tables))
    if len(benches) > 1:
        for name in dict.fromkeys(name for _, name in tables):
            parts = [tables[b, name] for b in benches if (b, name) in tables]
            if len(parts) == len(benches):
                rows = [row for part in parts for row in part.values.tolist()]
                tables[columns.ALL, name] = as_table(rows, [i for p in parts for i in p.images])
    return tables


def _benches(tables: Tables) -> list[str]:
    return list(dict.fromkeys(bench for bench, _ in tables))


def _between_tasks(analysis: Analysis, layers: Tables) -> Iterator[dict[str, Any]]:
    benches = [b for b in _benches(layers) if b != columns.ALL]
    for variant in VARIANTS:
        for one, other in combinations(benches, 2):
            x, y = layers[one, variant], layers[other, variant]
            names = {"bench": variant, "x": one, "y": other}
            yield _row(analysis, "between tasks", names, x, y, paired=False)


def _between_sizes(analysis: Analysis, layers: Tables) -> Iterator[dict[str, Any]]:
    """The first documents against the others, none of which shares an image with them."""
    for bench in _benches(layers):
        if bench == columns.ALL:
            continue
        for variant in VARIANTS:
            table = layers[bench, variant]
            for size in (s for s in STABLE_SIZES if s < len(table.images)):
                rest = table.rest(size)
                if not len(rest.images):
                    continue
                names = {
                    "bench": f"{variant} on {bench}", "x": f"first {size}",
                    "y": f"other {len(rest.images)}",
                }  # fmt: skip
                first = table.first(size)
                yield _row(analysis, "between sample sizes", names, first, rest, paired=False)


def _with_damage(analysis: Analysis, layers: Tables, damage: Tables) -> Iterator[dict[str, Any]]:
    for bench in _benches(damage):
        for measure in MEASURES:
            for name in dict.fromkeys(name for b, name in damage if b == bench):
                if (bench, measure) in layers:
                    x, y = layers[bench, measure], damage[bench, name]
                    same = x.images == y.images
                    names = {"bench": bench, "x": measure, "y": name}
                    yield _row(analysis, "with damage", names, x, y, paired=same)


def _row(
    analysis: Analysis, kind: str, names: Mapping[str, str], x: Table, y: Table, paired: bool
) -> dict[str, Any]:
    found = asdict(correlate(x, y, paired, analysis.seed))
    n = min(len(x.images), len(y.images))
    return {"model": analysis.model, "kind": kind, **names, "n_samples": n, **found}
