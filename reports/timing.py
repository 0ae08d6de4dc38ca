"""Measured times: one entry a method and workload, and the board of all of them, best first."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from reports import text
from reports.cell import Series
from reports.summary import Summary

NAN = math.nan
PHASES = ("end_to_end", "prefill", "decode", "vision")
TITLES = {"end_to_end": "End to end", "prefill": "Prefill", "decode": "Decode", "vision": "Vision"}
WATERMARKS = ("busy", "throttled")
MOST_WORKS = 3
"""Workloads for which a first look has room."""


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
    vs_best: float
    """To dense on the best backend, where the run's own is another one."""

    @property
    def verdict(self) -> str:
        """``faster`` or ``slower`` than dense beyond the interval, else ``open``; "" unknown."""
        if math.isnan(self.speedup_low) or math.isnan(self.speedup_high):
            return ""
        if self.speedup_low > 1:
            return "faster"
        return "slower" if self.speedup_high < 1 else "open"

    @property
    def gain(self) -> str:
        """``1.48× [1.45, 1.57]``."""
        ci = text.interval(self.speedup_low, self.speedup_high, 2)
        return f"{text.number(self.speedup, 2)}× {ci}".rstrip()


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

    @property
    def whole(self) -> Phase | None:
        """The call from end to end, where it has a time."""
        found = self.phases.get("end_to_end")
        return None if found is None or math.isnan(found.median) else found

    @property
    def speedup(self) -> float:
        """Of the whole call; 1 for the dense row that the others are compared with."""
        whole = self.whole
        if whole is None:
            return NAN
        own = self.series.is_reference and math.isnan(whole.speedup)
        return 1.0 if own else whole.speedup


def timed(summary: Summary) -> list[Timed]:
    """Every method and workload of throughput.csv, methods in the order of the report."""
    rank = {(s.model, s.method, s.label): s for s in summary.series}
    found: dict[tuple[Any, ...], Timed] = {}
    for row in summary.run.throughput.itertuples():
        key = (row.model, row.method, row.label, row.workload or row.bench, row.attn, row.batch)
        series = rank.get(key[:3], Series(row.model, row.label, row.method, row.label))
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
            row.realisation_ci_high, row.peak_mib, row.kv_mib, row.speedup_vs_best,
        )  # fmt: skip
        if row.phase == "end_to_end":
            entry.rounds, entry.agreement = row.repeats, row.agreement
            entry.joules, entry.samples_per_s = row.joules_per_sample, row.samples_per_s
    place = {s: i for i, s in enumerate(summary.series)}
    return sorted(found.values(), key=lambda t: place.get(t.series, len(place)))


@dataclass(frozen=True)
class Board:
    """Rows best first by workloads in the order of the run."""

    rows: list[Series]
    works: list[str]
    names: dict[str, str]
    """Workload to its words: only what tells it from the others, and always its sizes."""
    at: dict[tuple[Series, str], Timed]

    def get(self, series: Series, work: str) -> Timed | None:
        return self.at.get((series, work))

    def of(self, work: str) -> list[Timed]:
        """The rows that were timed on a workload, fastest first."""
        found = [e for row in self.rows if (e := self.get(row, work)) is not None]
        return sorted(found, key=lambda e: -e.speedup if e.speedup == e.speedup else math.inf)

    @property
    def slowest(self) -> str:
        """The workload that takes dense longest: where a saving shows most."""
        return max(self.works, key=self._longest)

    @property
    def telling(self) -> list[str]:
        """All workloads; of many those that take dense shortest, longest and in between."""
        if len(self.works) <= MOST_WORKS:
            return self.works
        ordered = sorted(self.works, key=self._longest)
        picked = {ordered[0], ordered[len(ordered) // 2], ordered[-1]}
        return [work for work in self.works if work in picked]

    def _longest(self, work: str) -> float:
        """Milliseconds of dense; of the slowest row where dense has none."""
        found = self.of(work)
        dense = [e.ms("end_to_end") for e in found if e.series.is_reference]
        return max(dense or [e.ms("end_to_end") for e in found], default=0.0)

    @property
    def methods(self) -> list[Series]:
        """All rows but dense's."""
        return [row for row in self.rows if not row.is_reference]


def board(summary: Summary, entries: list[Timed]) -> Board:
    """Rows by the geometric mean of their speed-ups, those that lack a workload after the others.

    A method that failed or was not reached everywhere is a row all the same.
    """
    works = workloads(entries)
    at = {(entry.series, entry.workload): entry for entry in entries}
    rows = list(dict.fromkeys([*summary.series, *(entry.series for entry in entries)]))

    def order(series: Series) -> tuple[int, float]:
        known = [at[series, work].speedup for work in works if (series, work) in at]
        known = [gain for gain in known if gain > 0]
        mean = sum(map(math.log, known)) / len(known) if known else -math.inf
        return len(works) - len(known), -mean

    return Board(sorted(rows, key=order), works, names(entries), at)


def workloads(entries: list[Timed]) -> list[str]:
    """Workloads in the order of the run."""
    return list(dict.fromkeys(entry.workload for entry in entries))


def names(entries: list[Timed]) -> dict[str, str]:
    """A workload in words; its full specification where words would not tell two apart."""
    firsts = {e.workload: e for e in reversed(entries)}
    texts = {e.n_text for e in firsts.values() if not e.bench}
    found = {}
    for work in workloads(entries):
        one = firsts[work]
        known = not math.isnan(one.n_image)
        image = f"{text.number(one.n_image, 0)} image tokens" if known else ""
        parts = [one.bench or image or work]
        if len(texts) > 1 and not one.bench:
            parts[0] += f" + {text.number(one.n_text, 0)}"
        parts += [f"{text.number(one.n_out, 0)} new"] * (not math.isnan(one.n_out))
        parts += [f"batch {text.number(one.batch, 0)}"] * (not math.isnan(one.batch))
        found[work] = ", ".join(parts)
    count = Counter(found.values())
    return {work: name if count[name] == 1 else work for work, name in found.items()}


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
