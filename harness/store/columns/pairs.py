"""Columns of the comparisons of methods with each other, and of their averages. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import table

COMPARISONS = table(
    "comparisons.csv",
    "Every pair of rows on the same documents: bench by bench, and on the average of all.",
    "model bench method_a params_a a method_b params_b b",
    """
bench | text | | the benchmark; `(average)` where the run has several
metric | text | | the headline's
a | text | | label of the later row of the run
b | text | | label of the earlier one, so that dense stands here
method_a | text | | method of `a`
method_b | text | | method of `b`
positions_a | text | | how `a` numbers the tokens it keeps, as in `cells.csv`
positions_b | text | | how `b` does
kv_a | float | share | of the image's KV cache that `a` keeps, mean of samples
kv_b | float | share | that `b` keeps
n | int | documents | that both answered
delta | float | metric's | `a` - `b`; a share of the scale for the average
ci_low | float | metric's | 95 % interval of `delta`: bootstrap, clustered by image
ci_high | float | metric's | its upper end
p_value | float | | of the paired test
p_adjusted | float | | after Holm's correction over the comparable pairs
verdict | text | | of `a` against `b`: `better`, `worse`, `non-inferior`, `inconclusive`
model | text | | the model's name
params_a | text | | parameters of `a`, JSON with sorted keys
params_b | text | | of `b`
images | int | images | behind the documents
margin | float | metric's | of non-inferiority
comparable | flag | | 1: the two keep as much of the image's KV cache; only then a verdict
""",
)
AVERAGES = table(
    "averages.csv",
    "Every row's accuracy over the benches, each as a share of its metric's scale.",
    "model method params label",
    """
model | text | | the model's name
method | text | | the method's name
params | text | | its parameters, JSON with sorted keys
label | text | | name and parameters as shown
positions | text | | as in `cells.csv`
benches | int | benches | that the row has of those in the average
of_benches | int | benches | in the average
metric | text | | what is averaged
average | float | share | mean over benches of the headline; empty where a bench is missing
ci_low | float | share | 95 % interval of `average`: bootstrap, clustered by image, by bench
ci_high | float | share | its upper end
of_dense | float | ratio | `average` / dense's
of_dense_low | float | ratio | 95 % interval of `of_dense`
of_dense_high | float | ratio | its upper end
kv | float | share | of the image's KV cache that is kept, mean over benches
tflops_prefill | float | TFLOP | of a sample, causal, mean over benches
prefill_of_dense | float | ratio | `tflops_prefill` / dense's
n | int | documents | behind the average
images | int | images | behind the documents
""",
)
CURVES = table(
    "curves.csv",
    "The area between a method's curve of accuracy against budget and another's, or dense.",
    "model bench method curve positions against",
    """
model | text | | the model's name
bench | text | | the benchmark; `(average)` where the run has several
metric | text | | the headline's
method | text | | the method's name
curve | text | | label of its rows without the budget (of `random`: without the seed, too)
positions | text | | as in `cells.csv`
against | text | | the other curve in the same words, or `dense`
budgets | text | | those that both have, as `curve` was asked for them, `+` between
area | float | metric's | mean difference over them (trapezoid over the KV share met, by its width)
ci_low | float | metric's | 95 % interval of `area`: bootstrap, clustered by image
ci_high | float | metric's | its upper end
n | int | documents | that all rows of the curves answered
images | int | images | behind the documents
p_value | float | | of no area: signs flipped, image by image
p_adjusted | float | | after Holm's correction over the file's benches, or over its averages
""",
)
