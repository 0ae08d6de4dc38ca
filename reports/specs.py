"""The CSV files of a run, and the columns without which each says nothing."""

from __future__ import annotations

from harness.store import columns
from reports.csvio import Spec

CELLS = Spec.of(columns.CELLS, "cell_id", "method", "bench", "status")
ACCURACY = Spec.of(columns.ACCURACY, "cell_id", "method", "bench", "value")
COST = Spec.of(columns.COST, "cell_id", "method", "bench", "scope")
ROUTING = Spec.of(columns.ROUTING, "cell_id", "layer", "kind", "kept_fraction")
EVIDENCE = Spec.of(columns.EVIDENCE, "cell_id", "layer", "answered", "recall", "scope")
THROUGHPUT = Spec.of(columns.THROUGHPUT, "method", "phase", "median_ms")
LOAD = Spec.of(columns.LOAD, "method", "workload", "concurrency", "requests_per_s")
PUBLISHED = Spec.of(columns.PUBLISHED, "row", "quantity")


WORKLOAD = r":n_out=\d+(?::batch=\d+|-\d+:in_flight=\d+)$"
"""How the name of a workload ends, which stands in the place of the bench of a timed cell."""
