"""Columns of a study's files. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import table

STUDY = table(
    "study.csv",
    "The arms, by bench.",
    "arm bench",
    """
arm | text | | its name
role | text | | `reference` or `arm`
train | text | | how it was trained
test | text | | the method it was tested as
bench | text | | the benchmark, or the average
metric | text | | of it
mean | float | metric's | over seeds
ci_low | float | metric's | 95 % interval of `mean`, over all looks where the study has several
ci_high | float | metric's | its upper end
seeds | int | seeds | that were trained
n | int | documents | a seed
seed_std | float | metric's | standard deviation over seeds
reference_mean | float | metric's | of the reference arm
delta | float | metric's | `mean` - `reference_mean`
delta_ci_low | float | metric's | 95 % interval of `delta`
delta_ci_high | float | metric's | its upper end
kv_ratio_vision | float | share | of the image's KV cache that is kept
tflops_ratio | float | ratio | prefill, of dense's
train_seconds | float | s | of a training
paper_value | float | metric's | as the paper prints it
paper_note | text | | what is to be known of that
notes | text | | what the study remarked
status | text | | `done`, `partial`, or why there is nothing
error | text | | what went wrong
""",
)
RUNS = table(
    "study_runs.csv",
    "The trainings, by seed.",
    "arm seed",
    """
arm | text | | its name
seed | text | | of this training
train | text | | how it was trained
test | text | | the method it was tested as
status | text | | how it ended
error | text | | what went wrong
steps | int | steps | trained
final_loss | float | nats | at the end
train_seconds | float | s | of the training
step_ms | float | ms | a step
accuracy_average | float | metric's | over benches
checkpoint | text | | the trained weights
n | int | documents | answered
""",
)
CLAIMS = table(
    "study_claims.csv",
    "What was claimed of two arms, and what was found.",
    "claim better worse bench",
    """
claim | text | | in words
kind | text | | `higher`, or which other kind of claim
better | text | | the arm that is said to be better
worse | text | | the other
bench | text | | where
difference | float | points | `better` - `worse`
ci_low | float | points | interval of `difference` at 1 - `level`
ci_high | float | points | its upper end
p_value | float | | of no difference, at its look alone
p_adjusted | float | | adjusted for the looks, then Holm's correction over the claims
paper_difference | float | points | the paper's
margin | float | points | below which a difference is not relevant
verdict | text | | `reproduced`, `not reproduced`, `inconclusive`
reason | text | | why
source | text | | where the claim stands
p_margin | float | | of a difference of just the margin
p_margin_adjusted | float | | adjusted as `p_adjusted`
seeds | int | seeds | that both arms have
look | int | | at which it was decided, else the last that was taken
looks | int | | planned
alpha_spent | float | | of 0.05, up to that look
level | float | | the nominal two-sided level of that look
""",
)
SCORES = table(
    "study_scores.csv",
    "Every document of every training.",
    "arm seed bench doc_id",
    """
arm | text | | its name
seed | text | | of the training
bench | text | | the benchmark
doc_id | text | | the document
image_id | text | | the image's hash
score | float | metric's | of its answer
""",
)
LOSSES = table(
    "study_losses.csv",
    "The training curves.",
    "arm seed step",
    """
arm | text | | its name
seed | text | | of the training
step | int | | of the training
loss | float | nats | of the step
""",
)
