"""The table a run on benchmarks ends with: its rows best first, with cost and what is settled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.readouts.ending import Ending

if TYPE_CHECKING:  # they bring pandas along
    from reports.cell import Score, Series
    from reports.ranking import Ranked, Ranking
    from reports.summary import Summary

STYLES = {"better": "green", "worse": "red", "not worse": "cyan", "same answers": "cyan"}
OPEN = "yellow"
SMALL = "dim"
VERDICT = "verdict"
REPORT = "--table md and the report have them"
WIDEST = 1000
LONGEST = 24  # columns of a row's parameters, where there is room for them


def ending(run_dir: Path, against: Sequence[str] = ()) -> Ending | None:
    """The rows of a run, best first; None where nothing was scored. Raises ReportError.

    ``against``: rows that the differences are to, in place of those that the run names.
    """
    from reports import controls, hard, opening, ranking, text
    from reports.rundata import load_run
    from reports.summary import summarise

    summary = summarise(load_run(run_dir))
    if not any(cell.scores for cell in summary.cells.values()):
        return None
    found = ranking.load(summary, against, controls.load(summary))
    closing = Closing(summary, found)
    conditions = f"{text.conditions(summary)}; {text.sample_count(summary)}; 95 % intervals."
    notes = [*opening.sentences(summary, found), *hard.sentences(summary)]
    return Ending(closing.table, f"{closing.average_of()}{conditions}", notes)


@dataclass(frozen=True)
class Closing:
    """The table of one run."""

    summary: Summary
    ranking: Ranking

    @property
    def only(self) -> str:
        """The bench of a run that has one; its score stands where the average would."""
        return self.summary.benches[0] if len(self.summary.benches) == 1 else ""

    @property
    def averaged(self) -> bool:
        """Whether some row has an average that says more than its only bench would."""
        return any(row.complete for row in self.ranking.rows) and (self.compared or not self.only)

    @property
    def compared(self) -> bool:
        """Whether some row has a difference to its reference."""
        return any(not math.isnan(row.delta) for row in self.ranking.rows)

    def average_of(self) -> str:
        """What the average is of, for the caption; nothing without one."""
        from reports import text

        if self.only or not self.averaged:
            return ""
        benches = self.summary.answered
        mini = all(map(self.summary.is_mini_bench, benches))
        return f"Average over {text.listing(benches)}{' (mini)' if mini else ''}; "

    def table(self, width: int | None) -> Table:
        """Benches as far as they fit the width, all without one or where nothing else compares."""
        benches = [] if self.only and self.averaged else list(self.summary.benches)
        wanted = benches if width is None or not self.compared else []
        longest = None if width is None else self._room(width, wanted)
        table = self._made(wanted, longest)
        for count in range(1, len(benches) + 1) if not wanted else ():
            wider = self._made(benches[:count], longest)
            if width is None or _width(wider) > width:
                break
            table, wanted = wider, benches[:count]
        if left := [bench for bench in benches if bench not in wanted]:
            table.caption = Text(f"no room here for {', '.join(left)}: a wider window, {REPORT}")
            table.caption_justify = "left"
        return table

    def _room(self, width: int, benches: Sequence[str]) -> int:
        """Columns for the parameters of a row: what the names and numbers leave of the width."""
        names = max(len(row.series.method) for row in self.ranking.rows)
        spare = width - _width(self._made(benches, names))
        return max(names, min(names + spare, LONGEST))

    def _made(self, benches: Sequence[str], longest: int | None) -> Table:
        """``longest``: columns of the parameters, before they go on below."""
        rows = self.ranking.rows
        columns = [
            ("KV\nkept", [_share(row.kv) for row in rows]),
            ("prefill\nof dense", [_share(row.prefill_of_dense) for row in rows]),
        ]
        if self.averaged:
            title = self._scored(self.only) if self.only else "average, %"
            bounded = any(not math.isnan(row.low) for row in rows)
            title += "\n[95 % CI]" if bounded else ""
            columns.append((title, [self._average(row) for row in rows]))
        if self.compared:
            columns.append((f"Δ to {self._references()}\n[95 % CI]", [*map(self._delta, rows)]))
            columns.append((VERDICT, [self._word(row) for row in rows]))
        for bench in benches:
            scores = [self._score(row.series, bench) for row in rows]
            columns.append((f"{self._scored(bench)}\n(Δ to dense)", scores))
        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("method", max_width=longest, overflow="fold")
        for title, _ in columns:
            side: JustifyMethod = "left" if title == VERDICT else "right"  # it follows its number
            table.add_column(Text(title), justify=side, no_wrap=True)
        shown = [self._name(row.series) for row in rows]
        for cells in zip(shown, *(cells for _, cells in columns), strict=True):
            table.add_row(*cells)
        return table

    # --- cells ------------------------------------------------------------------------------------
    def _name(self, series: Series) -> Text:
        """The method, its parameters below, and what sets it apart where rows number unlike."""
        from reports import numbering
        from reports.ranktable import short

        name, rest = short(series)
        kind = self.summary.positions(series) if numbering.differ(self.summary) else ""
        small = [rest, f"numbered {numbering.WORDS[kind]}" if kind == "compact" else ""]
        below = ", ".join(filter(None, small))
        return Text(name) + Text(f"\n{below}" if below else "", SMALL)

    def _average(self, row: Ranked) -> Text:
        from reports import text

        if not row.complete:
            return Text("failed" if self._failed(row.series) else text.GAP)
        unit, score = 100.0, None
        if self.only:
            unit, score = text.factor(self.summary, self.only), self._scores(row.series)[0]
        known = (row.average, row.low, row.high)
        value, low, high = known if score is None else (score.value, score.low, score.high)
        return Text(f"{text.number(value * unit)} {text.interval(low * unit, high * unit)}".strip())

    def _delta(self, row: Ranked) -> Text:
        from reports import text

        if not self._told(row):
            return Text("reference" if self._named(row.series) else text.GAP, SMALL)
        unit = text.factor(self.summary, self.only) if self.only else 100.0
        ci = text.interval(row.delta_low * unit, row.delta_high * unit, signed=True)
        return Text(f"{text.number(row.delta * unit, signed=True)} {ci}".strip())

    def _word(self, row: Ranked) -> Text:
        """What the test of the average says; a row that missed its budget is not compared."""
        from reports import text
        from reports.ranktable import WORDS

        if not self._told(row) or row.reference is None:
            return Text("")
        scores = [score for score in self._scores(row.series) if score is not None]
        if missed := next(filter(None, map(text.missed_budget, scores)), ""):
            return Text(missed, OPEN)
        if row.reference.is_reference and scores and all(score.is_same for score in scores):
            return _coloured("same answers")
        return _coloured(WORDS.get(row.verdict, row.verdict))

    def _told(self, row: Ranked) -> bool:
        """Whether its difference is to a row that the column names: dense stands by for others."""
        return (
            row.reference is not None and self._named(row.reference) and not math.isnan(row.delta)
        )

    def _named(self, series: Series) -> bool:
        names = {name.replace(":", " ") for name in self.ranking.against}
        return not names.isdisjoint((series.label, series.short, series.method))

    def _score(self, series: Series, bench: str) -> Text:
        """``74.2 (−1.3 worse)``: value, difference to dense and what its test says."""
        from reports import text
        from reports.cell import UNSCORED
        from reports.ranktable import WORDS

        score = self.summary.score(series, bench)
        if score is None:
            cell = self.summary.cell(series, bench)
            if cell.waits:
                return Text(UNSCORED, SMALL)
            return Text("failed" if cell.status == "failed" else text.GAP)
        unit = text.factor(self.summary, bench)
        shown = Text(text.number(score.value * unit))
        if series.is_reference or math.isnan(score.delta):
            return shown
        told = "same answers" if score.is_same else WORDS.get(score.verdict, score.verdict)
        missed = text.missed_budget(score)
        word = Text(missed, OPEN) if missed else _coloured(told)
        delta = text.number(score.delta * unit, signed=True)
        return Text.assemble(shown, f" ({delta}", " " if word else "", word, ")")

    def _scores(self, series: Series) -> list[Score | None]:
        return [self.summary.score(series, bench) for bench in self.summary.benches]

    def _failed(self, series: Series) -> bool:
        return any(self.summary.cell(series, b).status == "failed" for b in self.summary.benches)

    def _scored(self, bench: str) -> str:
        """``gqa, %``; the mini one says so."""
        from reports import text

        mini = " mini" if self.summary.is_mini_bench(bench) else ""
        return f"{bench}{mini}{', %' if text.factor(self.summary, bench) == 100 else ''}"

    def _references(self) -> str:
        return ", ".join(self.ranking.against)


def _share(value: float) -> Text:
    from reports import text

    return Text(text.percent(value))


def _coloured(word: str) -> Text:
    return Text(word, STYLES.get(word, OPEN))


def _width(table: Table) -> int:
    console = Console(width=WIDEST)
    return Measurement.get(console, console.options, table).maximum
