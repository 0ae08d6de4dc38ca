"""Rows against each other: ``comparisons.csv``, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from harness.store import columns
from reports.cell import ALPHA, NAN, Series
from reports.csvio import Spec, read_table
from reports.fronts import AVERAGE
from reports.summary import Summary

FILE = Spec.of(
    columns.COMPARISONS, "bench", "a", "b", "method_a", "method_b", "delta", "ci_low", "ci_high"
)


@dataclass(frozen=True)
class Pair:
    """One row minus another on one bench; in the metric's unit, a share for the average."""

    n: float
    delta: float
    low: float
    high: float
    margin: float
    p_value: float
    p_adjusted: float
    """Over the comparable pairs; NaN elsewhere."""
    comparable: bool
    told: str = ""
    """The file's verdict, of this way round."""

    @property
    def settled(self) -> bool:
        """Whether the two differ beyond chance, after the correction."""
        return self.told in ("better", "worse")

    @property
    def turned(self) -> Pair:
        """The same comparison read the other way."""
        told = {"better": "worse", "worse": "better"}.get(self.told, self.told)
        other = replace(self, delta=-self.delta, low=-self.high, high=-self.low, told=told)
        if told in ("non-inferior", "inconclusive"):
            # Where less is better, the other end of the interval decides: the file's word tells.
            above, below = self.low > -self.margin, self.high < self.margin
            within = below if above == (told == "non-inferior") else above
            other = replace(other, told="non-inferior" if within else "inconclusive")
        return other


@dataclass
class Pairs:
    """Every pair of the run by (a, b, bench); nothing where the file is missing."""

    found: dict[tuple[Series, Series, str], Pair] = field(default_factory=dict)
    whole: str = AVERAGE
    """The bench that stands for the run: the average, or the only one."""

    def get(self, a: Series, b: Series, bench: str | None = None) -> Pair | None:
        """a minus b, or None."""
        name = self.whole if bench is None else bench
        if (a, b, name) in self.found:
            return self.found[a, b, name]
        pair = self.found.get((b, a, name))
        return pair.turned if pair else None


def load(summary: Summary) -> Pairs:
    """Read ``comparisons.csv``; what cannot be is left out with a notice."""
    run = summary.run
    frame = read_table(run.path / FILE.name, FILE, run.notices)
    wrong = (frame["delta"] < frame["ci_low"] - 1e-9) | (frame["delta"] > frame["ci_high"] + 1e-9)
    wrong |= frame["delta"].isna()
    false = frame["verdict"].isin(["better", "worse"]) & ~(frame["p_adjusted"] < ALPHA)
    wrong |= false
    if wrong.any():
        run.notices.append(f"{FILE.name}: {int(wrong.sum())} line(s) that cannot be, left out.")
        frame = frame[~wrong]
    names = {(s.model, s.method, s.label): s for s in summary.series}
    models = {s.model for s in summary.series}
    pairs = Pairs(whole=AVERAGE if len(summary.benches) > 1 else "".join(summary.benches))

    def series(model: str, method: str, label: str) -> Series | None:
        shown = f"{label} ({model})" if len(models) > 1 else label
        return names.get((model, method, shown or method))

    for row in frame.itertuples():
        a = series(str(row.model), str(row.method_a), str(row.a))
        b = series(str(row.model), str(row.method_b), str(row.b))
        if a is None or b is None or not _still_done(summary, (a, b), str(row.bench)):
            continue
        margin = 0.0 if math.isnan(row.margin) else row.margin
        pairs.found[a, b, str(row.bench)] = Pair(
            row.n, row.delta, row.ci_low, row.ci_high, margin, row.p_value,
            row.p_adjusted if row.comparable == 1 else NAN, row.comparable == 1, str(row.verdict),
        )  # fmt: skip
    return pairs


def _still_done(summary: Summary, who: tuple[Series, Series], bench: str) -> bool:
    benches = summary.answered if bench == AVERAGE else [bench]
    return all(summary.cell(one, name).status == "done" for one in who for name in benches)
