"""`--costs-only --published TABLE`: a paper's cost table beside ours, in files and in a report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from harness.common.progress import Progressing
from harness.cost.published import (
    TEXT,
    PaperRow,
    PaperTable,
    Records,
    lines,
    load_table,
    method_of,
    paper_shape,
)
from harness.cost.readouts import read_out
from harness.cost.rows import cost_rows
from harness.jobs.costs import Costed, routing_rows
from harness.jobs.runner import Job
from harness.readouts.ending import Ending
from harness.store import columns
from harness.store.cells import ID_LENGTH, params_json
from harness.store.csvfile import write_csv
from harness.store.rundir import Store

ROUTER = columns.COUNTED["router"]
ITEMSIZE = 2  # half precision, as the papers ran
WORKLOAD = f"one picture, {TEXT} text tokens"


class Published(Job):
    """A paper's table: `published.csv`, `cost.csv`, `routing.csv` and the report."""

    asks_for_table = True

    def resolve(self, out: Path) -> dict[str, Any]:
        self.table = self.paper_table()
        name, seed = self.table.name, self.settings.seed
        self.recorded = {"costs_only": True, "published": name, "seed": seed}
        return self.recorded

    def paper_table(self) -> PaperTable:
        """The table. Raises UsageError."""
        assert self.settings.published is not None  # how this was reached
        return load_table(self.settings.published)

    def open(self, out: Path, show: Progressing) -> dict[str, Any]:
        """All of it is computed here: where the counters disagree, nothing is written."""
        from harness.cost.referees import referees_for

        table, records = self.table, Records()
        models = dict.fromkeys(row.model for row in table.rows)
        show.phase("checking the counters of FLOPs", soon=True)
        referees = {model: referees_for(paper_shape(model)) for model in models}
        checked = {model: one.described() for model, one in referees.items()}
        rows = show.each("counting", table.rows)
        self.found = [_costed(row, records, referees[row.model]) for row in rows]
        self.compared = list(lines(table, records))
        about = {"paper": table.paper, "table": table.table, "title": table.title}
        content = {"settings": self.recorded, "referees": checked}
        return {**content, "published": {**about, "notes": list(table.notes)}}

    def work(self, store: Store, show: Progressing) -> bool:
        seed = self.settings.seed
        rows = [r for one in self.found for r in cost_rows(one.about, [one.readout], seed)]
        write_csv(store.path / "published.csv", columns.PUBLISHED, self.compared)
        write_csv(store.path / "cost.csv", columns.COST, rows)
        write_csv(store.path / "routing.csv", columns.ROUTING, routing_rows(self.found))
        return False

    def ending(self, out: Path) -> Ending:
        table = comparison(self.table, self.compared)
        return Ending(lambda width: table, notes=footnotes(self.table, self.compared))


def _costed(row: PaperRow, records: Records, referees: Any) -> Costed:
    """The row's routing on the common prompt, read out.

    Where it is no run of a method but a number of tokens, nothing is known of a router.
    """
    import methods

    record, spec = records.of(row, TEXT), method_of(row, TEXT)
    if spec:
        method = methods.parse(spec)
        name, params = method.name, method.params()
    else:
        name, params = "mqt", {"tokens": row.image_tokens}
    key = json.dumps([row.model, row.row, row.setting])
    about = {
        "cell_id": hashlib.sha256(key.encode()).hexdigest()[:ID_LENGTH],
        "model": row.model,
        "method": name,
        "params": params_json(params),
        "label": row.row,
        "bench": WORKLOAD,
    }
    readout = read_out(record, paper_shape(row.model), ITEMSIZE, True, referees)
    if not spec:
        readout |= {column: None for column in readout if column.startswith(ROUTER)}
    return Costed(about, readout)


def comparison(table: PaperTable, compared: Sequence[Mapping[str, Any]]) -> Table:
    """One line a row: prefill TFLOP and KV cache, the paper's and ours twice."""
    title = f"{table.paper}, {table.table}: {table.title}"
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("row")
    for head in ("TFLOP: paper", "ours, its rule", "", "ours, one rule", ""):
        shown.add_column(head, justify="right")
    for head in ("KV %: paper", "ours, its rule", "ours, one rule"):
        shown.add_column(head, justify="right")
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for line in compared:
        rows.setdefault(line["row"], {})[line["quantity"]] = line
    for number, (name, quantities) in enumerate(rows.items(), start=1):
        flops, kv = quantities["tflops"], quantities["kv"]
        marked = any(line.get("note") or line.get("reason") for line in quantities.values())
        shown.add_row(
            f"{name} [{number}]".replace("[", r"\[") if marked else name,
            f"{flops['paper_value']:.2f}",
            f"{flops['paper_rule']:.2f}",
            f"{flops['paper_rule_difference']:+.2f} %",
            f"{flops['one_rule']:.2f}",
            f"{flops['one_rule_difference']:+.1f} %",
            f"{kv['paper_value']:.1f}" if "paper_value" in kv else "",
            f"{kv['paper_rule']:.2f}" if "paper_rule" in kv else "",
            f"{kv['one_rule']:.2f}",
        )
    return shown


def footnotes(table: PaperTable, compared: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be said of rows and of the whole table, and the paper's timed figures."""
    numbers = {row.row: number for number, row in enumerate(table.rows, start=1)}
    found: list[str] = []
    for line in compared:
        where, timed = f"[{numbers[line['row']]}]", bool(line.get("hardware"))
        if timed:
            said = f"the paper's {line['quantity']}: {line['paper_value']:g} {line['unit']}"
            said += f" ({line['hardware']})" + (f". {line['note']}" if line["note"] else "")
            found.append(f"{where} {said}")
            continue
        if line["note"]:
            found.append(f"{where} {line['note']}")
        if line.get("reason"):
            name = {"tflops": "TFLOP", "kv": "KV"}[line["quantity"]]
            found.append(f"{where} {name} not reproducible: {line['reason']}")
    return [*dict.fromkeys(found), *table.notes]
