"""Every CSV of a run directory: writers, the report's readers and the docs follow. Torch-free.

A new column is a new line behind the others; the contract's stand first.
"""

from harness.store.columns.answers import ACCURACY, CELLS, CONTROLS, FRONTS
from harness.store.columns.capacity import CAPACITY
from harness.store.columns.costs import (
    COST,
    COUNTED,
    COUNTERS,
    EVIDENCE,
    IMAGES,
    PUBLISHED,
    ROUTING,
    SAMPLES,
)
from harness.store.columns.families import FAMILIES
from harness.store.columns.load import LOAD
from harness.store.columns.pairs import AVERAGES, COMPARISONS, CURVES
from harness.store.columns.reference import REFERENCE
from harness.store.columns.slices import HARD, SLICES
from harness.store.columns.table import CELL
from harness.store.columns.times import ROUNDS, THROUGHPUT

SCHEMA_VERSION = 1

__all__ = [
    "ACCURACY", "AVERAGES", "CAPACITY", "CELL", "CELLS", "COMPARISONS", "CONTROLS", "COST",
    "COUNTED", "COUNTERS", "CURVES", "EVIDENCE", "FAMILIES", "FRONTS", "HARD", "IMAGES", "LOAD",
    "PUBLISHED", "REFERENCE", "ROUNDS", "ROUTING", "SAMPLES", "SCHEMA_VERSION", "SLICES",
    "THROUGHPUT",
]  # fmt: skip
