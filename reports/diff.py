"""Two runs cell by cell: the same method, parameters and bench under two sets of conditions.

Differences are B minus A. They are paired on the documents that both runs answered, where both
kept their samples; the p-values are corrected over all compared cells (Holm). Other methods and
parameters are compared in `reports.versus`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.common.jsonfile import parse_json
from harness.common.protocol import LMMS_EVAL
from reports.cell import ALPHA, NAN
from reports.errors import ReportError
from reports.rundata import Run, load_run
from reports.versus import (
    Key,
    Versus,
    compare_rows,
    fingerprint,
    headline,
    is_mean,
    pairs_of,
    samples_of,
    unlike,
)

CONDITIONS = (
    ("Model", "model_id"), ("Revision", "revision"), ("Protocol", "protocol"),
    ("Data", "settings.data"),
    ("Device", "device_name"), ("Precision", "dtype"), ("Attention", "attn"),
    ("Batch size", "settings.batch_size"), ("Limit", "settings.limit"), ("Seed", "seed"),
    ("Margin", "margin"), ("Code", "git_commit"), ("Engine", "engine_hash"),
    ("Processor", "processor_hash"), ("Platform", "platform"),
)  # fmt: skip
DEFAULTS = {"margin": 1.0, "protocol": str(LMMS_EVAL)}  # of runs from before they were recorded
GROUPS = {
    "versions.": "Version of ", "weight_hashes.": "Weights ", "model_files.": "Model file ",
    "checkpoints.": "Checkpoint ",
}  # fmt: skip
Condition = tuple[str, str, str]


@dataclass(frozen=True)
class Row:
    """One cell of both runs; NaN where nothing can be said, with the reason in `remark`."""

    label: str
    bench: str
    metric: str = ""
    a: float = NAN
    b: float = NAN
    n_a: float = NAN
    n_b: float = NAN
    shared: int = 0
    delta: float = NAN
    low: float = NAN
    high: float = NAN
    p_value: float = NAN
    p_adjusted: float = NAN
    cost_ratio: float = NAN
    remark: str = ""

    @property
    def significant(self) -> bool:
        return self.p_adjusted < ALPHA


@dataclass
class Diff:
    """The comparison of run ``a`` with run ``b``."""

    a: Path
    b: Path
    conditions: list[Condition]
    """Of compared cells, where they differ."""
    rows: list[Row]
    versus: list[Versus] = field(default_factory=list)
    aside: list[Condition] = field(default_factory=list)
    """Conditions of cells that are not compared as the same."""
    mini: bool = False
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    protocols: tuple[str, str] = ("", "")
    """How A and B were asked, where that differs."""


def compare(a: Path, b: Path, against: Sequence[str] = ()) -> Diff:
    """Compare two run directories; ``against`` names rows that the other run is compared with.

    Raises:
        ReportError: one is no run on benchmarks, both are the same, or nothing compares.
    """
    if a.resolve() == b.resolve():
        raise ReportError(f"{a} and {b} are the same directory: nothing to compare.")
    runs = [_load(path) for path in (a, b)]
    by_model = any(run.cells["model"].nunique() > 1 for run in runs)
    cells = [_done(run, by_model) for run in runs]
    both = [key for key in cells[0] if key in cells[1]]
    apart: list[str] = []
    asked = protocols(runs)
    if any(asked) and against:
        raise ReportError(
            f"{a} was asked by the protocol {asked[0]}, {b} by {asked[1]}: rows of one have no "
            "meaning against other rows of the other; without --against equal cells are compared."
        )
    pairs = pairs_of(cells, against) if not any(asked) else []
    versus = compare_rows(runs, pairs, apart)
    if not both and not versus:
        why = f": {apart[0]}" if apart else " (same bench and documents)"
        raise ReportError(f"{a} and {b} have no finished cell in common{why}.")
    rows = _corrected([_row(runs, cells[0][key], cells[1][key]) for key in both])
    compared = {(name, row.bench) for row in versus for name in (row.one, row.other)}
    ways = (("A", cells[0], cells[1]), ("B", cells[1], cells[0]))
    only = [[_name(cell) for key, cell in mine.items() if key not in other
             and (f"{cell.label} ({letter})", cell.bench) not in compared]
            for letter, mine, other in ways]  # fmt: skip
    notices = [f"{name}: {said}" for name, run in zip("AB", runs, strict=True)
               for said in dict.fromkeys(run.notices)]  # fmt: skip
    notices += [f"{said}." for said in apart] + list(_failed(runs))
    if any(asked) and all(only):
        notices.append("rows that only one run has are not compared: the runs were asked by other "
                       "protocols.")  # fmt: skip
    methods = {str(cells[0][key].method) for key in both}
    found, aside = conditions(runs[0], runs[1], methods)
    data = {key[-1]: (fingerprint(cells[0][key]), fingerprint(cells[1][key])) for key in both}
    found += [(f"Data of {bench}", one, other) for bench, (one, other) in data.items()
              if one != other]  # fmt: skip
    mini = any(cell.data == "mini" for mine in cells for cell in mine.values())
    return Diff(a, b, found, rows, versus, aside, mini, only[0], only[1], notices, asked)


def protocols(runs: Sequence[Run]) -> tuple[str, str]:
    """How the two runs were asked; two empty texts where they were asked alike."""
    one, other = (str(run.meta.get("protocol", DEFAULTS["protocol"])) for run in runs)
    return (one, other) if one != other else ("", "")


def _load(path: Path) -> Run:
    run = load_run(path)
    for setting, what in (("throughput", "measured times only"), ("costs_only", "counted only")):
        if run.meta.get(f"settings.{setting}") is True:
            raise ReportError(f"{path} {what}: it has no answers to compare.")
    if run.is_study:
        raise ReportError(f"{path} is a study of trained arms: its runs do not compare by cell.")
    return run


def _done(run: Run, by_model: bool) -> dict[Key, Any]:
    done = run.cells[run.cells["status"] == "done"]
    return {_key(row, by_model): row for row in done.itertuples()}


def _key(row: Any, by_model: bool) -> Key:
    try:  # the same parameters in another order are the same
        params = json.dumps(parse_json(row.params or "{}"), sort_keys=True)
    except ValueError:
        params = str(row.params)
    return (*((row.model,) if by_model else ()), row.method, params, row.bench)


def _name(row: Any) -> str:
    return f"{row.label} on {row.bench}"


def _failed(runs: list[Run]) -> Iterator[str]:
    for name, run in zip("AB", runs, strict=True):
        failed = run.cells[run.cells["status"] == "failed"]
        if len(failed):
            shown = ", ".join(_name(row) for row in failed.itertuples())
            yield f"{name}: failed, not compared: {shown}."


def conditions(a: Run, b: Run, methods: set[str]) -> tuple[list[Condition], list[Condition]]:
    """What is recorded of the runs and differs, in the order of its weight.

    Apart from it what belongs to other methods than ``methods``, of which nothing is compared.
    """
    pairs = [(title, key) for title, key in CONDITIONS]
    for prefix, title in GROUPS.items():
        keys = dict.fromkeys(k for run in (a, b) for k in run.meta if k.startswith(prefix))
        pairs += [(title + key.removeprefix(prefix), key) for key in keys]
    found: tuple[list[Condition], list[Condition]] = ([], [])
    for title, key in pairs:
        one, other = (run.meta.get(key, DEFAULTS.get(key)) for run in (a, b))
        if one != other:
            owner = key.split(".")[1] if key.startswith("checkpoints.") else None
            aside = owner is not None and owner not in methods
            found[aside].append((title, _shown(one), _shown(other)))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 48 else text[:47] + "…"


def _row(runs: list[Run], a: Any, b: Any) -> Row:
    """One compared cell; what stands in the way is said in its remark."""
    row = Row(str(a.label), str(a.bench), cost_ratio=_cost_ratio(runs, a, b))
    if a.data != b.data:
        return replace(row, remark=f"other data: {a.data or '?'} and {b.data or '?'}")
    main = [headline(run, cell.cell_id) for run, cell in zip(runs, (a, b), strict=True)]
    if main[0] is None or main[1] is None:
        return replace(row, remark=f"no score in {'A' if main[0] is None else 'B'}")
    one, other = main
    row = replace(row, metric=str(one.metric), a=one.value, b=other.value, n_a=one.n, n_b=other.n)
    if (one.task, one.metric) != (other.task, other.metric):
        reason = f"other metric: {one.task} {one.metric} and {other.task} {other.metric}"
        return replace(row, a=NAN, b=NAN, remark=reason)
    if one.judge != other.judge:
        reason = f"other judge: {one.judge or 'none'} and {other.judge or 'none'}"
        return replace(row, a=NAN, b=NAN, remark=reason)
    return _paired(runs, row, str(a.cell_id), str(b.cell_id))


def _paired(runs: list[Run], row: Row, a: str, b: str) -> Row:
    """Interval and p-value on the shared documents; the plain difference where there are none."""
    plain = replace(row, delta=row.b - row.a)
    ours, theirs = (samples_of(run, cell) for run, cell in zip(runs, (a, b), strict=True))
    missing = [name for name, frame in (("A", ours), ("B", theirs)) if not len(frame)]
    if missing:
        return replace(plain, remark=f"no samples in {' and '.join(missing)}: not paired")
    joint, reason = unlike(ours, theirs)
    if reason:
        return replace(row, shared=len(joint), remark=reason)
    if not (is_mean(row.a, ours) and is_mean(row.b, theirs)):
        reason = "the metric is no mean over documents: no interval"
        return replace(plain, shared=len(joint), remark=reason)
    from harness.statistics import stats

    found = stats.paired(joint["score_b"], joint["score_a"], list(joint["image_id_a"]))
    assert found is not None  # there are shared documents
    remark = "" if len(joint) == len(ours) == len(theirs) else "difference on shared documents"
    low, high = (NAN if v is None else v for v in (found.delta.low, found.delta.high))
    return replace(row, shared=len(joint), delta=found.delta.value, low=low, high=high,
                   p_value=found.p_value, remark=remark)  # fmt: skip


def _cost_ratio(runs: list[Run], a: Any, b: Any) -> float:
    """Prefill of B over A's, under a counter and convention that both have."""
    found = []
    for run, cell in zip(runs, (a, b), strict=True):
        rows = run.cost[
            (run.cost["cell_id"] == cell.cell_id) & (run.cost["scope"] == "llm_prefill")
        ]
        found.append({(r.counter, r.convention): r.tflops_mean for r in rows.itertuples()})
    for rule in sorted(found[0], key=lambda rule: rule[1] != "causal"):
        if found[1].get(rule, NAN) > 0 and found[0][rule] > 0:
            return float(found[1][rule] / found[0][rule])
    return NAN


def _corrected(rows: list[Row]) -> list[Row]:
    from harness.statistics import stats

    tested = [row for row in rows if not math.isnan(row.p_value)]
    adjusted = dict(zip(map(id, tested), stats.holm([r.p_value for r in tested]), strict=True))
    return [replace(row, p_adjusted=adjusted.get(id(row), NAN)) for row in rows]
