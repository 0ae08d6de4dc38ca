"""Running one cell in a test, and comparing two."""

from __future__ import annotations

import dataclasses
from typing import Any

import methods
from harness.bench.benches import Bench
from harness.bench.loop import CellResult, evaluate
from harness.model.session import Session

DENSE = methods.parse("dense")
DOCUMENTS = 5  # in each of the session's datasets


def run(loaded: Session, bench: Bench, method: Any = DENSE, **options: Any) -> CellResult:
    options = {"progress": False, "max_new_tokens": 6, **options}
    return evaluate(loaded, method, bench, **options)


def predictions(result: CellResult) -> list[str]:
    return [sample.prediction for sample in result.samples]


def comparable(result: CellResult) -> dict[str, Any]:
    """A result without its stopwatch, records unpacked."""
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    fields["records"] = {k: (r.route.tolist(), r.grid) for k, r in result.records.items()}
    return {k: v for k, v in fields.items() if k not in ("seconds", "notes")}
