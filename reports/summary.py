"""The run as a grid of methods and benches: what each cell shows, and what is missing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from harness.families.catalog import MINIS
from methods import CONTROLS, REFERENCE
from reports.cell import NAN, Cell, Cost, Score, Series
from reports.rundata import Run


@dataclass
class Summary:
    """Everything the tables and figures show, in the order in which they show it."""

    run: Run
    series: list[Series]
    benches: list[str]
    cells: dict[tuple[Series, str], Cell]
    metric: dict[str, tuple[str, str]]
    """The (task, metric) that stands for a bench: the headline, else the one most cells have."""
    counting: tuple[str, str]
    """The (counter, convention) of the cost shown in the overview."""

    def cell(self, series: Series, bench: str) -> Cell:
        return self.cells.get((series, bench), Cell())

    def score(self, series: Series, bench: str) -> Score | None:
        """The bench's main score of a cell, or None."""
        wanted = self.metric.get(bench)
        for score in self.cell(series, bench).scores:
            if (score.task, score.metric) == wanted and not math.isnan(score.value):
                return score
        return None

    def positions(self, series: Series) -> str:
        """How a method's rows number the tokens they keep, "" where none says."""
        found = (score.positions for b in self.benches for score in self.cell(series, b).scores)
        return next(filter(None, found), "")

    def prefill(self, series: Series, bench: str) -> Cost | None:
        """The prefill cost of a cell under the overview's counter and convention, or None."""
        return self.cost(series, bench, "llm_prefill", *self.counting)

    def cost(
        self, series: Series, bench: str, scope: str, counter: str, convention: str
    ) -> Cost | None:
        for cost in self.cell(series, bench).costs:
            if (cost.scope, cost.counter, cost.convention) == (scope, counter, convention):
                return cost
        return None

    def ratio(self, series: Series, bench: str, name: str) -> float:
        """A KV or skip ratio: of the prefill line if it has one, else of any line that has."""
        first = self.prefill(series, bench)
        for cost in ([first] if first else []) + self.cell(series, bench).costs:
            value = float(getattr(cost, name))
            if not math.isnan(value):
                return value
        return NAN

    def reference(self, series: Series, bench: str, method: str) -> Score | None:
        """The score of ``dense`` or ``blind`` on the same model and bench, or None."""
        for other in self.series:
            if other.model == series.model and other.method == method:
                score = self.score(other, bench)
                if score is not None:
                    return score
        return None

    def judges(self, bench: str) -> list[str]:
        """The language models that scored a bench, each once; as a rule none or one."""
        scores = (score for series in self.series for score in self.cell(series, bench).scores)
        return list(dict.fromkeys(score.judge for score in scores if score.judge))

    def is_mini_bench(self, bench: str) -> bool:
        """Whether numbers on this bench come from the shipped mini data."""
        return any(
            cell.data.startswith("mini") for (_, name), cell in self.cells.items() if name == bench
        )

    @property
    def answered(self) -> list[str]:
        """The benches of which some row is done and scored: averages are over these."""
        done = {
            bench
            for (_, bench), cell in self.cells.items()
            if cell.status == "done" and not cell.waits
        }
        return [bench for bench in self.benches if bench in done]

    @property
    def is_mini_model(self) -> bool:
        """Whether the run says so, or the model carries the name of one trained here."""
        return self.run.get("mini") is True or any(s.model in MINIS for s in self.series)

    def count(self, status: str) -> int:
        return sum(self.cell(s, b).status == status for s in self.series for b in self.benches)


def timed_part(summary: Summary) -> Summary | None:
    """The grid of methods and workloads: of a run that timed only, or beside its benchmarks."""
    run = summary.run
    return summary if run.is_timing else None if run.timed is None else summarise(run.timed)


def summarise(run: Run) -> Summary:
    """Join the CSV files of a run into one grid."""
    frames = [run.cells, run.accuracy, run.cost]
    names = pd.concat([f[["model", "label", "method", "bench"]] for f in frames])
    models = [m for m in names["model"].unique() if m]
    series = list(dict.fromkeys(_series(r, models) for r in names.itertuples()))
    benches = [str(b) for b in names["bench"].unique()]
    cells: dict[tuple[Series, str], Cell] = {}
    for row in run.cells.itertuples():
        cell = cells.setdefault((_series(row, models), str(row.bench)), Cell())
        cell.status, cell.cell_id, cell.data = str(row.status), str(row.cell_id), str(row.data)
        cell.error, cell.n, cell.seconds = str(row.error), float(row.n), float(row.seconds)
    for row in run.accuracy.itertuples():
        cell = cells.setdefault((_series(row, models), str(row.bench)), Cell())
        if row.not_scored:
            cell.not_scored = str(row.not_scored)
        else:
            cell.scores.append(_score(row))
    for row in run.cost.itertuples():
        cells.setdefault((_series(row, models), str(row.bench)), Cell()).costs.append(_cost(row))
    _drop_unfinished(run, cells)
    _add_planned(run, series, benches, models)
    rows = Counter(s.method for s in series)
    series = [replace(s, short=s.method if rows[s.method] == 1 else s.label) for s in series]
    series.sort(key=_rank)
    metric = {b: _main_metric(cells, b) for b in benches}
    return Summary(run, series, benches, cells, metric, _main_counting(run, cells))


def _series(row: Any, models: list[str]) -> Series:
    model = str(row.model) or (models[0] if len(models) == 1 else "")
    label = f"{row.label} ({model})" if len(models) > 1 else str(row.label)
    return Series(model, label, str(row.method))


def _rank(series: Series) -> tuple[int, int]:
    """Dense first, then methods in the order of the run, then controls (the sort is stable)."""
    if series.is_reference:
        return 0, 0
    return (2, CONTROLS.index(series.method)) if series.is_control else (1, 0)


def _score(row: Any) -> Score:
    return Score(
        str(row.task), str(row.metric), row.value, row.n, row.ci_low, row.ci_high,
        row.delta, row.delta_ci_low, row.delta_ci_high, row.p_adjusted, str(row.verdict),
        row.headline == 1, row.n_paired, row.right_to_wrong, row.wrong_to_right, row.detectable,
        row.margin, row.skill, row.skill_ci_low, row.skill_ci_high,
        str(row.positions), row.budget_asked, row.budget_met, str(row.budget_unit),
        row.budget_within, row.same_answers, row.smallest_n, str(row.judge),
        str(row.judge_temperature),
    )  # fmt: skip


def _cost(row: Any) -> Cost:
    return Cost(
        str(row.scope), str(row.unit) or "FLOP", str(row.counter), str(row.convention),
        row.tflops_mean, row.tflops_ci_low, row.tflops_ci_high,
        row.kv_ratio_vision, row.kv_ratio_all, row.kv_mib,
        row.skip_mod_layers, row.skip_all_layers, row.kv_mib_end, row.kv_batch,
    )  # fmt: skip


def _drop_unfinished(run: Run, cells: dict[tuple[Series, str], Cell]) -> None:
    """Numbers of a cell that failed or never finished are not shown as results."""
    orphans = 0
    for cell in cells.values():
        if cell.status == "failed":
            cell.scores, cell.costs = [], []
        elif cell.status == "missing" and cell.scores:
            cell.scores = []
            orphans += 1
        if cell.status == "missing" and cell.costs:
            cell.status = "costs"
    if orphans:
        run.notices.append(
            f"accuracy.csv: {orphans} cell(s) that cells.csv does not list as done, left out."
        )
    for (series, bench), cell in cells.items():
        empty = not cell.scores and not cell.not_scored
        if cell.status == "done" and empty and not run.is_timing:
            run.notices.append(f"accuracy.csv: nothing for {series.label} on {bench} (done).")


def _add_planned(run: Run, series: list[Series], benches: list[str], models: list[str]) -> None:
    """Add the methods and benches that ``run.json`` names and no CSV has yet."""
    planned_on = run.get("settings.workload" if run.is_timing else "settings.bench", "bench")
    for bench in planned_on or []:
        if str(bench) not in benches:
            benches.append(str(bench))
    planned = [str(spec) for spec in run.get("settings.methods", "methods") or []]
    for name in dict.fromkeys(spec.partition(":")[0] for spec in [REFERENCE, *planned]):
        specs = [s for s in planned if s.partition(":")[0] == name] or [name]
        known = [s.label for s in series if s.method == name]
        absent = [label for label in (s.replace(":", " ") for s in specs) if label not in known]
        # A label leaves out parameters at their defaults, so compare the number as well.
        for label in absent[: max(0, len(specs) - len(known))]:
            series.append(Series(models[0] if models else "", label, name))


def _main_metric(cells: dict[tuple[Series, str], Cell], bench: str) -> tuple[str, str]:
    counts: dict[tuple[str, str], int] = {}
    for (_, name), cell in cells.items():
        for score in cell.scores if name == bench else []:
            key = (score.task, score.metric)
            # A metric that the run calls its headline comes before any number of others.
            counts[key] = counts.get(key, 0) + (1000 if score.headline else 1)
    return max(counts, key=counts.__getitem__) if counts else ("", "")


def _main_counting(run: Run, cells: dict[tuple[Series, str], Cell]) -> tuple[str, str]:
    counts: dict[tuple[str, str], int] = {}
    units = set()
    for cell in cells.values():
        for cost in cell.costs:
            if cost.scope == "llm_prefill" and not math.isnan(cost.tflops):
                key = cost.counter, cost.convention
                counts[key] = counts.get(key, 0) + 1
                units.add(cost.unit)
    if len(units) > 1:
        run.notices.append(f"cost.csv: mixed units {', '.join(sorted(units))}; compare with care.")
    return max(counts, key=counts.__getitem__) if counts else ("", "")
