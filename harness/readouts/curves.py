"""Rows of curves.csv: the area between two curves of accuracy against budget. Torch-free.

A method's curve is its rows that differ in the budget only (`store.curves`); rows of `random` that
differ in the seed besides are averaged document by document. It is held against dense, against the
curve of every control that numbers its tokens alike, and against the curve of every earlier method
of the run. Two curves meet where they kept as much of the KV cache (`same_budget`), each point with
the nearest one of the other, whatever was asked for; two such budgets at least make an area
(`statistics.areas`), on the documents that all rows of the bench's curves and dense answered.

The average over benches takes the budgets that the two have in common on every bench, and each
bench's area as a share of its metric's scale; benches where less is better have no place in it.
Holm's correction: one family over all areas of the average, another over those of the benches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.readouts.controls import Contender
from harness.readouts.documents import Documents, Library, numbers
from harness.readouts.fronts import AVERAGE
from harness.statistics import areas, stats
from harness.statistics.budgets import same_budget
from harness.statistics.stats import Floats
from harness.store.curves import Place, place_of
from methods import CONTROLS, REFERENCE

Budget = tuple[str, float]
Key = tuple[Any, Any]  # of a pair, the same on every bench


@dataclass(frozen=True)
class Point:
    """One budget of a curve: the share of KV cache that was met, and the rows that stand there."""

    kv: float
    rows: tuple[Contender, ...]


@dataclass(frozen=True)
class Curve:
    """The rows of one method on one bench that differ in the budget only."""

    place: Place
    positions: str
    points: Mapping[Budget, Point]

    @property
    def is_control(self) -> bool:
        return self.place.curve[0] in CONTROLS


@dataclass(frozen=True)
class Pair:
    """Two curves (`other` None: dense) with the budgets that they share.

    `shared`: by the budget of `one`, the mean KV there and the budget of `other`.
    """

    one: Curve
    other: Curve | None
    shared: Mapping[Budget, tuple[float, Budget]]

    @property
    def key(self) -> Key:
        return self.one.place.curve, self.other and self.other.place.curve

    def weights(self, budgets: Sequence[Budget]) -> dict[Budget, float] | None:
        """What each of these budgets counts for; None where they span no width."""
        ordered = sorted(budgets, key=self.shared.__getitem__)
        found = areas.weights([self.shared[b][0] for b in ordered])
        return None if found is None else dict(zip(ordered, found.tolist(), strict=True))


@dataclass(frozen=True)
class Bench:
    """What one model has on one bench: dense, and the pairs of curves."""

    name: str
    metric: str
    higher_is_better: bool
    dense: Contender | None
    pairs: Mapping[Key, Pair]

    @property
    def contenders(self) -> list[Contender]:
        """Dense and every row of the curves, each once."""
        curves = [c for p in self.pairs.values() for c in (p.one, p.other) if c is not None]
        rows = [row for curve in curves for point in curve.points.values() for row in point.rows]
        return [*{r.cell_id: r for r in [*([self.dense] if self.dense else []), *rows]}.values()]


class Curves:
    """Computes the rows; a bench, and the average, is drawn again only when a cell of it is new."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._kept: dict[tuple[str, str], tuple[Any, list[dict[str, Any]]]] = {}

    def rows(self, contenders: Sequence[Contender]) -> list[dict[str, Any]]:
        """Bench by bench, the averages behind them; [] where no method has two budgets."""
        found: list[dict[str, Any]] = []
        whole: list[dict[str, Any]] = []
        for model in dict.fromkeys(one.subject.about["model"] for one in contenders):
            benches = list(_benches([c for c in contenders if c.subject.about["model"] == model]))
            for bench in benches:
                found += self._known(
                    (model, bench.name), [bench], lambda b: _bench_rows(b[0], self.seed)
                )
            averaged = [bench for bench in benches if bench.higher_is_better]
            whole += self._known((model, AVERAGE), averaged, lambda b: _average_rows(b, self.seed))
        return adjusted(found) + adjusted(whole)

    def _known(
        self,
        key: tuple[str, str],
        benches: Sequence[Bench],
        make: Callable[[Sequence[Bench]], Iterable[dict[str, Any]]],
    ) -> list[dict[str, Any]]:
        ids = [[one.cell_id for one in bench.contenders] for bench in benches]
        if key not in self._kept or self._kept[key][0] != ids:
            about = {"model": key[0], "bench": key[1]}
            self._kept[key] = ids, [{**about, **row} for row in make(benches)]
        return self._kept[key][1]


def _benches(contenders: Sequence[Contender]) -> Iterator[Bench]:
    for name in dict.fromkeys(one.subject.about["bench"] for one in contenders):
        here = [o for o in contenders if o.subject.about["bench"] == name and o.subject.scores]
        if not here:
            continue
        dense = next((o for o in here if o.subject.about["method"] == REFERENCE), None)
        first = (dense or here[0]).subject
        curves = curves_of([one for one in here if one.subject.metric == first.metric])
        pairs = {pair.key: pair for pair in _pairs(curves, dense is not None)}
        yield Bench(name, first.metric, first.higher_is_better, dense, pairs)


def curves_of(contenders: Sequence[Contender]) -> list[Curve]:
    """The curves of one bench with two budgets or more, in the order of the run."""
    found: dict[tuple[Any, str], dict[Budget, list[Contender]]] = {}
    places: dict[Any, Place] = {}
    for one in contenders:
        about = one.subject.about
        place = place_of(about["method"], about.get("params", ""), about.get("label", ""))
        if place is not None and one.kv is not None:
            places.setdefault(place.curve, place)
            rows = found.setdefault((place.curve, one.positions), {})
            rows.setdefault(place.budget, []).append(one)
    curves = []
    for (curve, positions), points in found.items():
        known = {b: Point(_mean([r.kv or 0.0 for r in p]), tuple(p)) for b, p in points.items()}
        curves += [Curve(places[curve], positions, known)] if len(known) > 1 else []
    return curves


def _pairs(curves: Sequence[Curve], dense: bool) -> Iterator[Pair]:
    """Every method's curve with dense, its controls, and the methods before it."""
    methods = [curve for curve in curves if not curve.is_control]
    for number, one in enumerate(methods):
        others: list[Curve | None] = [None] if dense else []
        others += [c for c in curves if c.is_control and c.positions == one.positions]
        for other in [*others, *methods[:number]]:
            pair = Pair(one, other, _shared(one, other))
            if pair.weights([*pair.shared]) is not None:
                yield pair


def _shared(one: Curve, other: Curve | None) -> dict[Budget, tuple[float, Budget]]:
    """Where two curves kept as much of the cache: nearest points first, each of them once."""
    if other is None:
        return {budget: (point.kv, budget) for budget, point in one.points.items()}
    near = sorted(
        (abs(p.kv - q.kv), b, c)
        for b, p in one.points.items()
        for c, q in other.points.items()
        if same_budget(p.kv, q.kv)
    )
    found: dict[Budget, tuple[float, Budget]] = {}
    for _, b, c in near:
        if b not in found and all(c != taken for _, taken in found.values()):
            found[b] = (_mean([one.points[b].kv, other.points[c].kv]), c)
    return {b: found[b] for b in one.points if b in found}


def _bench_rows(bench: Bench, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of one bench, before the correction for many comparisons."""
    asked = [(key, tuple(pair.shared)) for key, pair in bench.pairs.items()]
    found = _draw(bench, asked, seed) if asked else None
    for column, (key, budgets) in enumerate(asked if found else ()):
        assert found is not None  # else there are no columns
        yield {
            "metric": bench.metric,
            **_row(bench.pairs[key], budgets, found[0], column, found[1]),
        }


def _average_rows(benches: Sequence[Bench], seed: int) -> Iterator[dict[str, Any]]:
    """The rows of the average, where there are several benches; bench after bench in memory."""
    common = [*_common(benches).items()] if len(benches) > 1 else []
    if not common or not all(len(_docs(bench)) for bench in benches):
        return
    whole = areas.average(found[0] for b in benches if (found := _draw(b, common, seed)))
    for column, (key, budgets) in enumerate(common):
        row = _row(benches[0].pairs[key], budgets, whole, column, 1.0)
        yield {"metric": f"mean of {len(benches)} benches", **row}


def _common(benches: Sequence[Bench]) -> dict[Key, tuple[Budget, ...]]:
    """The pairs that every bench has, with the budgets that they share on all of them."""
    found = {}
    for key, first in benches[0].pairs.items():
        pairs = [bench.pairs.get(key) for bench in benches]
        known = [pair for pair in pairs if pair is not None]
        budgets = tuple(b for b in first.shared if all(b in pair.shared for pair in known))
        if len(known) == len(benches) and all(pair.weights(budgets) for pair in known):
            found[key] = budgets
    return found


def _draw(
    bench: Bench, asked: Sequence[tuple[Key, tuple[Budget, ...]]], seed: int
) -> tuple[areas.Drawn, float] | None:
    """The areas of a bench on its common documents, and the top of its metric's scale."""
    rows, docs = bench.contenders, _docs(bench)
    if not len(docs):
        return None
    known = {r.cell_id: numbers(r.subject.scores, docs) for r in rows}
    top = stats.top_score(np.concatenate([*known.values()]))
    columns = [_column(bench, key, budgets, known) / top for key, budgets in asked]
    return areas.draw(np.column_stack(columns), docs.groups, seed, bench.name), top


def _docs(bench: Bench) -> Documents:
    """The documents that all rows of a bench answered."""
    first, *rest = [one.subject for one in bench.contenders]
    library = Library()
    return library.shared(library.of(first.scores, first.images), *(o.scores for o in rest))


def _column(
    bench: Bench, key: Key, budgets: tuple[Budget, ...], known: Mapping[str, Floats]
) -> Floats:
    """Every document's weighted difference between the two curves of a pair."""
    pair = bench.pairs[key]
    weights = pair.weights(budgets)
    assert weights is not None  # by the choice of pairs
    found = sum(w * _scores(pair.one.points[b].rows, known) for b, w in weights.items())
    if pair.other is None:
        assert bench.dense is not None  # else there is no such pair
        return np.asarray(found - known[bench.dense.cell_id])
    theirs = {pair.shared[b][1]: w for b, w in weights.items()}
    other = pair.other.points
    return np.asarray(found - sum(w * _scores(other[c].rows, known) for c, w in theirs.items()))


def _scores(rows: Sequence[Contender], known: Mapping[str, Floats]) -> Floats:
    return np.asarray(np.mean([known[row.cell_id] for row in rows], axis=0))


def _row(
    pair: Pair, budgets: Sequence[Budget], drawn: areas.Drawn, column: int, top: float
) -> dict[str, Any]:
    area = drawn.interval(column)
    place = pair.one.place
    ordered = sorted(budgets, key=pair.shared.__getitem__, reverse=True)
    return {
        "method": place.curve[0],
        "curve": place.label,
        "positions": pair.one.positions,
        "against": pair.other.place.label if pair.other else REFERENCE,
        "budgets": "+".join(f"{value:g}" for _, value in ordered),
        "area": area.value * top,
        "ci_low": None if area.low is None else area.low * top,
        "ci_high": None if area.high is None else area.high * top,
        "n": drawn.n,
        "images": drawn.images,
        "p_value": drawn.p_value(column),
    }


def adjusted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with Holm's p-values, of one family."""
    p_values = stats.holm([row["p_value"] for row in rows])
    return [{**row, "p_adjusted": p} for row, p in zip(rows, p_values, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
