"""One run directory as the report sees it: ``run.json`` and the CSV files, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from methods import PROBE
from reports.csvio import Spec, read_object, read_table, stored
from reports.errors import ReportError
from reports.specs import (
    ACCURACY,
    CELLS,
    COST,
    EVIDENCE,
    LOAD,
    PUBLISHED,
    ROUTING,
    THROUGHPUT,
    WORKLOAD,
)

SCHEMA_VERSION = 1
"""The newest schema of ``run.json`` this code was written for."""


@dataclass
class Run:
    """A run directory. The frames have every column of their ``Spec``; ``meta`` is flat."""

    path: Path
    meta: dict[str, Any]
    cells: pd.DataFrame
    accuracy: pd.DataFrame
    cost: pd.DataFrame
    routing: pd.DataFrame
    throughput: pd.DataFrame
    published: pd.DataFrame
    evidence: pd.DataFrame
    notices: list[str] = field(default_factory=list)
    probes: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Cells that sort documents and are rows of no table (``--slice``)."""
    timed: Run | None = None
    """The times of a run on benchmarks, as a run of their own: no accuracy, the timed cells."""

    @property
    def is_timing(self) -> bool:
        """Whether the run measured times and nothing else."""
        return self.meta.get("settings.throughput") is True

    @property
    def is_study(self) -> bool:
        """Whether the run trained and compared arms; its files tell when ``run.json`` is lost."""
        name = self.get("settings.study")
        return isinstance(name, str) or (
            not self.meta and stored(self.path / "study.csv") is not None
        )

    @property
    def is_ledger(self) -> bool:
        """Whether the run counts costs and answers nothing."""
        return self.meta.get("settings.costs_only") is True

    def get(self, *names: str) -> Any:
        """The first of these ``run.json`` entries that is there and not empty, else None."""
        for name in names:
            value = self.meta.get(name)
            if value not in (None, "", [], {}):
                return value
        return None


def load_run(path: Path) -> Run:
    """Read and check a run directory.

    Raises:
        ReportError: ``path`` is no directory, or holds neither ``run.json`` nor any cell.
    """
    if not path.is_dir():
        raise ReportError(f"{path} is not a directory; give the directory of a run.")
    notices: list[str] = []
    meta = _meta(path / "run.json", notices)
    cells, accuracy, cost, routing, speed, published, evidence = (
        read_table(path / spec.name, spec, notices)
        for spec in (CELLS, ACCURACY, COST, ROUTING, THROUGHPUT, PUBLISHED, EVIDENCE)
    )
    if not meta and not any(stored(path / name) for name in ("cells.csv", "study.csv")):
        raise ReportError(f"{path} holds no run: neither run.json nor cells.csv is there.")
    run = Run(path, meta, cells, accuracy, cost, routing, speed, published, evidence, notices)
    run.cells, run.probes = (
        run.cells[(run.cells["method"] == PROBE) == one].copy() for one in (False, True)
    )
    _set_times_apart(run)
    _leave_former(run)
    needed: tuple[Spec, ...] = (CELLS, ACCURACY, COST, ROUTING)
    if run.is_study:
        needed = ()  # it has files of its own
    if run.is_ledger:
        needed = (COST,)
    if run.is_timing:
        needed = (CELLS, LOAD if run.get("settings.concurrency") else THROUGHPUT)
    if run.timed is not None:
        needed += (THROUGHPUT,)
    for name in (spec.name for spec in needed):
        if stored(path / name) is None:
            notices.append(f"{name} is missing: what it would show is left empty.")
    timed = run.timed.cells if run.timed else run.cells
    for frame in (run.cells, timed, run.accuracy, run.cost, run.throughput):
        unnamed = frame["label"].str.strip() == ""
        frame.loc[unnamed, "label"] = frame.loc[unnamed, "method"]
    _drop_impossible(run)
    _check_mixed(run)
    if run.is_timing:
        _gather_notes(run)
    else:
        _pass_on_notes(run)
    if run.timed is not None:
        _gather_notes(run.timed)
    return run


def _set_times_apart(run: Run) -> None:
    """Move the timed cells of a run on benchmarks to ``timed``: a workload is no bench."""
    works = run.cells["bench"].str.contains(WORKLOAD)
    wanted = run.meta.get("settings.with_throughput") is True
    if run.is_timing or not (wanted or works.any()):
        return
    own = {name.removeprefix("timing."): v for name, v in run.meta.items() if "timing." in name}
    meta = {**run.meta, **own, "settings.throughput": True}
    none = (run.accuracy[:0], run.cost[:0], run.routing[:0])
    cells = run.cells[works].copy()
    run.timed = Run(
        run.path,
        meta,
        cells,
        *none,
        run.throughput,
        run.published,
        run.evidence.iloc[:0],
        run.notices,
    )
    run.cells = run.cells[~works].copy()


def _leave_former(run: Run) -> None:
    """Leave out cells that the run no longer asks for: of data or code as they were before.

    They stay in its files, and nothing is derived of them.
    """
    asked = run.meta.get("cells")
    if isinstance(asked, list) and not run.is_timing:
        run.cells, run.probes = (
            cells[cells["cell_id"].isin(asked) | cells["requested_id"].isin(asked)].copy()
            for cells in (run.cells, run.probes)
        )


def _meta(path: Path, notices: list[str]) -> dict[str, Any]:
    """``run.json`` with nested names joined by dots; empty when it is missing or damaged."""
    try:
        raw = read_object(path)
    except FileNotFoundError:
        notices.append("run.json is missing: the conditions of this run are not known.")
        return {}
    except (OSError, ValueError):
        notices.append("run.json cannot be read: the conditions of this run are not known.")
        return {}
    version = raw.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        notices.append(
            f"run.json has schema version {version}, newer than this report ({SCHEMA_VERSION}): "
            "columns it does not know are not shown."
        )
    _note_share(raw, notices)
    return _flat(raw)


def _note_share(raw: dict[str, Any], notices: list[str]) -> None:
    """A share of a run has not the rows that the others' are compared with."""
    shard = raw.get("shard")
    if isinstance(shard, dict):
        mine, whole = len(raw.get("cells") or ()), len(shard.get("cells") or ())
        notices.append(
            f"This is share {shard.get('of')} of a run: {mine} of its {whole} cells. Differences "
            "to rows of other shares are left empty until they are merged (modsuite merge)."
        )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = item
    return flat


def _drop_impossible(run: Run) -> None:
    """Blank values that cannot be right (a hand-edited file), and say so."""
    acc, cost, routing, evidence = run.accuracy, run.cost, run.routing, run.evidence
    slack = 1e-9
    outside = (acc["value"] < acc["ci_low"] - slack) | (acc["value"] > acc["ci_high"] + slack)
    blank(run, acc, outside, ["ci_low", "ci_high"], "accuracy.csv", "intervals off their value")
    outside = (acc["delta"] < acc["delta_ci_low"] - slack) | (
        acc["delta"] > acc["delta_ci_high"] + slack
    )
    columns = ["delta_ci_low", "delta_ci_high"]
    blank(run, acc, outside, columns, "accuracy.csv", "difference intervals off their value")
    changed = acc["right_to_wrong"] + acc["wrong_to_right"]
    wrong = (changed > acc["n_paired"]) | (acc[["right_to_wrong", "wrong_to_right"]] < 0).any(
        axis=1
    )
    columns = ["n_paired", "right_to_wrong", "wrong_to_right", "detectable"]
    blank(run, acc, wrong, columns, "accuracy.csv", "counts of changed answers that cannot be")
    told, known = acc["budget_within"].notna(), ["budget_asked", "budget_met"]
    wrong = told & (acc[known].isna().any(axis=1) | ~acc["budget_within"].isin([0, 1]))
    columns = [*known, "budget_within"]
    blank(run, acc, wrong, columns, "accuracy.csv", "budgets that cannot be")
    outside = (acc["skill"] < acc["skill_ci_low"] - slack) | (
        acc["skill"] > acc["skill_ci_high"] + slack
    )
    columns = ["skill_ci_low", "skill_ci_high"]
    blank(run, acc, outside, columns, "accuracy.csv", "intervals above blind off their value")
    for name in ("kv_ratio_vision", "kv_ratio_all", "skip_mod_layers", "skip_all_layers"):
        wrong = (cost[name] < -slack) | (cost[name] > 1 + 1e-6)
        blank(run, cost, wrong, [name], "cost.csv", f"values of {name} outside 0 to 1")
    blank(run, cost, cost["tflops_mean"] < 0, ["tflops_mean"], "cost.csv", "negative FLOPs")
    kept = routing["kept_fraction"]
    wrong = (kept < -slack) | (kept > 1 + 1e-6)
    wrong |= (routing["kept"] / routing["tokens"] - kept).abs() > 0.01
    blank(run, routing, wrong, ["kept_fraction"], "routing.csv", "contradictory kept fractions")
    recall = evidence["recall"]
    wrong = (recall < -slack) | (recall > 1 + 1e-6)
    wrong |= (recall < evidence["ci_low"] - slack) | (recall > evidence["ci_high"] + slack)
    columns = ["recall", "ci_low", "ci_high"]
    blank(run, evidence, wrong, columns, "evidence.csv", "values outside 0 to 1 or their interval")


def blank(
    run: Run, frame: pd.DataFrame, wrong: pd.Series, columns: list[str], name: str, what: str
) -> None:
    """Empty ``columns`` where ``wrong``, and say so."""
    count = int(wrong.sum())
    if count:
        frame.loc[wrong, columns] = float("nan")
        run.notices.append(f"{name}: {count} {what}, left out.")


def _pass_on_notes(run: Run) -> None:
    """What the run itself remarked on a cell, as that its batch had to be halved."""
    noted = run.cells[run.cells["notes"].str.strip() != ""]
    for (label, note), rows in noted.groupby(["label", "notes"], sort=False):
        run.notices.append(f"{label} on {', '.join(rows['bench'])}: {note}")


def _gather_notes(run: Run) -> None:
    """Each remark of a timing run once, with the number of cells it stands on."""
    done = run.cells[run.cells["status"] == "done"]
    found: dict[str, list[str]] = {}
    for row in done.itertuples():
        for note in filter(None, str(row.notes).split("; ")):
            found.setdefault(note, []).append(f"{row.label} on {row.bench}")
    for note, where in found.items():
        named = where[0] if len(where) == 1 else f"{len(where)} of {len(done)} cells"
        run.notices.append(f"{named}: {note}.")
    run.notices += [f"{note}." for note in run.get("notes") or []]


def _check_mixed(run: Run) -> None:
    """Numbers measured under different conditions stand side by side: say so."""
    done = run.cells[run.cells["status"] == "done"]
    words = {"device": "device", "dtype": "precision", "attn": "attention"}
    if not run.is_timing:  # workloads of several batch sizes are what it is for
        words |= {"batch_size": "batch size", "protocol": "protocol"}
    for frame, name in ((done, "cells.csv"), (run.throughput, "throughput.csv")):
        for column, word in words.items():
            there = frame[column].dropna() if column in frame else []
            seen = sorted({f"{v:g}" if isinstance(v, float) else str(v) for v in there if v})
            if len(seen) > 1:
                run.notices.append(
                    f"{name}: mixed {word} ({', '.join(seen)}). Differences between such rows are "
                    "not only differences between methods."
                )
    data = sorted({v for v in run.cells["data"] if v})
    if len(data) > 1:
        run.notices.append(f"Mixed data: {', '.join(data)}. Compare rows of one kind only.")
