"""Columns of the analyses' files: the contract's first in arank.csv. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import table

ALL = "all"  # the documents of every bench together

_ON = """
model | text | | the model's name
bench | text | | the benchmark; `all`: the documents of every one together
"""
_CONDITIONS = """
data | text | | as in `cells.csv`
device | text | | where it ran
dtype | text | | precision
batch_size | int | samples | run together
"""
_SECONDS = "seconds | float | s | of the pass over this bench's documents"
ARANK = table(
    "arank.csv",
    "Rank of every layer's attention maps.",
    "model bench variant layer n_samples",
    _ON,
    """
variant | text | | `logits`: Eq. 5 of γ-MoD; `probs`: its released code
layer | int | | from 0
n_samples | int | documents | behind it
arank | float | rank | mean over heads and documents
arank_std | float | rank | standard deviation over documents
ci_low | float | rank | 95 % interval of `arank`: bootstrap over images
ci_high | float | rank | its upper end
dense | flag | | 1: one of the four layers of highest ARank, which γ-MoD keeps dense
tokens_mean | float | tokens | mean length of the prompts
""",
    _CONDITIONS,
    _SECONDS,
)
HEADS = table(
    "arank_heads.csv",
    "The same of every head.",
    "model bench variant layer head",
    _ON,
    """
variant | text | | as in `arank.csv`
layer | int | | from 0
head | int | | from 0
n_samples | int | documents | behind it
arank | float | rank | mean over documents
arank_std | float | rank | standard deviation over documents
""",
)
SAMPLES = table(
    "layer_samples.csv",
    "ARank, block influence and cosine of every document.",
    "model bench doc_id measure layer",
    _ON,
    """
doc_id | text | | the document
image_id | text | | the image's hash
measure | text | | what `value` is
layer | int | | from 0
value | float | measure's | of this document
""",
)
DOCUMENTS = table(
    "analysis_documents.csv",
    "The documents that were analysed.",
    "model bench doc_id",
    _ON,
    """
doc_id | text | | the document
image_id | text | | the image's hash
n_tokens | int | tokens | in the prompt
n_image | int | tokens | of images among them
tokens | text | | the exact token ids, repeats as `id*count`
""",
)
DAMAGE = table(
    "damage.csv",
    "What is lost without a layer.",
    "model bench probe layer",
    _ON,
    """
probe | text | | `skip-layer`: for all tokens; `half-image`: for a random half of the image's
layer | int | | from 0
n_samples | int | documents | behind it
metric | text | | the headline's
dense_accuracy | float | metric's | with all layers
accuracy | float | metric's | without this one
drop | float | metric's | `dense_accuracy` - `accuracy`
drop_ci_low | float | metric's | 95 % interval of `drop`: bootstrap over images
drop_ci_high | float | metric's | its upper end
p_value | float | | of the paired test
nll_dense | float | `nll_unit` | negative log-likelihood of the target answer, with all layers
nll_increase | float | `nll_unit` | its rise
nll_ci_low | float | `nll_unit` | 95 % interval of the rise
nll_ci_high | float | `nll_unit` | its upper end
nll_unit | text | | unit of the log-likelihoods
""",
    _CONDITIONS,
    _SECONDS,
)
PROBED = table(
    "damage_samples.csv",
    "The same of every document.",
    "model bench probe layer doc_id",
    _ON,
    """
probe | text | | as in `damage.csv`
layer | int | | from 0
doc_id | text | | the document
image_id | text | | the image's hash
score | float | metric's | without this layer
dense_score | float | metric's | with all layers
nll | float | nats | of the target answer, without this layer
dense_nll | float | nats | with all layers
target | text | | the target answer
n_answer | int | tokens | in it
""",
)
CORRELATION = table(
    "layer_correlation.csv",
    "How alike two orders of the layers are (Spearman).",
    "model kind bench x y",
    _ON.strip().splitlines()[0],
    """
kind | text | | what is compared
bench | text | | where
x | text | | one order
y | text | | the other
n_layers | int | layers | that both order
n_samples | int | documents | behind them
rho | float | | Spearman's rank correlation
ci_low | float | | 95 % interval over layers: Fisher's z
ci_high | float | | its upper end
p_value | float | | over layers: the exact or t test
documents_low | float | | 95 % interval over documents: bootstrap of images
documents_high | float | | its upper end
""",
)
PLANS = table(
    "plans.csv",
    "Retention plans at one KV budget, on documents that none was made from.",
    "model bench plan",
    _ON,
    """
plan | text | | its name
source | text | | what it was made from
spec | text | | as a method of `--methods`
kv_budget | float | share | asked for
kv_planned | float | share | of the plan
kv_measured | float | share | from the records
n | int | documents | answered with it
accuracy | float | metric's | on them
ci_low | float | metric's | 95 % interval of `accuracy`
ci_high | float | metric's | its upper end
dense_accuracy | float | metric's | dense's on them
delta_dense | float | metric's | `accuracy` - `dense_accuracy`
delta_dense_ci_low | float | metric's | 95 % interval of `delta_dense`
delta_dense_ci_high | float | metric's | its upper end
reference | text | | the plan it is compared with
delta | float | metric's | to the reference's accuracy
delta_ci_low | float | metric's | 95 % interval of `delta`
delta_ci_high | float | metric's | its upper end
p_value | float | | of the paired test with the reference
p_adjusted | float | | after Holm's correction
retention | text | | share of image tokens, layer by layer, `+` between
made_on | int | documents | that the plan was made from
""",
    _CONDITIONS,
    "seconds | float | s | of answering with it",
)
