"""How long a run still takes, from what has been measured so far."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Part:
    """One piece of a run's work, a cell say: so many units (documents, rounds) to be done.

    ``row`` and ``column``: what it shares with others of its kind, as method and bench.
    ``done``: units that are done, whoever did them; ``measured`` of them took ``seconds``.
    """

    kind: str
    row: str
    column: str
    units: int | None = None
    done: int = 0
    measured: int = 0
    seconds: float = 0.0
    finished: bool = False
    overhead: float | None = None
    """Seconds beside its units, before the first and after the last; None: not begun."""

    @property
    def rate(self) -> float | None:
        """Seconds a unit, where it was measured."""
        return self.seconds / self.measured if self.measured else None


@dataclass
class Forecast:
    """All of a run's work.

    A part that has not begun takes what its row took elsewhere, scaled by what its column took of
    others: exact where seconds are a product of both. A row that nothing is known of takes the
    mean of its column, else of its kind. Nothing is guessed for a kind of which nothing was
    measured: it is named instead (`unknown`). ``workers`` processes do it side by side.
    """

    parts: list[Part] = field(default_factory=list)
    workers: int = 1

    def part(self, kind: str, row: str = "", column: str = "", units: int | None = None) -> Part:
        """The part of that name, planned now where it was not."""
        names = kind, row, column
        found = next((p for p in self.parts if (p.kind, p.row, p.column) == names), None)
        if found is None:
            found = Part(kind, row, column, units)
            self.parts.append(found)
        return found

    def rate(self, part: Part) -> float | None:
        """Seconds a unit; None where nothing of its kind was measured."""
        if part.rate is not None:
            return part.rate
        known = [p for p in self.parts if p.kind == part.kind and p.rate is not None]
        scaled = [
            one.rate * self._ratio(known, part.column, one.column)
            for one in known
            if one.row == part.row and one.rate is not None
        ]
        column = [p for p in known if p.column == part.column]
        return statistics.fmean(scaled) if scaled else _mean(column) or _mean(known)

    def _ratio(self, known: list[Part], column: str, other: str) -> float:
        """What a column takes of another, over the rows that both have measured; 1 without any."""
        here = {p.row: p.rate for p in known if p.column == column and p.rate is not None}
        there = {p.row: p.rate for p in known if p.column == other and p.rate is not None}
        both = here.keys() & there.keys()
        below = sum(there[row] for row in both)
        return sum(here[row] for row in both) / below if below else 1.0

    def units(self, part: Part) -> int | None:
        """Its own number, else that of its column, else the mean of its kind."""
        if part.units is not None:
            return part.units
        kin = [p for p in self.parts if p.kind == part.kind and p.units is not None]
        found = [p.units for p in kin if p.column == part.column] or [p.units for p in kin]
        return round(statistics.fmean(n for n in found if n is not None)) if found else None

    def seconds_left(self, part: Part) -> float | None:
        """None where it cannot be known."""
        if part.finished:
            return 0.0
        rate, units = self.rate(part), self.units(part)
        if rate is None or units is None:
            return None
        beside = self._overhead(part.kind) if part.overhead is None else 0.0
        return max(units - part.done, 0) * rate + beside

    def _overhead(self, kind: str) -> float:
        """The mean of the kind's parts that have begun."""
        found = [p.overhead for p in self.parts if p.kind == kind and p.overhead is not None]
        return statistics.fmean(found) if found else 0.0

    @property
    def left(self) -> float | None:
        """Seconds of all that can be told; None where nothing can."""
        found = [s for p in self.parts if (s := self.seconds_left(p)) is not None]
        return sum(found) / self.workers if found else None

    @property
    def unknown(self) -> list[str]:
        """The kinds of work that `left` leaves out in whole or in part, in the order of work."""
        return [*dict.fromkeys(p.kind for p in self.parts if self.seconds_left(p) is None)]

    @property
    def share(self) -> float | None:
        """Done of the work that can be told, 0 to 1, weighted by seconds; None where none can."""
        done = todo = 0.0
        for part in self.parts:
            left, rate = self.seconds_left(part), self.rate(part)
            if left is None or rate is None:
                continue
            done += part.done * rate
            todo += left
        return done / (done + todo) if done + todo else None


def _mean(parts: list[Part]) -> float | None:
    """Seconds a unit over several parts."""
    units = sum(p.measured for p in parts)
    return sum(p.seconds for p in parts) / units if units else None


def spoken(seconds: float) -> str:
    """A span as one says it: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def time_left(forecast: Forecast) -> str:
    """``about 14 min left, then arank``: what is not known stands as work, not as time.

    Empty before anything was measured.
    """
    left = forecast.left
    if left is None:
        return ""
    said = [f"about {spoken(left)} left"] if left else []
    later = ["then " + ", ".join(forecast.unknown)] if forecast.unknown else []
    return ", ".join(said + later)
