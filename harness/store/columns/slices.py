"""Columns of what `--slice` adds. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import CELL_LINES, table

SLICES = table(
    "slices.csv",
    "With `--slice hard`: the part of its bench that every document is in, by the rule that stands "
    "beside it.",
    "bench doc_id",
    """
bench | text | | the benchmark
metric | text | | the headline's
doc_id | text | | the document
slice | text | | `hard` (right, wrong at a quarter), `kept` (both), `gained` (at a quarter), `wrong`
dense_score | float | metric's | dense's
quarter_score | float | metric's | dense's on images of a quarter of the pixels
rule | text | | what counts as right
""",
)
HARD = table(
    "hard.csv",
    "With `--slice hard`: every row on the documents that need the image at full resolution, and "
    "on all others.",
    "cell_id slice",
    CELL_LINES,
    """
metric | text | | the headline's
slice | text | | `hard`, or `rest`: all other documents of the bench
n | int | documents | of the slice that the row answered
images | int | images | behind them
value | float | metric's | the row's score on them
ci_low | float | metric's | 95 % interval of `value`, clustered by image; empty below 10 documents
ci_high | float | metric's | its upper end
dense_value | float | metric's | dense's score, near the top of the scale on `hard` by its choice
delta | float | metric's | `value` - `dense_value`: below zero on `hard` by its choice, so untested
delta_ci_low | float | metric's | 95 % interval of `delta`; empty below 10 documents
delta_ci_high | float | metric's | its upper end
quarter_value | float | metric's | dense's at a quarter of the pixels, near 0 on `hard` by choice
control_label | text | | rows of `downsample` at the row's budget and numbering, ` | ` between them
control_value | float | metric's | their score
control_delta | float | metric's | `value` - `control_value`: neither chose the documents
control_ci_low | float | metric's | 95 % interval of `control_delta`, clustered by image
control_ci_high | float | metric's | its upper end
p_value | float | | of the paired test against the control
p_adjusted | float | | after Holm's correction over all methods and benches of one slice
verdict | text | | `above` or `not above` it, as in `controls.csv`; empty below 10 documents
""",
)
