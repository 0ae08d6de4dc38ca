"""Columns of samples, costs and routing. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import CELL_LINES, table

COUNTERS = ("fvcore", "torch")
# scope -> column of the samples file, with the counter's name behind it
COUNTED = {
    "vision": "tflops_vision",
    "projector": "tflops_projector",
    "llm_prefill": "tflops_prefill_full",
    "llm_decode": "tflops_decode",
    "router": "tflops_router",
    "lm_head": "tflops_lm_head",
}
_COUNTED = "\n".join(
    f"{column}_{counter} | float | TFLOP | `{scope}` as {counter} counts it, attention in full"
    for counter in COUNTERS
    for scope, column in COUNTED.items()
)

SAMPLES = table(
    "samples/<cell_id>.csv",
    "Every document of a cell.",
    "doc_id",
    """
doc_id | text | | the document
score | float | metric's | of its answer, under the headline's metric
prediction | text | | the answer
target | text | | what was expected
n_text | int | tokens | of text in the prompt
n_image | int | tokens | of images in the prompt
n_out | int | tokens | generated
skip_mod_layers | float | share | of token-layers not processed, over the layers that are routed
skip_all_layers | float | share | the same over all layers
kv_ratio | float | share | of dense's cache entries that are stored, over all layers
tflops_prefill | float | TFLOP | causal attention, LM head on the last position
tflops_decode | float | TFLOP | of the tokens after the first
image_id | text | | the image's hash: what intervals are clustered by
n_images | int | images | in the prompt
kv_ratio_vision | float | share | `kv_ratio` of the image's entries alone
kv_mib | float | MiB | cache of this sample, after the prompt
kv_mib_end | float | MiB | after the last token that is fed back
tflops_vision | float | TFLOP | of the vision tower
tflops_projector | float | TFLOP | of the projector
tflops_prefill_full | float | TFLOP | prefill with attention counted in full
tflops_prefill_paper_pmod | float | TFLOP | prefill as p-MoD's paper counts
tflops_prefill_paper_gamma | float | TFLOP | prefill as γ-MoD's paper counts
tflops_prefill_paper_fastv | float | TFLOP | prefill as FastV's paper counts
tflops_router | float | TFLOP | what the method computed of its own; empty where a part is not known
tflops_lm_head | float | TFLOP | of the LM head: in prefill and decode already
image_tokens | text | tokens | of each of several images, in the prompt's order, a space between
image_kept | text | tokens | of each that are processed, mean over layers; empty where not known
""",
    _COUNTED,
    "cluster | text | | of own data: what intervals are clustered by instead; empty: the image",
)
COST = table(
    "cost.csv",
    "What a sample costs, by scope, counter and convention. TFLOP are of one sample, whatever the "
    "batch; cache sizes of `kv_batch` samples together.",
    "cell_id scope counter convention",
    CELL_LINES,
    """
scope | text | | `vision`, `projector`, `llm_prefill`, `llm_decode`, `router`, `lm_head`, `total`
unit | text | | `FLOP`: one multiply or one add
tflops_mean | float | TFLOP | mean over samples
tflops_ci_low | float | TFLOP | 95 % interval: bootstrap over images
tflops_ci_high | float | TFLOP | its upper end
counter | text | | `closed_form`, `fvcore` or `torch`
convention | text | | `causal`, `full`, `paper-pmod`, `paper-gamma`, `paper-fastv`
kv_ratio_vision | float | share | of dense's image entries that are stored, over all layers
kv_ratio_all | float | share | the same of all entries
kv_mib | float | MiB | cache after the prompt
skip_mod_layers | float | share | of token-layers not processed, over the layers that are routed
skip_all_layers | float | share | the same over all layers
kv_mib_end | float | MiB | cache after the last token that is fed back
kv_batch | int | samples | whose cache that is; 1: of one sample, the mean of them
""",
)
ROUTING = table(
    "routing.csv",
    "What each layer keeps, by kind of token.",
    "cell_id bench layer kind",
    """
cell_id | text | | as in `cells.csv`
bench | text | | as in `cells.csv`
layer | int | | from 0
kind | text | | `system`, `question`, `image` or `answer`
tokens | int | tokens | of this kind, over all samples
kept | int | tokens | of them that the layer processed
kept_fraction | float | share | `kept` / `tokens`
""",
)
IMAGES = table(
    "images.csv",
    "What stays of each image of prompts with several; only where there are such prompts.",
    "cell_id image",
    """
cell_id | text | | as in `cells.csv`
bench | text | | as in `cells.csv`
image | text | | its number in the prompt, from 1, or `all` of a prompt together
n | int | documents | with at least two images, and with this one
tokens | float | tokens | of it, mean over documents
kept | float | tokens | of them processed, mean over layers and documents
kept_fraction | float | share | `kept` / `tokens`
""",
)
EVIDENCE = table(
    "evidence.csv",
    "Answer-bearing patches that are still processed, on benches with boxes.",
    "cell_id scope layer answered",
    """
cell_id | text | | as in `cells.csv`
bench | text | | as in `cells.csv`
layer | int | | from 0
answered | text | | `all`, `right` or `wrong`: which documents
n | int | documents | of them
recall | float | share | of the patches that hold the answer and are processed
ci_low | float | share | 95 % interval: bootstrap over images
ci_high | float | share | its upper end
merged | float | share | mean of them that stands in another token's slot
scope | text | | `layer`, or `mean` over all layers
""",
)
PUBLISHED = table(
    "published.csv",
    "What a paper prints beside what the ledger counts; differences are ours to the paper's.",
    "table row quantity",
    """
paper | text | | the paper
table | text | | its table
row | text | | the row as it is called there
model | text | | the model
method | text | | the method, as a spec
quantity | text | | what the figure is of
unit | text | | of the three figures
paper_value | float | `unit` | as printed
paper_rule | float | `unit` | counted by the paper's rule
paper_rule_difference | float | `difference_unit` | of that to the paper's
one_rule | float | `unit` | counted by the one rule, `causal`
one_rule_difference | float | `difference_unit` | of that to the paper's
difference_unit | text | | of both differences
rule | text | | the paper's, in words
setting | text | | lengths and sizes that were counted
reproducible | flag | | 1: asserted by the tests; 0: `reason` says why it cannot be
reason | text | | why not
hardware | text | | of the paper's figure, where it was measured
note | text | | what else is to be known
""",
)
