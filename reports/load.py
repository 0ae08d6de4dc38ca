"""What methods serve under load: rows of load.csv by requests in flight, tables and sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from harness.store.columns.load import STEPS
from reports import text
from reports.cell import Series
from reports.csvio import read_table
from reports.ranktable import name_cell
from reports.specs import LOAD
from reports.speedtables import TONES
from reports.summary import Summary
from reports.tables import Cell, Column, Table

TITLE = "Speed under load"
NAMES = {
    "vision": "vision",
    "selection": "selection",
    "prefill": "prefill",
    "padding": "padding",
    "decode": "decode",
    "waiting": "waiting for the longest",
    "rest": "rest",
}
NOTE = (
    "Ratios are the method's over dense's, of the same requests in turn in one process, with a "
    "95 % interval over whole rounds; in colour where it leaves out 1, row by row, not corrected "
    "for their number. Batches are static: a slot waits until its batch's longest answer ends."
)


@dataclass(frozen=True)
class Span:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio(Span):
    """The method's over dense's."""

    @property
    def shown(self) -> str:
        return f"{text.number(self.value, 2)}× {text.interval(self.low, self.high, 2)}".rstrip()

    def verdict(self, more_is_better: bool) -> str:
        """``faster`` or ``slower`` than dense beyond the interval, else nothing."""
        if self.low > 1:
            return "faster" if more_is_better else "slower"
        return ("slower" if more_is_better else "faster") if self.high < 1 else ""


@dataclass(frozen=True)
class Entry:
    """A method under one load. ``row``: its columns, nan where not measured."""

    series: Series
    row: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.row, name)

    def ratio(self, name: str) -> Ratio:
        parts = (getattr(self.row, f"{name}_ratio{end}") for end in ("", "_low", "_high"))
        return Ratio(*map(float, parts))

    @property
    def gain(self) -> Ratio:
        """Of the requests served."""
        return self.ratio("requests_per_s")

    @property
    def is_base(self) -> bool:
        """Whether it is the row that the others are compared with."""
        return self.series.is_reference and math.isnan(self.gain.value)

    @property
    def name(self) -> str:
        return self.series.short or self.series.label

    @property
    def added(self) -> dict[str, Span]:
        """Milliseconds a request that each step adds to dense's; they add up to the difference."""
        ends = ("ms", "low", "high")
        values = {
            name: [float(getattr(self.row, f"{name}_added_{end}")) for end in ends]
            for name in STEPS
        }
        return {name: Span(*three) for name, three in values.items()}


@dataclass(frozen=True)
class Loads:
    """One kind of requests: rows best first at the most requests in flight."""

    requests: str
    counts: list[int]
    rows: list[Series]
    at: dict[tuple[Series, int], Entry]

    @property
    def most(self) -> int:
        return self.counts[-1]

    def of(self, count: int) -> list[Entry]:
        """The rows that were served with so many in flight, best first."""
        return [e for series in self.rows if (e := self.at.get((series, count))) is not None]

    def base(self, count: int) -> Entry | None:
        return next((e for e in self.of(count) if e.is_base), None)

    def others(self, count: int) -> list[Entry]:
        """The rows that have a ratio to dense; controls only where nothing else is."""
        known = [
            e for e in self.of(count) if not (e.series.is_reference or e.gain.value != e.gain.value)
        ]
        return [e for e in known if not e.series.is_control] or known

    def spec(self, count: int) -> str:
        """How cells.csv calls it."""
        return f"{self.requests}:in_flight={count}"


def read(summary: Summary) -> list[Loads]:
    """The loads of a run in its order; none where there is no load.csv."""
    frame = read_table(summary.run.path / LOAD.name, LOAD, summary.run.notices)
    names = {(s.model, s.method, s.label): s for s in summary.series}
    found: dict[str, list[Entry]] = {}
    for row in frame.itertuples():
        series = names.get((str(row.model), str(row.method), str(row.label)))
        series = series or Series(str(row.model), str(row.label), str(row.method), str(row.label))
        if not math.isnan(row.requests_per_s):
            requests = str(row.workload).rpartition(":in_flight=")[0]
            found.setdefault(requests, []).append(Entry(series, row))
    return [_loads(requests, entries, summary) for requests, entries in found.items()]


def _loads(requests: str, entries: list[Entry], summary: Summary) -> Loads:
    counts = sorted({int(e.concurrency) for e in entries})
    at = {(e.series, int(e.concurrency)): e for e in entries}

    def order(series: Series) -> tuple[float, ...]:
        known = (at.get((series, count)) for count in reversed(counts))
        return tuple(-e.requests_per_s if e else math.inf for e in known)

    rows = list(dict.fromkeys([*summary.series, *(e.series for e in entries)]))
    return Loads(requests, counts, sorted(rows, key=order), at)


# --- tables -------------------------------------------------------------------------------------
def ranked(summary: Summary, loads: Loads, number: int = 1) -> Table:
    """Requests served, a column for each number in flight, best first at the most of them."""
    columns = [Column("Method", numeric=False)]
    columns += [Column(f"{count} in flight", "of dense's requests/s") for count in loads.counts]
    last = [
        ("First token", "p95, of dense's", "ttft_p95", " ms"),
        ("Between tokens", "p95, of dense's", "between_p95", " ms"),
        ("KV cache", f"of dense's, {loads.most} in flight", "kv", " MiB"),
    ]
    columns += [Column(title, unit) for title, unit, *_ in last]
    rows = []
    for series in loads.rows:
        row = [name_cell(series)]
        row += [_served(summary, loads, series, count) for count in loads.counts]
        entry = loads.at.get((series, loads.most))
        row += [_time(entry, name, unit) for _, _, name, unit in last]
        rows.append(row)
    note = f"{loads.requests}; {conditions(loads)}. {NOTE}"
    name = "load" if number == 1 else f"load-{number}"
    return Table(name, TITLE, columns, rows, note)


def _served(summary: Summary, loads: Loads, series: Series, count: int) -> Cell:
    entry = loads.at.get((series, count))
    if entry is None:
        failed = summary.cell(series, loads.spec(count)).status == "failed"
        return Cell("failed", tone="failed") if failed else Cell("not timed", tone="gap")
    rate = f"{_figures(entry.requests_per_s)} requests/s"
    if entry.is_base:
        return Cell("1×", sub=rate, sort=1.0)
    return _ratio(entry.gain, rate, more_is_better=True)


def _time(entry: Entry | None, name: str, unit: str) -> Cell:
    if entry is None:
        return Cell(text.GAP)
    value = float(getattr(entry, f"{name}{unit.replace(' ', '_').lower()}"))
    if math.isnan(value):
        return Cell(text.GAP)
    shown = f"{_figures(value)}{unit}"
    return Cell("1×", sub=shown, sort=1.0) if entry.is_base else _ratio(entry.ratio(name), shown)


def _ratio(one: Ratio, below: str, more_is_better: bool = False) -> Cell:
    if math.isnan(one.value):
        return Cell(text.GAP, sub=below)
    tone = TONES.get(one.verdict(more_is_better), "")
    ci = text.interval(one.low, one.high, 2)
    return Cell(f"{text.number(one.value, 2)}×", ci, sub=below, tone=tone, sort=one.value)


def _figures(value: float) -> str:
    """Three figures that matter, no decimals from 100 on."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return text.number(value, digits)


TIMED = (
    ("First token", "ttft"),
    ("Between tokens", "between"),
    ("Whole answer", "latency"),
)


def whole(loads: Loads, count: int, number: int) -> Table:
    """Everything of one number in flight; columns without a number are absent."""
    columns = [Column("Method", numeric=False), Column("Served", "of dense's requests/s")]
    columns.append(Column("Tokens/s", "of answers"))
    names = [(title, f"{name}_p{p}", p) for title, name in TIMED for p in (50, 95)]
    columns += [Column(title, f"p{p}, of dense's") for title, _, p in names]
    entries = loads.of(count)
    gpu = next((str(e.gpu) for e in entries if e.gpu), "")
    columns += [Column("KV cache", "of dense's"), Column("KV held", "MiB, padding included")]
    columns += [Column("Fits", f"requests on {gpu}, predicted")]
    shares = ("padding", "waiting", "selection")
    columns += [Column(name.capitalize(), f"share of {_of(name)}") for name in shares]
    columns += [Column("Same answers", "as alone"), Column("n", "rounds")]
    rows = []
    for e in entries:
        rate = f"{_figures(e.requests_per_s)} requests/s"
        served = Cell("1×", sub=rate, sort=1.0) if e.is_base else _ratio(e.gain, rate, True)
        row = [name_cell(e.series), served, Cell(_figures(e.tokens_per_s), sort=e.tokens_per_s)]
        row += [_time(e, name, " ms") for _, name, _ in names]
        row += [_time(e, "kv", " MiB"), Cell(text.number(e.kv_held_mib, 1), sort=e.kv_held_mib)]
        row.append(_fits(e))
        parts = [float(getattr(e, f"{name}_share")) for name in shares]
        row += [Cell(text.percent(part), sort=part) for part in (*parts, e.agreement)]
        rows.append([*row, Cell(text.number(e.repeats, 0), sort=e.repeats)])
    used = [i for i in range(len(columns)) if not i or any(r[i].main != text.GAP for r in rows)]
    kept = [[row[i] for i in used] for row in rows]
    title = f"{count} in flight, {loads.requests}"
    note = f"{conditions(loads)}. {NOTE}"
    return Table(f"load-{number}-{count}", title, [columns[i] for i in used], kept, note)


def _of(share: str) -> str:
    return "the prompt's positions" if share == "padding" else "the time"


def _fits(entry: Entry) -> Cell:
    if math.isnan(entry.fits):
        return Cell(text.GAP)
    shown = text.number(entry.fits, 0)
    ratio = entry.ratio("fits")
    return Cell(shown, sub="" if math.isnan(ratio.value) else ratio.shown, sort=entry.fits)


def conditions(loads: Loads) -> str:
    """Device, precision, backend, threads and rounds, for captions."""
    entries = list(loads.at.values())
    parts: list[str] = []
    for name in ("device", "dtype", "attn"):
        parts += dict.fromkeys(str(getattr(e, name)) for e in entries if getattr(e, name))
    for name, noun in (("threads", "thread"), ("repeats", "round")):
        known = sorted({int(v) for e in entries if not math.isnan(v := getattr(e, name))})
        if known:
            low, high = known[0], known[-1]
            parts.append(text.plural(low, noun) if low == high else f"{low} to {high} {noun}s")
    return ", ".join(parts)
