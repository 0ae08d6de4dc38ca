"""Measured times: one entry a method and workload, and the tables drawn from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from reports import text
from reports.cell import Series
from reports.summary import Summary
from reports.tables import Cell, Column, Table, name_cell

NAN = math.nan
PHASES = ("end_to_end", "prefill", "decode", "vision")
TITLES = {"end_to_end": "End to end", "prefill": "Prefill", "decode": "Decode", "vision": "Vision"}
MOST_BESIDE = 6  # workloads in the overview; all of them stand in a table of their own
WATERMARKS = ("busy", "throttled")


@dataclass(frozen=True)
class Phase:
    """One phase of one method; times in ms, ratios to dense of the same rounds."""

    median: float
    low: float
    high: float
    speedup: float
    speedup_low: float
    speedup_high: float
    flops_ratio: float
    realisation: float
    realisation_low: float
    realisation_high: float
    peak_mib: float
    kv_mib: float


@dataclass
class Timed:
    """A method on a workload under one backend."""

    series: Series
    workload: str
    device: str
    attn: str
    dtype: str
    batch: float
    n_text: float
    n_image: float
    n_out: float
    bench: str = ""
    rounds: float = NAN
    agreement: float = NAN
    joules: float = NAN
    samples_per_s: float = NAN
    notes: str = ""
    phases: dict[str, Phase] = field(default_factory=dict)

    def ms(self, phase: str) -> float:
        """Median of a phase; 0 where the workload has no such phase."""
        found = self.phases.get(phase)
        return 0.0 if found is None or math.isnan(found.median) else found.median


def timed(summary: Summary) -> list[Timed]:
    """Every method and workload of throughput.csv, methods in the order of the report."""
    rank = {(s.model, s.method, s.label): (i, s) for i, s in enumerate(summary.series)}
    found: dict[tuple[Any, ...], Timed] = {}
    for row in summary.run.throughput.itertuples():
        key = (row.model, row.method, row.label, row.workload or row.bench, row.attn, row.batch)
        series = rank.get(key[:3], (0, Series(row.model, row.label, row.method, row.label)))[1]
        entry = found.get(key)
        if entry is None:
            entry = found[key] = Timed(
                series, str(key[3]), row.device, row.attn, row.dtype,
                row.batch, row.n_text, row.n_image, row.n_out, str(row.bench),
                notes=row.notes,
            )  # fmt: skip
        entry.phases[str(row.phase)] = Phase(
            row.median_ms, row.p10_ms, row.p90_ms, row.speedup_vs_dense, row.speedup_ci_low,
            row.speedup_ci_high, row.flops_ratio, row.realisation, row.realisation_ci_low,
            row.realisation_ci_high, row.peak_mib, row.kv_mib,
        )  # fmt: skip
        if row.phase == "end_to_end":
            entry.rounds, entry.agreement = row.repeats, row.agreement
            entry.joules, entry.samples_per_s = row.joules_per_sample, row.samples_per_s
    place = {s: i for i, s in enumerate(summary.series)}
    return sorted(found.values(), key=lambda t: place.get(t.series, len(place)))


def workloads(entries: list[Timed]) -> list[str]:
    """Workloads in the order of the run."""
    return list(dict.fromkeys(entry.workload for entry in entries))


def panel_title(entry: Timed) -> str:
    """The method's label where a panel has room for it, else its short name."""
    label = entry.series.label
    return label if len(label) <= 22 else entry.series.short or label


def watermark(entries: list[Timed]) -> str:
    """A word across figures whose times a busy or throttled device may have spoilt."""
    notes = " ".join(entry.notes for entry in entries)
    return next((word for word in WATERMARKS if word in notes), "")


def conditions(entries: list[Timed]) -> str:
    """Device, precision, backend and rounds, for captions."""
    parts: list[str] = []
    for name in ("device", "dtype", "attn"):
        parts += dict.fromkeys(str(getattr(e, name)) for e in entries if getattr(e, name))
    counts = sorted({int(e.rounds) for e in entries if not math.isnan(e.rounds)})
    if counts:
        parts.append(f"{counts[0]} rounds" if len(counts) == 1 else
                     f"{counts[0]} to {counts[-1]} rounds")  # fmt: skip
    return ", ".join(parts)


def speed_table(entries: list[Timed]) -> Table | None:
    """One row a method and workload: speed-up, FLOPs ratio and realisation of every phase."""
    if not entries:
        return None
    columns = [Column("Method", numeric=False), Column("Workload", numeric=False)]
    columns += [Column("On", "device, precision, attention", numeric=False)]
    columns += [Column("Tokens", "text + image → new"), Column("Batch", "same answers as alone")]
    columns += [Column("End to end", "ms, p10 to p90"), Column("Rate", "samples/s")]
    for phase in PHASES:
        columns.append(Column(TITLES[phase], "speed-up, 95 % CI; realisation of the FLOPs ratio"))
    columns += [Column("Selection", "ms"), Column("KV cache", "MiB, whole batch")]
    columns += [Column("Peak", "MiB allocated"), Column("Energy", "J a sample above idle")]
    columns += [Column("n", "rounds")]
    rows = [_row(entry) for entry in entries]
    used = [i for i in range(len(columns)) if i < 4 or any(r[i].main != text.GAP for r in rows)]
    kept = [[row[i] for i in used] for row in rows]
    return Table("times", "Time by phase", [columns[i] for i in used], kept, NOTE, len(rows) > 12)


def beside(summary: Summary, entries: list[Timed]) -> list[tuple[Column, list[Cell]]]:
    """For the overview: two columns a workload, each with a cell for every series.

    Joined by model, method and label; dense under another backend has no row there.
    """
    found = []
    for work in workloads(entries)[:MOST_BESIDE]:
        known = {entry.series: entry for entry in entries if entry.workload == work}
        first = next(iter(known.values()))
        name = first.bench or work
        size = f"batch {text.number(first.batch, 0)}, {text.number(first.n_out, 0)} new tokens"
        latency = Column(f"Time, {name}", f"ms end to end, speed-up; {size}")
        realised = Column(f"Realisation, {name}", "speed-up / FLOPs ratio of the prefill, 95 % CI")
        rows = [known.get(series) for series in summary.series]
        found.append((latency, [_latency(entry) for entry in rows]))
        found.append((realised, [_realised(entry) for entry in rows]))
    return found


def _latency(entry: Timed | None) -> Cell:
    whole = entry.phases.get("end_to_end") if entry else None
    if whole is None or math.isnan(whole.median):
        return Cell(text.GAP)
    gain = _gain(whole)
    sub = gain.main if gain.main != text.GAP else ""
    return Cell(text.number(whole.median, 1), sub=sub, sub_ci=gain.ci, sort=whole.median)


def _realised(entry: Timed | None) -> Cell:
    prefill = entry.phases.get("prefill") if entry else None
    if prefill is None or math.isnan(prefill.realisation):
        return Cell(text.GAP)
    of = f"{text.number(prefill.speedup, 2)}× of {text.number(prefill.flops_ratio, 2)}×"
    realised = text.number(prefill.realisation, 2)
    return Cell(realised, _realised_ci(prefill), sub=of, sort=prefill.realisation)


def _realised_ci(phase: Phase) -> str:
    return text.interval(phase.realisation_low, phase.realisation_high, 2)


READING = (
    ("Time", "is the median over rounds of one call for the whole batch, with p10 to p90."),
    (
        "Speed-up",
        "is dense's median over the method's. Both ran in the same process on the same weights, in "
        "turn; the 95 % interval draws whole rounds again. Above 1 the method is faster. Each row "
        "is read by itself: “faster” and “slower” are not corrected for the number of rows.",
    ),
    (
        "Phases",
        "vision is tower and projector, prefill from there to the first token, decode all later "
        "tokens. End to end is the host's clock around the whole call; preparing the prompt is "
        "not in it.",
    ),
    (
        "Realisation",
        "is speed-up over FLOPs ratio in the same phase: 1 when the whole saving became time, and "
        "1 / FLOPs ratio when none of it did. Its interval is the speed-up's: FLOPs are counted.",
    ),
    ("Break-even", "counts only where the whole interval of the speed-up lies above 1."),
    (
        "Answers",
        "of a batch are compared with the same rows alone; a share below 100 % names rows that "
        "differ at numeric ties. A batch that answers wrongly is a failed cell.",
    ),
    ("A dash", "means not measured, never zero."),
)
"""How to read the report of a timing run."""

NOTE = (
    "Speed-up is dense's median over the method's, from rounds run in turn in one process. The "
    "FLOPs ratio is dense's FLOPs over the method's in the same phase (convention causal). "
    "Realisation is speed-up over FLOPs ratio: 1 when all of the saving became time. Intervals are "
    "row by row, not corrected for the number of rows."
)


def _row(entry: Timed) -> list[Cell]:
    whole = entry.phases.get("end_to_end")
    where = ", ".join(v for v in (entry.device, entry.dtype, entry.attn) if v)
    sizes = f"{text.number(entry.n_text, 0)} + {text.number(entry.n_image, 0)}"
    alike = "" if math.isnan(entry.agreement) else f"{text.percent(entry.agreement)} of rows"
    row = [name_cell(entry.series), Cell(entry.workload or text.GAP), Cell(where or text.GAP)]
    row.append(Cell(f"{sizes} → {text.number(entry.n_out, 0)}", sort=entry.n_image))
    row.append(Cell(text.number(entry.batch, 0), note=alike, sort=entry.batch))
    median = whole.median if whole else NAN
    spread = "" if whole is None or math.isnan(whole.low) else (
        f"{text.number(whole.low)} to {text.number(whole.high)}")  # fmt: skip
    row.append(Cell(text.number(median, 1), spread, sort=median))
    row.append(Cell(text.number(entry.samples_per_s, 2), sort=entry.samples_per_s))
    row += [_gain(entry.phases.get(phase)) for phase in PHASES]
    chosen = entry.phases.get("selection")
    row.append(Cell(text.number(chosen.median if chosen else NAN, 2)))
    for value, places in (
        (whole.kv_mib if whole else NAN, 1),
        (whole.peak_mib if whole else NAN, 0),
        (entry.joules, 1),
        (entry.rounds, 0),
    ):
        row.append(Cell(text.number(value, places), sort=value))
    return row


def _gain(phase: Phase | None) -> Cell:
    if phase is None or math.isnan(phase.speedup):
        return Cell(text.GAP)
    ci = text.interval(phase.speedup_low, phase.speedup_high, 2)
    note = ""
    if not math.isnan(phase.realisation):
        shares = (text.number(phase.realisation, 2), _realised_ci(phase))
        note = f"{' '.join(filter(None, shares))} of {text.number(phase.flops_ratio, 2)}×"
    return Cell(f"{text.number(phase.speedup, 2)}×", ci, note=note, sort=phase.speedup)


def findings(entries: list[Timed]) -> list[str]:
    """Where the whole call is faster than dense beyond the interval, and where it is not."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        whole = entry.phases.get("end_to_end")
        if whole is None or math.isnan(whole.speedup_low) or entry.series.is_reference:
            continue
        verdict = "neither"
        if whole.speedup_low > 1:
            verdict = "faster"
        if whole.speedup_high < 1:
            verdict = "slower"
        found.setdefault(verdict, []).append(
            f"{entry.series.label} on {entry.workload} ({text.number(whole.speedup, 2)}×)"
        )
    words = {
        "faster": "Faster than dense end to end",
        "slower": "Slower than dense end to end",
        "neither": "No difference to dense that exceeds the noise",
    }
    return [f"{word}: {_cut(found[name])}." for name, word in words.items() if name in found]


def _cut(names: list[str]) -> str:
    more = f"; and {len(names) - 6} more" if len(names) > 6 else ""
    return "; ".join(names[:6]) + more


def opening(summary: Summary, entries: list[Timed]) -> str:
    """One plain sentence of what was timed."""
    models = text.listing(list(dict.fromkeys(s.model for s in summary.series if s.model)))
    device = str(summary.run.get("device_name") or "an unnamed device")
    rows = text.plural(len([s for s in summary.series if not s.is_reference]), "method")
    works = text.plural(len(workloads(entries)), "workload")
    total = sum(cell.status != "missing" for cell in summary.cells.values())
    done = f"{summary.count('done')} of {text.plural(total, 'cell')} done"
    failed = f", {summary.count('failed')} failed" if summary.count("failed") else ""
    what = f"Measured times of {rows} against dense on {works}"
    return f"{what}, model {models}, on {device}: {done}{failed}."
