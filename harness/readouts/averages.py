"""Rows of averages.csv: every row's accuracy over the benches, and what it costs. Torch-free.

The mean over benches of the headlines as shares of their scales, each bench drawing images of its
own; benches where less is better have no place in it. With one bench it is that bench's score with
the interval of accuracy.csv. `of_dense` is resampled jointly with dense, on what both answered.
A row that lacks a bench has no average: it would be one of other benches. Costs are of the benches
that it has, and compared with dense's on these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.readouts.documents import Column, mean, numbers
from harness.readouts.matrix import Matrix, Row, mean_kv
from harness.statistics import stats
from harness.statistics.rows import around


def average_rows(matrix: Matrix) -> list[dict[str, Any]]:
    """A row a method, dense first."""
    dense = {row.about["model"]: row for row in matrix.rows if row.is_reference}
    return [_row(matrix, row, dense.get(row.about["model"])) for row in matrix.rows]


def _row(matrix: Matrix, row: Row, dense: Row | None) -> dict[str, Any]:
    has = [bench for bench in matrix.averaged if bench in row.cells]
    sheets = [matrix.alone(row.cells[bench]) for bench in has]
    cost = _prefill(row, has)
    return {
        **row.about,
        "positions": row.positions,
        "benches": len(has),
        "of_benches": len(matrix.averaged),
        "metric": matrix.metric if matrix.averaged else None,
        **(_accuracy(matrix, row, dense) if has and len(has) == len(matrix.averaged) else {}),
        "kv": mean_kv(row, has),
        "tflops_prefill": cost,
        "prefill_of_dense": _ratio(cost, _prefill(dense, has)),
        "n": sum(sheet.n for sheet in sheets),
        "images": sum(sheet.images for sheet in sheets),
    }


def _accuracy(matrix: Matrix, row: Row, dense: Row | None) -> dict[str, Any]:
    found = average(matrix, row)
    out: dict[str, Any] = {"average": found.value, "ci_low": found.low, "ci_high": found.high}
    if dense is row:
        return out | {"of_dense": 1.0}
    if dense is None or any(bench not in dense.cells for bench in matrix.averaged):
        return out
    kept = _of_dense(matrix, row, dense)
    if kept is None:
        return out
    return out | {"of_dense": kept.value, "of_dense_low": kept.low, "of_dense_high": kept.high}


def average(matrix: Matrix, row: Row) -> stats.Interval:
    """The mean over the benches as a share of their scales; no bounds if one shows one image."""
    if len(matrix.averaged) == 1:
        (bench,), (top,) = matrix.averaged, matrix.tops
        cell = row.cells[bench].subject
        docs = matrix.library.of(cell.scores, cell.images)
        only = stats.mean_interval(numbers(cell.scores, docs), docs.groups, matrix.seed)
        assert only is not None  # rows have scores
        low, high = (None if end is None else end / top for end in (only.low, only.high))
        return stats.Interval(only.value / top, low, high)
    values, drawn = [], []
    for bench, top in zip(matrix.averaged, matrix.tops, strict=True):
        name, sheet = row.cells[bench].cell_id, matrix.alone(row.cells[bench])
        values.append(sheet.scores[name].mean() / top)
        means = sheet.means(name, 0.0, top)
        drawn += [] if means is None else [means / top]
    value = float(np.mean(values))
    known = len(drawn) == len(values)
    return stats.Interval(
        value, *(around(value, np.mean(drawn, axis=0)) if known else (None, None))
    )


def _of_dense(matrix: Matrix, row: Row, dense: Row) -> stats.Interval | None:
    """The ratio of the averages; no bounds where dense is at 0 in some resample."""
    sheets = matrix.averaged_on(row, dense)
    names = zip(row.ids(matrix.averaged), dense.ids(matrix.averaged), strict=True)
    values, drawn = [], []
    for sheet, (x, y), top in zip(sheets, names, matrix.tops, strict=len(sheets) > 0):
        values.append([sheet.scores[name].mean() / top for name in (x, y)])
        ours, theirs = sheet.means(x, top, 0.0), sheet.means(y, 0.0, top)
        drawn += [] if ours is None or theirs is None else [(ours / top, theirs / top)]
    if not values or not (full := float(np.mean(values, axis=0)[1])):
        return None
    value = float(np.mean(values, axis=0)[0]) / full
    if len(drawn) < len(values):
        return stats.Interval(value, None, None)
    ours, theirs = np.mean(drawn, axis=0)
    if (theirs <= 0).any():
        return stats.Interval(value, None, None)
    return stats.Interval(value, *around(value, ours / theirs))


def _prefill(row: Row | None, benches: Sequence[str]) -> float | None:
    """Mean TFLOP of a sample, then of the benches; None where one was not counted."""
    means = []
    for bench in benches:
        counted: Mapping[str, float] = row.cells[bench].subject.prefill if (
            row is not None and bench in row.cells
        ) else {}  # fmt: skip
        if not counted:
            return None
        means.append(
            mean(counted.numbers)
            if isinstance(counted, Column)
            else sum(counted.values()) / len(counted)
        )
    return sum(means) / len(means) if means else None


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
