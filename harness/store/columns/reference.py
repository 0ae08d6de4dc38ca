"""Columns of published scores beside ours. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import table

REFERENCE = table(
    "reference.csv",
    "Published scores of the run's model and benches, or of the table that it repeats.",
    "table label model bench metric",
    """
bench | text | | the benchmark; `(average)`: the mean that the table prints
model | text | | the published model, by the name it has in `reference.yaml`
method | text | | the method's name
budget | text | | as the source states it
protocol | text | | of the source, as `--protocol`; `paper`: of its own, or not stated
value | float | metric's | as printed: percent, or the metric's own scale
source | text | | paper and table
ours | float | metric's | our score on the printed scale; empty where it is not the same thing
ci_low | float | metric's | 95 % interval of `ours`
ci_high | float | metric's | its upper end
inside | flag | | 1: `value` lies in our interval; empty where that cannot be judged
label | text | | the row, as the table calls it
metric | text | | accuracy.csv's, or what the source says of one that is not
spec | text | | our method with all its parameters, where the source states them
n | int | documents | behind `ours`
ours_protocol | text | | of our cell
ours_label | text | | of our row
ours_cell | text | | `cell_id` of our cell
difference | float | metric's | `ours` - `value`
reason | text | | why `ours` or `inside` is empty, or what must be known of them
table | text | | name of the table in `reference.yaml`
""",
)
