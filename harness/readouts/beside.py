"""Rows of reference.csv: published scores, and ours where it is the same thing. Torch-free.

Ours stands beside a printed number only where model, method with its parameters and weights,
protocol, bench, metric and data are the same; a row for which one of them differs says which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.readouts.reference import Models, Printed, Row, Table, published_models, reference
from methods import REFERENCE

PROTOCOL = "lmms-eval"  # of a run that does not say
MINI = "mini"
REAL = "hub"  # the data of `cells.csv` that is the benchmark's own
UNSTATED = "paper"  # of a source
NO_WEIGHTS = "none"  # as in --checkpoint llavolta=none
SHOWN = 60  # characters of a label in a reason

Line = Mapping[str, Any]  # of a CSV


def reference_rows(
    scores: Sequence[Line], cells: Sequence[Line], settings: Line
) -> list[dict[str, Any]]:
    """One row a printed number: of the table that the run repeats, then of its model and benches.

    ``scores``: rows of accuracy.csv; ``cells``: of cells.csv; ``settings``: those of run.json.
    Empty where nothing published is of this model.
    """
    ours = Ours(scores, cells, settings, published_models())
    repeated = str(settings.get("printed") or "")
    if not repeated and not ours.places:
        return []
    first: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for table in reference().values():
        for one in table.printed():
            if table.name == repeated:
                first.append(ours.row(table, one))
            elif (one.row.model.key, one.column.bench) in ours.places:
                others.append(ours.row(table, one))
    return first + others


def table_rows(table: Table, reason: str) -> Iterator[dict[str, Any]]:
    """The rows of a table of which nothing was run, and why."""
    for one in table.printed():
        yield {**_about(table, one), "reason": reason}


def _about(table: Table, one: Printed) -> dict[str, Any]:
    return {
        "bench": one.column.bench,
        "model": one.row.model.key,
        "method": one.row.method,
        "budget": one.row.budget,
        "protocol": table.protocol,
        "value": one.value,
        "source": table.cited,
        "label": one.row.label,
        "metric": one.column.metric,
        "spec": one.row.spec,
        "table": table.name,
    }


@dataclass(frozen=True)
class Mine:
    """One of our cells; ``by_id``: its model is known by a hub id, not by a folder's name."""

    cell: Line
    by_id: bool


class Ours:
    """A run as it stands beside published scores."""

    def __init__(
        self, scores: Sequence[Line], cells: Sequence[Line], settings: Line, known: Models
    ) -> None:
        self.known = known
        self.limit: int | None = settings.get("limit")
        self.is_repeat = bool(settings.get("printed"))
        named = dict(settings.get("checkpoint") or {})
        self.weights = {name: str(wish) for name, wish in named.items() if wish != NO_WEIGHTS}
        self.scores: dict[str, list[Line]] = {}
        for score in scores:
            self.scores.setdefault(str(score["cell_id"]), []).append(score)
        self.names = list(dict.fromkeys(str(cell["model"]) for cell in cells))
        found = {name: known.of(name) for name in self.names}
        self.is_mini = {str(cell["data"]) for cell in cells} == {MINI}
        self.cells: dict[tuple[str, str, str], list[Mine]] = {}
        for cell in cells:
            model, by_id = found[str(cell["model"])]
            if model is not None:
                key = (model.key, str(cell["bench"]), str(cell["method"]))
                self.cells.setdefault(key, []).append(Mine(cell, by_id))
        self.places = {(model, bench) for model, bench, _ in self.cells}
        self.models = {model for model, _ in self.places}

    def row(self, table: Table, one: Printed) -> dict[str, Any]:
        """One row of reference.csv."""
        row = _about(table, one)
        found = self._cell(one)
        if isinstance(found, str):
            return {**row, "reason": found}
        cell = found.cell
        protocol = str(cell.get("protocol") or PROTOCOL)
        row |= {"ours_protocol": protocol, "ours_label": cell["label"]}
        row["ours_cell"] = cell["cell_id"]
        reason = self._unlike(table, cell, protocol)
        if reason:
            return {**row, "reason": reason}
        scored = self.scores.get(str(cell["cell_id"]), [])
        score = next((r for r in scored if r["metric"] == one.column.metric), None)
        if score is None:
            has = ", ".join(str(r["metric"]) for r in scored) or "none"
            return {**row, "reason": f"another metric: ours has {has}"}
        remark = "" if found.by_id else "our model is known by its folder's name only"
        return {**row, **_compared(one, score, remark)}

    def _cell(self, one: Printed) -> Mine | str:
        """Our cell of the printed row's model, method and bench, or why there is none."""
        row, bench = one.row, one.column.bench
        if not one.column.is_bench:
            return "no score of a bench"
        if row.model.key not in self.models:
            mini = " on mini data" if self.is_mini else ""
            return f"another model: ours is {', '.join(self.names)}{mini}"
        if row.unlike:
            return row.unlike
        if (row.model.key, bench) not in self.places:
            return "not among our benches"
        named = self.cells.get((row.model.key, bench, row.method), [])
        if not named:
            return "not among our methods"
        if not row.spec:
            return "its parameters are not stated in full"
        wanted = parameters(row.spec)
        same = [mine for mine in named if json.loads(str(mine.cell["params"]) or "{}") == wanted]
        if not same:
            label = str(named[0].cell["label"])
            label = label if len(label) <= SHOWN else f"{label[:SHOWN]}..."
            return f"other parameters: theirs is {row.spec}, ours {label}"
        return self._weights(row, str(same[0].cell["model"])) or same[0]

    def _weights(self, row: Row, model_id: str) -> str:
        """Why our weights are not known to be theirs; empty where they are."""
        method = _method(row.spec)
        if not method.trained:
            changed = REFERENCE if REFERENCE in self.weights else row.method
            if changed in self.weights and not method.reads_clip:
                return f"our weights are those of --checkpoint {changed}, not the model's own"
            return ""
        published = self.known.weights(model_id, row.method)
        mine = self.weights.get(row.method) or (published if self.is_repeat else "")
        if published and mine.rstrip("/").rpartition("/")[2] == published.rpartition("/")[2]:
            return ""
        return f"our weights of {row.method} are not known to be the published ones"

    def _unlike(self, table: Table, cell: Line, protocol: str) -> str:
        """Why our cell is another thing than the printed number; empty where nothing is known."""
        data = str(cell["data"])
        if data != REAL:
            what = "mini data" if data == MINI else "data of this machine's own"
            return f"{what}: no comparison"
        if table.protocol == UNSTATED:
            return f"protocol: ours {protocol}, theirs of its own or not stated"
        if protocol != table.protocol:
            return f"protocol: ours {protocol}, theirs {table.protocol}"
        if self.limit is not None and int(cell["n"] or 0) >= self.limit:
            return f"only the first {self.limit} documents here"
        return ""


def _compared(one: Printed, score: Line, remark: str) -> dict[str, Any]:
    """Ours on the printed scale, the difference, and whether theirs lies in our interval."""
    value, low, high = (
        None if score.get(name) in (None, "") else float(score[name]) * one.column.scale
        for name in ("value", "ci_low", "ci_high")
    )
    row = {"n": score["n"], "ours": value, "ci_low": low, "ci_high": high, "reason": remark}
    if value is not None:
        row["difference"] = value - one.value
    if low is None or high is None:
        row["reason"] = "; ".join(filter(None, ("our metric has no interval", remark)))
    else:
        row["inside"] = int(low <= one.value <= high)
    return row


@cache
def parameters(spec: str) -> Any:
    """A method's parameters as cells.csv has them."""
    return json.loads(json.dumps(_method(spec).params()))


def _method(spec: str) -> Any:
    import methods

    return methods.parse(spec)
