"""Two runs method against method: rows that only A has against rows that only B has.

What stands in both runs is compared within each (``comparisons.csv``); here is what neither run can
say alone. ``--against`` names reference rows of B, or of A where only A has them, and everything of
the other run is compared with those. Differences, tests and verdicts are those of
``comparisons.csv``: paired on the documents of both, images drawn whole, Holm over the pairs that
keep as much of the image's KV cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from harness.common.errors import UsageError
from harness.common.jsonfile import parse_json
from harness.statistics.budgets import comparable
from harness.store import tables
from harness.store.against import meant
from minidata.identity import current
from reports.cell import NAN
from reports.csvio import Spec, read_table
from reports.errors import ReportError
from reports.rundata import Run

SAMPLES = ("doc_id", "target", "image_id", "cluster")
Key = tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """A row of one run: its name, the run's letter, and its finished cells by bench."""

    run: str
    label: str
    method: str
    cells: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.label} ({self.run})"


@dataclass(frozen=True)
class Versus:
    """``one`` minus ``other`` on one bench, in the metric's unit; NaN where `remark` says why."""

    one: str
    other: str
    bench: str
    metric: str = ""
    n: int = 0
    delta: float = NAN
    low: float = NAN
    high: float = NAN
    p_value: float = NAN
    p_adjusted: float = NAN
    kv: float = NAN
    kv_other: float = NAN
    margin: float = NAN
    comparable: bool = False
    higher_is_better: bool = True
    unit: float = 100.0  # of what is shown: points for shares
    verdict: str = ""
    remark: str = ""

    @property
    def settled(self) -> bool:
        return self.verdict in ("better", "worse")


def pairs_of(cells: Sequence[Mapping[Key, Any]], against: Sequence[str]) -> list[tuple[Side, Side]]:
    """Which rows are compared, the second being subtracted. Raises ReportError for a name."""
    rows = [_rows(letter, one) for letter, one in zip("AB", cells, strict=True)]
    if not against:
        only = [[key for key in mine if key not in rest] for mine, rest in (rows, rows[::-1])]
        return [(rows[0][x], rows[1][y]) for x in only[0] for y in only[1]]
    found = []
    for name in against:
        at, keys = _named(name, rows)
        others = rows[1 - at]
        found += [(others[x], rows[at][key]) for key in keys for x in others if x != key]
    return list({(str(one), str(other)): (one, other) for one, other in found}.values())


def _rows(letter: str, cells: Mapping[Key, Any]) -> dict[Key, Side]:
    """The rows of a run by model (where there are several), method and parameters."""
    by: dict[Key, dict[str, Any]] = {}
    for key, cell in cells.items():
        by.setdefault(key[:-1], {})[key[-1]] = cell
    found = {}
    for row, benches in by.items():
        first = next(iter(benches.values()))
        found[row] = Side(letter, str(first.label), str(first.method), benches)
    return found


def _named(name: str, rows: Sequence[Mapping[Key, Side]]) -> tuple[int, list[Key]]:
    """Whose rows a name means, B's before A's, and which of them."""
    refused: UsageError | None = None
    for at in (1, 0):
        about = [
            {"label": side.label, "method": side.method, "params": _params(side)}
            for side in rows[at].values()
        ]
        try:
            labels = meant([name], about)
        except UsageError as error:
            refused = refused or error
        else:
            return at, [key for key, side in rows[at].items() if side.label in labels]
    raise ReportError(str(refused).replace("the rows are", "the rows of B are"))


def _params(side: Side) -> str:
    return str(next(iter(side.cells.values())).params)


def compare_rows(
    runs: Sequence[Run], pairs: Sequence[tuple[Side, Side]], notices: list[str]
) -> list[Versus]:
    """Every pair on every bench that both answered, corrected. Adds to ``notices`` what is not."""
    by = dict(zip("AB", runs, strict=True))
    apart = dict(_other_data(pairs))
    notices += apart.values()
    known: dict[tuple[str, str], Answers] = {}

    def answers(side: Side, bench: str) -> Answers:
        cell = str(side.cells[bench].cell_id)
        if (side.run, cell) not in known:
            known[side.run, cell] = Answers.of(by[side.run], cell)
        return known[side.run, cell]

    margin, seed = (_agreed(runs, name, usual) for name, usual in (("margin", 1.0), ("seed", 0)))
    found = [
        _pair(str(one), str(other), bench, (answers(one, bench), answers(other, bench)),
              (one.method, other.method), float(margin), int(seed))
        for one, other in pairs
        for bench in one.cells
        if bench in other.cells and bench not in apart
    ]  # fmt: skip
    return _judged(found)


def _agreed(runs: Sequence[Run], name: str, usual: float) -> float:
    """A setting of the statistics as both runs have it; the usual one where they do not agree."""
    values = {run.meta.get(name, usual) for run in runs}
    value = values.pop() if len(values) == 1 else usual
    return value if isinstance(value, (int, float)) else usual


def _other_data(pairs: Iterable[tuple[Side, Side]]) -> Iterator[tuple[str, str]]:
    """Benches whose documents are not the same in both runs, with the line that says so."""
    for one, other in pairs:
        for bench in one.cells:
            if bench not in other.cells:
                continue
            a, b = (fingerprint(side.cells[bench])
                    for side in sorted((one, other), key=lambda side: side.run))  # fmt: skip
            if a != b:
                yield bench, f"{bench} is not compared, its data are not the same: {a} and {b}"


def fingerprint(cell: Any) -> str:
    """What the run noted of a cell's data; of a mini file that has grown since, what it is now."""
    source = str(cell.data_source)
    if cell.data == "mini":
        source = current(str(cell.bench), source)
    return " ".join(part for part in (str(cell.data), source) if part) or "not known"


@dataclass(frozen=True)
class Answers:
    """One cell: its samples, headline, KV share and direction; `why` says what is missing."""

    samples: pd.DataFrame
    task: str
    metric: str
    value: float
    kv: float
    higher_is_better: bool
    judge: str = ""

    @classmethod
    def of(cls, run: Run, cell: str) -> Answers:
        main = headline(run, cell)
        cost = run.cost[(run.cost["cell_id"] == cell) & run.cost["kv_ratio_vision"].notna()]
        kv = float(cost["kv_ratio_vision"].iloc[0]) if len(cost) else NAN
        task, metric, value = (main.task, main.metric, main.value) if main else ("", "", NAN)
        return cls(samples_of(run, cell), str(task), str(metric), float(value), kv,
                   _more_is_better(run, cell), str(main.judge) if main else "")  # fmt: skip


def headline(run: Run, cell_id: str) -> Any:
    """The row of accuracy.csv that stands for a cell, None without one."""
    rows = run.accuracy[(run.accuracy["cell_id"] == cell_id) & run.accuracy["value"].notna()]
    marked = rows[rows["headline"] == 1]
    return next((marked if len(marked) else rows).itertuples(), None)


def samples_of(run: Run, cell_id: str) -> pd.DataFrame:
    """The scored samples of a cell, `image_id` what they are clustered by; empty where none are."""
    name = f"samples/{cell_id}.csv"
    spec = Spec(name, SAMPLES, ("score",), ("doc_id",), ("doc_id", "score"))
    frame = read_table(run.path / name, spec, run.notices)
    drawn = frame["cluster"].where(frame["cluster"] != "", frame["image_id"])
    return frame.assign(image_id=drawn)[frame["score"].notna()][[*SAMPLES, "score"]]


def _more_is_better(run: Run, cell: str) -> bool:
    try:
        content = tables.content(run.path / "samples" / f"{cell}.metrics.json")
        return not any(
            m.get("headline") and m.get("higher_is_better") is False
            for m in parse_json(content or b"[]")
        )
    except (tables.Unreadable, ValueError, AttributeError, TypeError):
        return True


def unlike(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The documents of both, and what stands against pairing them ('' where nothing does)."""
    joint = ours.merge(theirs, on="doc_id", suffixes=("_a", "_b"))
    if not len(joint):
        return joint, "no document in common"
    other = int((joint["target_a"] != joint["target_b"]).sum())
    if other:
        return joint, f"{other} of {len(joint)} documents have another answer key: other data"
    return joint, ""


def _pair(
    one: str,
    other: str,
    bench: str,
    both: tuple[Answers, Answers],
    methods: tuple[str, str],
    points: float,
    seed: int,
) -> Versus:
    a, b = both
    kv = [None if math.isnan(x.kv) else x.kv for x in both]
    row = Versus(one, other, bench, a.metric, kv=a.kv, kv_other=b.kv)
    row = replace(row, comparable=comparable(*methods, *kv), higher_is_better=a.higher_is_better)
    missing = [name for name, x in ((one, a), (other, b)) if not len(x.samples)]
    if missing:
        return replace(row, remark=f"no samples of {' and '.join(missing)}")
    if (a.task, a.metric) != (b.task, b.metric):
        return replace(row, remark=f"other metric: {a.task} {a.metric} and {b.task} {b.metric}")
    if a.judge != b.judge:
        return replace(row, remark=f"other judge: {a.judge or 'none'} and {b.judge or 'none'}")
    joint, reason = unlike(a.samples, b.samples)
    if not reason and any(not is_mean(x.value, x.samples) for x in both):
        reason = "the metric is no mean over documents: not paired"
    if reason:
        return replace(row, n=len(joint), remark=reason)
    from harness.statistics import stats

    found = stats.paired(joint["score_a"], joint["score_b"], list(joint["image_id_a"]), seed)
    assert found is not None  # there are shared documents
    low, high = (NAN if v is None else v for v in (found.delta.low, found.delta.high))
    scores = [*joint["score_a"], *joint["score_b"]]
    return replace(row, n=found.n, delta=found.delta.value, low=low, high=high,
                   p_value=found.p_value, margin=stats.margin_for(scores, points),
                   unit=100.0 if max(map(abs, scores)) <= 1 else 1.0)  # fmt: skip


def is_mean(value: float, samples: pd.DataFrame) -> bool:
    """Whether a metric is the mean of its samples' scores."""
    return bool(abs(value - samples["score"].mean()) <= 1e-6 * max(1.0, abs(value)))


def _judged(rows: list[Versus]) -> list[Versus]:
    """Holm's p-values and verdicts over the comparable pairs and benches of the table."""
    from harness.statistics import stats

    family = [row for row in rows if row.comparable and not math.isnan(row.p_value)]
    adjusted = dict(zip(map(id, family), stats.holm([r.p_value for r in family]), strict=True))
    found = []
    for row in rows:
        if id(row) in adjusted:
            low = None if math.isnan(row.low) else row.low
            high = None if math.isnan(row.high) else row.high
            delta = stats.Interval(row.delta, low, high)
            gain = delta if row.higher_is_better else -delta
            told = stats.verdict(gain, adjusted[id(row)], row.margin)
            row = replace(row, p_adjusted=adjusted[id(row)], verdict=told)
        found.append(row)
    return found
