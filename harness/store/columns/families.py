"""Columns of the matrix of methods and families. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import table

FAMILIES = table(
    "families.csv",
    "Does a method run exactly on a model family? (`--check NAME --family NAME --out DIR`)",
    "family method",
    """
family | text | | the model family, a `model_type`
method | text | | the method, as it was asked for
status | text | | `works`, `refused` (it needs what the family has not) or `failed`
reason | text | | in one line, where it does not work; and a parameter with which it would
seconds | float | s | that the checks took
""",
)
