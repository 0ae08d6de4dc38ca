"""Tables of cost and speed: every counted part, and what was timed."""

from __future__ import annotations

import math

from reports import text
from reports.cell import Cost
from reports.summary import Summary
from reports.tables import Cell, Column, Table, digits, name_cell

SCOPES = {
    "vision": ("Vision", ""),
    "projector": ("Projector", ""),
    "llm_prefill": ("Prefill", ""),
    "llm_decode": ("Decode", ""),
    "router": ("Router", ", of total"),
    "lm_head": ("LM head", ", in prefill and decode"),
    "total": ("Total", ""),
}
"""Title and what follows the unit, by scope in the order of the columns."""
NOT_COUNTED = "not counted"
LATER = ("router", "lm_head")
"""Scopes that runs of older versions do not have."""


def ledger(summary: Summary) -> Table | None:
    """FLOPs of every part under every counter and convention, as ``cost.csv`` has them."""
    scale, unit = text.flops_scale(summary)
    titles = ("Method", "Bench", "Counter", "Convention")
    columns = [Column(t, numeric=False) for t in titles]
    there = {c.scope for cell in summary.cells.values() for c in cell.costs}
    scopes = [name for name in SCOPES if name not in LATER or name in there]
    columns += [Column(SCOPES[name][0], unit + SCOPES[name][1]) for name in scopes]
    columns += [Column("KV, prompt", "MiB"), Column("KV, end", "MiB")]
    rows = []
    for series in summary.series:
        for bench in summary.benches:
            costs = summary.cell(series, bench).costs
            mini = "mini" if summary.is_mini_bench(bench) else ""
            for counter, convention in dict.fromkeys((c.counter, c.convention) for c in costs):
                row = [name_cell(series), Cell(bench or text.GAP, note=mini, tone="name")]
                row += [Cell(counter or text.GAP), Cell(convention or text.GAP)]
                caches = [Cell(text.GAP), Cell(text.GAP)]
                for scope in scopes:
                    cost = summary.cost(series, bench, scope, counter, convention)
                    value = cost.tflops * scale if cost else math.nan
                    if scope == "router":
                        total = summary.cost(series, bench, "total", counter, convention)
                        whole = total.tflops * scale if total else math.nan
                        row.append(_small(value, whole))
                    elif scope == "lm_head":
                        row.append(_small(value))
                    else:
                        row.append(Cell(text.number(value, digits(value)), sort=value))
                    if cost and math.isnan(value):
                        row[-1] = Cell(NOT_COUNTED)
                    caches = _caches(cost) if cost else caches
                rows.append([*row, *caches])
    return _table("ledger", "Cost by part", columns, rows)


def _caches(cost: Cost) -> list[Cell]:
    """The cache after the prompt and at the end, and of how many samples together."""
    batch = cost.kv_batch
    of = "" if math.isnan(batch) or batch == 1 else f"batch of {text.number(batch, 0)}"
    sizes = (cost.kv_mib, cost.kv_mib_end)
    return [Cell(text.number(size, 2), sub=of, sort=size) for size in sizes]


def _small(value: float, whole: float = math.nan) -> Cell:
    """A part too small for the other columns' digits, with its share of the whole if it has one."""
    places = 1 - math.floor(math.log10(value)) if 0 < value < 1 else digits(value)
    share = text.percent(value / whole, 3) if whole > 0 and value > 0 else ""
    return Cell(text.number(value, places), sub=share, sort=value)


def _table(name: str, title: str, columns: list[Column], rows: list[list[Cell]]) -> Table | None:
    return Table(name, title, columns, rows, searchable=len(rows) > 12) if rows else None
