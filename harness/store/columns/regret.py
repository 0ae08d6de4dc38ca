"""Columns of what `--analyse regret` writes. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import CELL_LINES, table

BOTH, EARLIER, LATER = "both", "earlier", "later"  # which document of a pair is asked first

REGRET = table(
    "regret.csv",
    "Two questions about one image: the second on the cache that the first left, against the same "
    "conversation from scratch.",
    "cell_id order",
    CELL_LINES,
    """
order | text | | which document of a pair is asked first: `earlier` or `later`; `both`: all of them
status | text | | `done`, `failed`, or `left out`
error | text | | why there are no numbers
metric | text | | the headline's; scores are those of single documents
n | int | conversations | one second turn each
images | int | images | they are about; intervals draw images, or the clusters of own data
turn1 | float | metric's | score of the first turns
turn2_kept | float | metric's | of the second turns, on the kept cache
turn2_fresh | float | metric's | of the same tokens as one new prompt
turn2_alone | float | metric's | of the same questions asked alone
regret | float | metric's | `turn2_fresh` - `turn2_kept`, paired by document
ci_low | float | metric's | 95 % interval of `regret`: bootstrap, clustered as in `accuracy.csv`
ci_high | float | metric's | its upper end
p_value | float | | of the paired test
p_adjusted | float | | after Holm's correction over the rows `both` of all methods but dense
both_right | float | share | of `right_first`, those whose second turn is right too (T1V_T2V / T1V)
both_right_fresh | float | share | the same from scratch
right_first | int | conversations | whose first turn is right: at least half of the scale
same_answers | int | conversations | with the same answer both ways
kv_ratio | float | share | of the image tokens' cache kept after the first turn, layer mean
kv_ratio_fresh | float | share | kept by the fresh run
n_question | float | tokens | appended for the second turn, mean
data | text | | as in `cells.csv`
device | text | | where it ran
dtype | text | | precision
attn | text | | attention backend
protocol | text | | as in `cells.csv`
batch_size | int | samples | run together
seed | int | | of everything random
""",
)
CONVERSATIONS = table(
    "regret_samples.csv",
    "Every conversation behind `regret.csv`.",
    "cell_id doc_id",
    """
cell_id | text | | as in `cells.csv`
stamp | text | | hash over everything that can change the row
order | text | | as in `regret.csv`
bench | text | | the benchmark
metric | text | | the headline's
image_id | text | | the image's hash
cluster | text | | of the document asked second, where own data has any: intervals draw it
first_doc | text | | the document asked first
doc_id | text | | the document asked second
first_score | float | metric's | of the first turn
alone_score | float | metric's | of the second question asked alone
kept_score | float | metric's | of the second turn on the kept cache
fresh_score | float | metric's | of the second turn from scratch
first_answer | text | | to the first question
kept_answer | text | | to the second, on the kept cache
fresh_answer | text | | to the second, from scratch
n_prompt | int | tokens | of the conversation up to the second answer
n_question | int | tokens | appended for the second turn
kv_ratio | float | share | of the image tokens' cache kept after the first turn
kv_ratio_fresh | float | share | kept by the fresh run
""",
)
