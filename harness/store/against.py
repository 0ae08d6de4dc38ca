"""Which rows of a run `--against` means. Torch-free: parameters are read, not parsed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.options.workload import is_workload
from harness.store.csvfile import write_json
from harness.store.folder import RUN_JSON, read_run_json
from harness.store.tables import read_rows
from methods import PROBE

FLAG = "--against"


def meant(names: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The labels of the rows (method, params, label) that names, labels or specs stand for.

    A name with several rows, as budgets are, stands for all of them. Raises UsageError.
    """
    there = {row["label"]: row for row in rows}
    found: list[str] = []
    for name in names:
        labels = [label for label in there if label in (name, name.replace(":", " "))]
        labels = labels or [label for label, row in there.items() if _fits(name, row)]
        if not labels:
            known = dict.fromkeys([*there, *(row["method"] for row in there.values())])
            text = unknown("row", name, known)
            rest = "" if "choose from" in text else f" (the rows are {', '.join(there)})"
            raise UsageError(f"{FLAG}: {text}{rest}")
        found += labels
    return list(dict.fromkeys(found))


def in_run(names: Sequence[str], path: Path) -> list[str]:
    """`meant` among the rows of a run on benchmarks. Raises UsageError."""
    if not names:
        return []
    rows = read_rows(path / "cells.csv")
    answered = [r for r in rows if not is_workload(r["bench"]) and r["method"] != PROBE]
    if not answered:
        raise UsageError(f"{FLAG}: '{path}' holds no answers to compare: a run on benchmarks does")
    return meant(names, answered)


def keep(path: Path, labels: Sequence[str]) -> None:
    """Note them in run.json, so that the report is drawn with them again; none leaves it as is."""
    about = read_run_json(path)
    if labels and about.get("against") != list(labels):
        write_json(path / RUN_JSON, {**about, "against": list(labels)})


def _fits(spec: str, row: Mapping[str, Any]) -> bool:
    """Whether a row has the method and every parameter that a spec gives."""
    method, *parts = (part.strip() for part in spec.split(":"))
    if method != row["method"]:
        return False
    params = json.loads(row["params"] or "{}")
    given = [part.partition("=")[::2] for part in parts]
    return all(key in params and _same(value, params[key]) for key, value in given)


def _same(text: str, value: Any) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text.lower() == str(value).lower()
