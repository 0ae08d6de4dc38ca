"""Published scores: `reference.yaml` and `models.yaml`, checked. Torch-free.

A `Printed` is one number of one table, with what its source says of model, method, budget and
protocol. Nothing here is ours; `harness.readouts.beside` puts ours beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.common.yamlfile import read_mapping

FILE = Path(__file__).with_name("reference.yaml")
MODELS = FILE.with_name("models.yaml")
PROTOCOLS = ("lmms-eval", "lmms-eval-llava", "llava-1.5", "paper")
AVERAGE = "(average)"  # the bench of a printed mean
SHARE = 100.0  # of a metric between 0 and 1: printed in percent
MISSING = "-"
PARTS = ("columns", "reasons", "tables")
OF_TABLE = {"source", "table", "title", "protocol", "model", "unit", "columns", "notes", "rows"}
OF_ROW = {"row", "model", "method", "spec", "budget", "budgets", "values", "unlike"}


@dataclass(frozen=True)
class Column:
    """What a printed column is: see the head of `reference.yaml`."""

    name: str
    bench: str
    metric: str
    scale: float = SHARE
    full: float = 100.0  # the highest score that there is

    @property
    def is_bench(self) -> bool:
        """Whether it is a score of a bench, not a mean or a speed."""
        return not self.bench.startswith("(")


@dataclass(frozen=True)
class Model:
    """A published model: the hub ids it is known by, and whose sizes the ledger counts."""

    key: str
    names: tuple[str, ...] = ()
    size: str = ""


@dataclass(frozen=True)
class Row:
    """One printed row. ``spec`` is empty where its parameters are not all stated."""

    label: str
    model: Model
    method: str
    spec: str
    budget: str
    values: tuple[float | None, ...]
    unlike: str


@dataclass(frozen=True)
class Printed:
    """One printed number."""

    row: Row
    column: Column
    value: float


@dataclass(frozen=True)
class Table:
    """A table as its source prints it."""

    name: str
    source: str
    table: str
    title: str
    protocol: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def cited(self) -> str:
        """Source and table in a few words."""
        return f"{self.source}, {self.table}"

    def printed(self) -> Iterator[Printed]:
        """Every number, row by row."""
        for row in self.rows:
            for column, value in zip(self.columns, row.values, strict=True):
                if value is not None:
                    yield Printed(row, column, value)


@dataclass(frozen=True)
class Models:
    """The models with published scores. ``released``: model -> method -> hub id of weights."""

    known: Mapping[str, Model]
    released: Mapping[str, Mapping[str, str]]

    def of(self, model_id: str) -> tuple[Model | None, bool]:
        """The published model behind the name that a run gives its own; and whether by a hub id.

        A folder counts by its last part: False then, for what lies in it is not known by that.
        """
        for model in self.known.values():
            if model_id in model.names:
                return model, True
        parts = Path(model_id).parts
        named = {part.removeprefix("models--").replace("--", "/") for part in parts[:-2]}
        for model in self.known.values():
            if parts[-2:-1] == ("snapshots",) and named & set(model.names):
                return model, True  # a snapshot in the hub's own cache
            if parts and parts[-1] in {name.rpartition("/")[2] for name in model.names}:
                return model, False
        return None, False

    def weights(self, model_id: str, method: str) -> str:
        """Hub id of the weights of a method that its authors gave out; empty without any."""
        model, _ = self.of(model_id)
        return self.released.get(model.key, {}).get(method, "") if model else ""


@cache
def published_models() -> Models:
    """`models.yaml`, which is read in no time."""
    content = read_mapping(MODELS)
    _only(content, ("models", "released"), MODELS.name)
    found = {
        key: Model(key, tuple(said.get("names", ())), said.get("size", ""))
        for key, said in content["models"].items()
    }
    for key in content["released"]:
        _known("model", key, found, f"{MODELS.name}: released")
    return Models(found, content["released"])


@cache
def reference() -> Mapping[str, Table]:
    """The tables that ship, by name."""
    return load(FILE, published_models().known)


def find_table(name: str) -> Table:
    """One table; UsageError names the nearest where there is none such."""
    found: Table = _known("table", name, reference(), "printed")
    return found


def load(path: Path, models: Mapping[str, Model]) -> dict[str, Table]:
    """The tables of a file. Raises UsageError naming the table and row of what is wrong."""
    content = read_mapping(path)
    _only(content, PARTS, path.name)
    columns = {name: Column(name, **said) for name, said in content["columns"].items()}
    reader = _Reader(path, columns, models, content["reasons"])
    return {name: reader.table(name, said) for name, said in content["tables"].items()}


@dataclass(frozen=True)
class _Reader:
    path: Path
    columns: Mapping[str, Column]
    models: Mapping[str, Model]
    reasons: Mapping[str, str]

    def table(self, name: str, said: Mapping[str, Any]) -> Table:
        where = f"{self.path.name}: {name}"
        _only(said, OF_TABLE, where)
        protocol = said["protocol"]
        if protocol not in PROTOCOLS:
            raise UsageError(f"{where}: " + unknown("protocol", protocol, PROTOCOLS))
        columns = tuple(
            _known("column", one, self.columns, where) for one in said["columns"].split("/")
        )
        rows = [row for one in said["rows"] for row in self.rows(one, said, len(columns), where)]
        labels = [row.label for row in rows]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise UsageError(f"{where}: the row '{twice}' stands twice")
        about = {key: said[key] for key in ("source", "table", "title")}
        notes = tuple(said.get("notes", ()))
        return Table(
            name, **about, protocol=protocol, columns=columns, rows=tuple(rows), notes=notes
        )

    def rows(
        self, one: Mapping[str, Any], table: Mapping[str, Any], width: int, where: str
    ) -> Iterator[Row]:
        """The rows that an entry stands for: one, or one a budget."""
        where = f"{where}, {one.get('row')}"
        _only(one, OF_ROW, where)
        if ("values" in one) == ("budgets" in one) or ("spec" in one) == ("method" in one):
            raise UsageError(f"{where}: either values or budgets, and either spec or method")
        model = _known("model", one.get("model", table["model"]), self.models, where)
        unlike = one.get("unlike", "")
        if unlike:
            unlike = _known("reason", unlike, self.reasons, where)
        spec = one.get("spec", "")
        for number, values in one.get("budgets", {None: one.get("values")}).items():
            budget = one.get("budget", "")
            label = one["row"]
            if number is not None:
                budget = f"{number} {table['unit']}"
                label = f"{label}, {budget}"
            exact = spec.replace("{N}", str(number))
            yield Row(
                label=label,
                model=model,
                method=one.get("method") or exact.partition(":")[0],
                spec=exact,
                budget=budget,
                values=_numbers(values, width, where),
                unlike=unlike,
            )


def _numbers(text: Any, width: int, where: str) -> tuple[float | None, ...]:
    parts = str(text).split("/")
    if len(parts) != width:
        raise UsageError(f"{where}: {len(parts)} values for {width} columns")
    try:
        return tuple(None if part == MISSING else float(part) for part in parts)
    except ValueError:
        raise UsageError(f"{where}: '{text}' is not numbers with / between") from None


def _known(kind: str, name: str, choices: Mapping[str, Any], where: str) -> Any:
    if name not in choices:
        raise UsageError(f"{where}: " + unknown(kind, name, list(choices)))
    return choices[name]


def _only(said: Mapping[str, Any], known: Any, where: str) -> None:
    other = next((key for key in said if key not in known), None)
    if other is not None:
        raise UsageError(f"{where}: " + unknown("key", str(other), sorted(known)))
