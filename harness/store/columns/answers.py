"""Columns of cells, accuracy and what is derived of it. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import CELL_LINES, DELTA_LINES, table

CELLS = table(
    "cells.csv",
    "The cells of the run; a cell is done when its row is here.",
    "cell_id",
    CELL_LINES,
    """
data | text | | what was read: `mini`, `own`, `hub`, `local`, `hub+local`
status | text | | `done` or `failed`
error | text | | why it failed
n | int | documents | how many were answered
seconds | float | s | spent answering, over all attempts, by the process that spent most
data_source | text | | `dataset@commit` of the hub, `file@hash` of local data (own: of all rows)
requested_id | text | | the id as planned; differs from `cell_id` after a batch had to be halved
batch_size | int | samples | the one that ran last
over_length | int | samples | longer than the model's context (`--allow over-length`)
truncated_images | int | images | from files that end too early, in every sample that shows them
notes | text | | what the run remarked
device | text | | where it ran
dtype | text | | precision
attn | text | | attention backend
finished_at | text | | UTC, ISO 8601
positions | text | | how kept tokens are numbered: `original`, `compact`; empty: none or all leave
reused_from | text | | the run that answered it (`--reuse`); empty: this one
threads | int | threads | of the model, on a CPU
rank_count | int | processes | that answered it together when it was finished (`torchrun`)
protocol | text | | how questions were put (`--protocol`); empty: an older run, `lmms-eval`
""",
)
ACCURACY = table(
    "accuracy.csv",
    "Every metric of every finished cell, paired with dense on the same documents.",
    "cell_id task metric",
    CELL_LINES,
    """
task | text | | lmms-eval's task
metric | text | | lmms-eval's metric
value | float | metric's | the score
n | int | documents | behind it
ci_low | float | metric's | 95 % interval of `value`
ci_high | float | metric's | its upper end
dense_value | float | metric's | dense's score
delta | float | metric's | `value` - `dense_value`, on the documents that both answered
""",
    DELTA_LINES,
    """
verdict | text | | `better`, `worse`, `non-inferior`, `inconclusive`
headline | flag | | 1 on the one metric of a bench that is tested
n_paired | int | documents | that the row and dense both answered; the next five are about them
right_to_wrong | int | documents | whose score fell against dense's
wrong_to_right | int | documents | whose score rose
right_to_wrong_share | float | share | of `n_paired`
wrong_to_right_share | float | share | of `n_paired`
detectable | float | metric's | true difference that the test finds with 80 % power
margin | float | metric's | of non-inferiority
skill | float | ratio | (method - blind) / (dense - blind) on the documents that all three answered
skill_ci_low | float | ratio | 95 % interval of `skill`
skill_ci_high | float | ratio | its upper end
positions | text | | as in `cells.csv`
budget_asked | float | `budget_unit` | empty without a budget, as the next three
budget_met | float | `budget_unit` | what the records show: mean over layers and samples
budget_unit | text | | `tokens` of one image, or `share` of its tokens
budget_within | flag | | 1: met to one token or 2 %; 0: missed, and the row gets no verdict
same_answers | int | documents | that both answered with the same text
smallest_n | int | documents | from which on equal scores can be `non-inferior`, at this margin
protocol | text | | as in `cells.csv`
judge | text | | the language model that scored, where, and versions of its questions
judge_temperature | text | | at which it was asked, as lmms-eval's task does
not_scored | text | | why `value` is empty: `needs a judge`, `submit FILE`
""",
)
FRONTS = table(
    "fronts.csv",
    "Who stands on the accuracy-cost front, and in what share of the bootstrap's draws.",
    "model method params label bench",
    CELL_LINES,
    """
metric | text | | the headline's
n | int | documents | behind the score
images | int | images | behind the documents
score | float | metric's | the headline's value
tflops_prefill | float | TFLOP | mean of a sample, causal
on_front | flag | | 1: no other row is as cheap and better, or as good and cheaper
front_probability | float | share | of the draws in which it stands there
resamples | int | draws | of the bootstrap
""",
)
CONTROLS = table(
    "controls.csv",
    "Every method against each control at its budget; empty behind `kv_ratio_vision` where no row "
    "of the control has it.",
    "cell_id control",
    CELL_LINES,
    """
metric | text | | the headline's
control | text | | `random`, `uniform`, `pool`, `downsample` or `blind`
kv_ratio_vision | float | share | of the image's KV cache that the method keeps
control_label | text | | of all rows of the control at the budget, ` | ` between them
control_rows | int | rows | how many they are; scores are averaged document by document
control_kv | float | share | of the image's KV cache that the control keeps
n | int | documents | that both answered
value | float | metric's | the method's score on them
control_value | float | metric's | the control's
delta | float | metric's | `value` - `control_value`
""",
    DELTA_LINES,
    "verdict | text | | `above` where better and `p_adjusted` is below 0.05, else `not above`",
)
