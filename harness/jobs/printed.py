"""A suite that repeats a published table: run where all it needs is here, else shown as printed.

The printed scores are those of `harness/readouts/reference.yaml`. Where weights or data are
missing nothing is answered: the table stands as its source prints it, beside what the ledger
counts at the models' true sizes, with a list of what is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as Shown

from harness.bench.catalog import BENCHES
from harness.common.errors import UsageError
from harness.common.progress import Progressing
from harness.cost import published
from harness.cost.published import PaperRow, PaperTable
from harness.jobs.athand import is_mini, lacking_data, lacking_model, lacking_weights
from harness.jobs.benchmarks import Benchmarks
from harness.jobs.published import Published, footnotes
from harness.jobs.resolve import NO_WEIGHTS, named_methods, shipped_checkpoint
from harness.jobs.runner import Job
from harness.options.option import flag
from harness.options.settings import Settings
from harness.readouts.beside import table_rows
from harness.readouts.ending import Ending
from harness.readouts.reference import Table, find_table, published_models
from harness.store import columns
from harness.store.csvfile import write_csv
from harness.store.rundir import Store

ELSEWHERE = (  # of a run that answers
    "shard", "cluster", "reuse", "with_throughput", "analyse", "slice",
)  # fmt: skip
UNCOUNTED = ("gamma", "blind")  # what they skip depends on weights, or there is no image
NOT_RUN = "not run: weights or data are missing here"


@dataclass(frozen=True)
class Needs:
    """``settings``: what can be run; ``left_out``: what never can; ``missing``: what to get."""

    settings: Settings
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def repeat(settings: Settings, argv: Sequence[str]) -> Job:
    """The job of a suite that repeats a table. Raises UsageError."""
    table = find_table(str(settings.printed))
    needs = look_up(settings)
    if not needs.missing:
        return Repeated(needs, table, argv)
    for name in ELSEWHERE:
        if getattr(settings, name):
            raise UsageError(
                f"{flag(name)}: nothing can be run: {needs.missing[0]} (without {flag(name)} the "
                "printed table is shown, with all that is missing)"
            )
    return Printed(needs, table, argv)


def look_up(settings: Settings) -> Needs:
    """What of a run is here. Nothing is fetched, loaded or written. Raises UsageError."""
    missing = [lacking_model(settings.model)]
    left_out: list[str] = []
    kept = []
    for spec, method in zip(settings.methods, named_methods(settings.methods), strict=True):
        found, why = _weights(method, settings)
        if not why and method.least_images > 1 and is_mini(settings.model):
            found, why = "", f"{method.label}: an image is one crop on {settings.model}"
        missing.append(found)
        if why:
            left_out.append(why)
        else:
            kept.append(spec)
    benches = []
    for name in settings.bench:
        if _mini_data(settings) and name in BENCHES and not BENCHES[name].mini:
            left_out.append(f"{name}: it has no mini version")
            continue
        bench = _bench(name, settings)
        missing += lacking_data(bench)
        benches.append(name)
    if not kept or not benches:
        missing.append("nothing of it can be run here: " + "; ".join(left_out))
    narrowed = dataclasses.replace(settings, methods=tuple(kept), bench=tuple(benches))
    return Needs(narrowed, tuple(dict.fromkeys(filter(None, missing))), tuple(left_out))


def _weights(method: Any, settings: Settings) -> tuple[str, str]:
    """What is missing of a method's weights, or why the method is left out."""
    name, wish = method.name, settings.checkpoint.get(method.name)
    if wish == NO_WEIGHTS or not (wish or method.trained):
        return "", ""
    if wish is None and shipped_checkpoint(name, settings.model) is not None:
        return "", ""
    wish = wish or published_models().weights(settings.model, name)
    if not wish:
        why = f"nobody gave out its weights on {settings.model}: pass --checkpoint {name}=PATH"
        return "", f"{method.label}: {why}"
    return lacking_weights(name, wish), ""


def _bench(name: str, settings: Settings) -> Any:
    from harness.bench.benches import resolve_bench

    return resolve_bench(name, settings.data, mini_model=is_mini(settings.model))


def _mini_data(settings: Settings) -> bool:
    return settings.data == "mini" or (settings.data == "auto" and is_mini(settings.model))


def _described(table: Table, needs: Needs) -> dict[str, Any]:
    """What run.json says of the table."""
    return {
        "paper": table.source,
        "table": table.table,
        "title": table.title,
        "name": table.name,
        "protocol": table.protocol,
        "notes": list(table.notes),
        "missing": list(needs.missing),
        "left_out": list(needs.left_out),
    }


class Repeated(Benchmarks):
    """The table's methods and benches, answered here."""

    def __init__(self, needs: Needs, table: Table, argv: Sequence[str]) -> None:
        super().__init__(needs.settings, argv)
        self.needs, self.table = needs, table

    def open(self, out: Path, show: Progressing) -> dict[str, Any] | None:
        about = super().open(out, show)
        for line in self.needs.left_out:
            show.say(f"left out: {line}")
        return about and {**about, "published": _described(self.table, self.needs)}


class Printed(Published):
    """The table as printed, with what the ledger counts of its rows, and what is missing."""

    def __init__(self, needs: Needs, table: Table, argv: Sequence[str]) -> None:
        super().__init__(dataclasses.replace(needs.settings, published=table.name), argv)
        self.needs, self.printed = needs, table

    def paper_table(self) -> PaperTable:
        """The rows that the ledger counts: as the paper counts them too, where it prints that."""
        return counted_table(self.printed)

    def open(self, out: Path, show: Progressing) -> dict[str, Any]:
        about = super().open(out, show)
        described = _described(self.printed, self.needs)
        described["notes"] = list(dict.fromkeys([*self.table.notes, *self.printed.notes]))
        return {**about, "published": described}

    def work(self, store: Store, show: Progressing) -> bool:
        rows = list(table_rows(self.printed, NOT_RUN))
        write_csv(store.path / columns.REFERENCE.file, columns.REFERENCE, rows)
        return super().work(store, show)

    def ending(self, out: Path) -> Ending:
        shown = as_printed(self.printed, self.compared)
        rows = {f"[{i}]": row.row for i, row in enumerate(self.table.rows, start=1)}
        notes = [*footnotes(self.table, self.compared), *self.printed.notes]
        parts = [(note.partition(" "), note) for note in dict.fromkeys(notes)]
        named = [f"{rows[first]}: {rest}" if first in rows else note
                 for (first, _, rest), note in parts]  # fmt: skip
        return Ending(lambda width: shown, notes=[*named, *said(self.needs)])


def counted_table(table: Table) -> PaperTable:
    """The cost table of that name, else one of the rows whose models and methods can be counted."""
    if table.name in published.table_names():
        return published.load_table(table.name)
    rows = tuple(
        PaperRow(row.label, row.model.size, "paper-pmod", None, method=row.spec)
        for row in table.rows
        if row.model.size and row.spec and row.spec.partition(":")[0] not in UNCOUNTED
    )
    return PaperTable(table.name, table.source, table.table, table.title, rows)


def said(needs: Needs) -> Iterator[str]:
    """What is missing, and how to run the table all the same."""
    yield "Nothing was run. Missing here:"
    yield from (f"- {line}" for line in needs.missing)
    yield from (f"- left out in any case: {line}" for line in needs.left_out)
    yield "The same suite on the shipped model and mini data: add --model tiny-llava --data mini"


def as_printed(table: Table, compared: Sequence[Any]) -> Shown:
    """Printed scores, and costs of the rows that are counted; skip shares are in the file."""
    title = f"{table.source}, {table.table}: {table.title} (scores as printed; ours: costs)"
    shown = Shown(title=title, title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("row")
    scores = [i for i, c in enumerate(table.columns) if not c.name.startswith("skip-")]
    for i in scores:
        shown.add_column(table.columns[i].name, justify="right")
    digits = {i: decimals([row.values[i] for row in table.rows]) for i in scores}
    costs = {(line["row"], line["quantity"]): line for line in compared}
    printed = any(line.get("paper_value") is not None for line in costs.values())
    heads = COSTS if printed else COSTS_OF_OURS
    for head, _ in heads:
        shown.add_column(head, justify="right")
    for row in table.rows:
        texts = [as_text(row.values[i], digits[i]) for i in scores]
        for head, name in heads:
            line = costs.get((row.label, "kv" if head.startswith("KV") else "tflops"), {})
            texts.append(as_text(line.get(name), 2))
        shown.add_row(row.label.replace("[", r"\["), *texts)
    return shown


COSTS = [
    ("TFLOP, paper", "paper_value"),
    ("its rule", "paper_rule"),
    ("one rule", "one_rule"),
    ("KV %, paper", "paper_value"),
    ("KV %, one rule", "one_rule"),
]
"""Columns of costs, with the field of `published.csv` that each shows."""
COSTS_OF_OURS = [("TFLOP, one rule", "one_rule"), ("KV %, one rule", "one_rule")]


def decimals(values: Sequence[float | None]) -> int:
    """Decimals that a printed column has."""
    return max((len(f"{v:g}".partition(".")[2]) for v in values if v is not None), default=0)


def as_text(value: float | None, digits: int) -> str:
    """A printed number; empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"
