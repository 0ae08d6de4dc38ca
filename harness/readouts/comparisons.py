"""Rows of comparisons.csv: every pair of rows on the same documents. Torch-free.

A bench     the paired difference of accuracy.csv, with its interval and test (`statistics.stats`);
            all pairs see the same resamples of images.
The average  the mean over benches of the benches' differences as shares of their scales; a bench
            where less is better has no place in it. Every bench draws images of its own. Its
            p-value flips the signs of the images' differences, each image's sum weighted by
            1 / (benches x documents of the bench x scale), so that the flipped sum is the average.
Comparable  the two rows keep as much of the image's KV cache (`statistics.budgets`; of the
            average: on the mean of the benches). Dense keeps all and stands beside rows that do
            as well, blind sees nothing and stands beside none.
Verdict     of `a` against `b`, only where they are comparable, by the rule of accuracy.csv and
            after Holm's correction over all comparable pairs and benches. The average is one
            question more, with a family of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.readouts.controls import Contender
from harness.readouts.fronts import AVERAGE
from harness.readouts.matrix import Matrix, Row, mean_kv
from harness.statistics import signflip, stats
from harness.statistics.budgets import comparable
from harness.statistics.rows import Rows, around


@dataclass(frozen=True)
class Found:
    """A row of the file before the correction for many comparisons."""

    row: dict[str, Any]
    gain: stats.Interval  # the difference, turned so that more is better


class Comparisons:
    """Computes the rows; a pair is drawn again only when one of its cells is new."""

    def __init__(self, seed: int, margin: float = stats.MARGIN_POINTS) -> None:
        self.seed, self.margin = seed, margin
        self._kept: dict[tuple[Any, ...], Found] = {}
        self._flipped: dict[tuple[Any, ...], stats.Floats] = {}

    def rows(self, matrix: Matrix, several: bool) -> list[dict[str, Any]]:
        """Bench by bench, then the average where the run has `several` benches."""
        single = [one for bench in matrix.benches for one in self._bench(matrix, bench)]
        whole = self._average(matrix) if several else []
        return [*_judged(single), *_judged(whole)]

    def _bench(self, matrix: Matrix, bench: str) -> Iterable[Found]:
        for a, others in _pairs(matrix.rows):
            mine = a.cells.get(bench)
            theirs = [cell for b in others if (cell := b.cells.get(bench)) is not None]
            if mine is None:
                continue
            todo = [cell for cell in theirs if (mine.cell_id, cell.cell_id) not in self._kept]
            for rows, cells in matrix.together(mine, todo):
                found = rows.differences(mine.cell_id, [cell.cell_id for cell in cells])
                for cell, paired in zip(cells, found, strict=True):
                    key = mine.cell_id, cell.cell_id
                    self._kept[key] = self._pair(mine, cell, paired, rows.images)
            for cell in theirs:
                if (mine.cell_id, cell.cell_id) in self._kept:
                    yield self._kept[mine.cell_id, cell.cell_id]

    def _pair(self, a: Contender, b: Contender, paired: stats.Paired, images: int) -> Found:
        about, top = a.subject.about, max(a.subject.top, b.subject.top)
        row = {
            **_about(about, b.subject.about, a.positions, b.positions, a.kv, b.kv),
            "bench": about["bench"],
            "metric": a.subject.metric,
            **_numbers(paired.n, images, paired.delta, top * self.margin / 100.0),
            "p_value": paired.p_value,
        }
        return Found(row, paired.delta if a.subject.higher_is_better else -paired.delta)

    def _average(self, matrix: Matrix) -> list[Found]:
        todo: dict[tuple[Any, ...], Shared] = {}
        keys = []
        for a, others in _pairs(matrix.complete):
            for b in others:
                ids = *a.ids(matrix.averaged), *b.ids(matrix.averaged)
                keys.append((*matrix.tops, *ids))
                if keys[-1] not in self._kept and (sheets := matrix.averaged_on(a, b)):
                    todo[keys[-1]] = Shared(matrix, a, b, sheets)
        self._flip([*todo.values()])
        for key, one in todo.items():
            self._kept[key] = self._whole(one)
        return [self._kept[key] for key in keys if key in self._kept]

    def _whole(self, one: Shared) -> Found:
        a, b, names = one.a, one.b, one.matrix.averaged
        delta = one.difference()
        flips = (self._flipped[one.place(row)] for row in (a, b))
        row = {
            **_about(
                a.about, b.about, a.positions, b.positions, mean_kv(a, names), mean_kv(b, names)
            ),
            "bench": AVERAGE,
            "metric": one.matrix.metric,
            **_numbers(
                sum(sheet.n for sheet in one.sheets),
                sum(sheet.images for sheet in one.sheets),
                delta,
                self.margin / 100,
            ),
            "p_value": signflip.drawn(next(flips) - next(flips), one.moved()),
        }
        return Found(row, delta)

    def _flip(self, pairs: Sequence[Shared]) -> None:
        """The flipped sums of the rows of these pairs; rows on the same documents together."""
        wanted: dict[tuple[int, ...], tuple[Shared, dict[tuple[Any, ...], Row]]] = {}
        for one in pairs:
            _, rows = wanted.setdefault(tuple(map(id, one.sheets)), (one, {}))
            for row in (one.a, one.b):
                if one.place(row) not in self._flipped:
                    rows[one.place(row)] = row
        for one, rows in wanted.values():
            if rows:
                columns = signflip.flipped(one.weighted([*rows.values()]), self.seed).T
                self._flipped |= dict(zip(rows, columns, strict=True))


@dataclass(frozen=True)
class Shared:
    """Two rows on the documents that they share of every bench of the average."""

    matrix: Matrix
    a: Row
    b: Row
    sheets: Sequence[Rows]

    @property
    def weights(self) -> list[float]:
        """Of one answer in the average, by bench."""
        scales = zip(self.sheets, self.matrix.tops, strict=True)
        return [1 / (len(self.sheets) * sheet.n * top) for sheet, top in scales]

    def weighted(self, rows: Sequence[Row]) -> list[tuple[str, stats.Floats]]:
        """What every image adds to the averages of `rows` [images, rows], by bench."""
        return [
            (name, weight * np.column_stack([sheet.sums[r.cells[name].cell_id] for r in rows]))
            for name, sheet, weight in zip(
                self.matrix.averaged, self.sheets, self.weights, strict=True
            )
        ]

    def place(self, row: Row) -> tuple[Any, ...]:
        """Where the flipped sums of one of them stand."""
        return (*map(id, self.sheets), *self.matrix.tops, *row.ids(self.matrix.averaged))

    def difference(self) -> stats.Interval:
        """Of the averages, a share of the scale; no bounds where a bench shows one image."""
        values, drawn = [], []
        for sheet, x, y, top in self._parts():
            values.append((sheet.scores[x] - sheet.scores[y]).mean() / top)
            ours, theirs = sheet.means(x, 0.0, top), sheet.means(y, top, 0.0)
            drawn += [] if ours is None or theirs is None else [(ours - theirs) / top]
        value = float(np.mean(values))
        known = len(drawn) == len(values)
        return stats.Interval(
            value, *(around(value, np.mean(drawn, axis=0)) if known else (None, None))
        )

    def moved(self) -> float:
        """How far the images' differences lie from 0 altogether."""
        return sum(
            float(np.abs(sheet.sums[x] - sheet.sums[y]).sum()) * weight
            for (sheet, x, y, _), weight in zip(self._parts(), self.weights, strict=True)
        )

    def _parts(self) -> list[tuple[Rows, str, str, float]]:
        names = self.matrix.averaged
        ids = self.a.ids(names), self.b.ids(names)
        return list(zip(self.sheets, *ids, self.matrix.tops, strict=True))


def _pairs(rows: Sequence[Row]) -> Iterable[tuple[Row, Sequence[Row]]]:
    """Every row with those before it."""
    return ((row, rows[:i]) for i, row in enumerate(rows))


def _about(
    a: Mapping[str, str],
    b: Mapping[str, str],
    positions_a: str,
    positions_b: str,
    kv_a: float | None,
    kv_b: float | None,
) -> dict[str, Any]:
    return {
        "model": a["model"],
        "a": a["label"],
        "b": b["label"],
        **{f"{name}_a": a[name] for name in ("method", "params")},
        **{f"{name}_b": b[name] for name in ("method", "params")},
        "positions_a": positions_a,
        "positions_b": positions_b,
        "kv_a": kv_a,
        "kv_b": kv_b,
        "comparable": int(comparable(a["method"], b["method"], kv_a, kv_b)),
    }


def _numbers(n: int, images: int, delta: stats.Interval, margin: float) -> dict[str, Any]:
    return {
        "n": n,
        "images": images,
        "delta": delta.value,
        "ci_low": delta.low,
        "ci_high": delta.high,
        "margin": margin,
    }


def _judged(found: Sequence[Found]) -> list[dict[str, Any]]:
    """The rows in their order, with Holm's p-values and verdicts over the comparable ones."""
    family = [one for one in found if one.row["comparable"]]
    p_values = stats.holm([one.row["p_value"] for one in family])
    told = {
        id(one): {"p_adjusted": p, "verdict": stats.verdict(one.gain, p, one.row["margin"])}
        for one, p in zip(family, p_values, strict=True)
    }
    return [{**one.row, **told.get(id(one), {})} for one in found]
