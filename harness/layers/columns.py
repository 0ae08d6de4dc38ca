"""Columns of the analyses' CSV files: the contract's first in arank.csv, ours after them."""

ALL = "all"  # the documents of every bench together

ARANK = ("model", "bench", "variant", "layer", "n_samples", "arank", "arank_std") + (
    *("ci_low", "ci_high"),  # 95 %, bootstrap over images
    "dense",  # 1: one of the four layers of highest ARank, which γ-MoD keeps dense
    "tokens_mean",
    *("data", "device", "dtype", "batch_size"),
    "seconds",  # of the pass over this bench's documents: forward passes and this variant's ranks
)
HEADS = ("model", "bench", "variant", "layer", "head", "n_samples", "arank", "arank_std")
SAMPLES = ("model", "bench", "doc_id", "image_id", "measure", "layer", "value")
DOCUMENTS = ("model", "bench", "doc_id", "image_id", "n_tokens", "n_image", "tokens")
DAMAGE = ("model", "bench", "probe", "layer", "n_samples", "metric", "dense_accuracy") + (
    *("accuracy", "drop", "drop_ci_low", "drop_ci_high", "p_value"),
    *("nll_dense", "nll_increase", "nll_ci_low", "nll_ci_high", "nll_unit"),
    *("data", "device", "dtype", "batch_size", "seconds"),
)
PROBED = ("model", "bench", "probe", "layer", "doc_id", "image_id", "score", "dense_score") + (
    *("nll", "dense_nll", "target", "n_answer"),
)
CORRELATION = ("model", "kind", "bench", "x", "y", "n_layers", "n_samples", "rho") + (
    *("ci_low", "ci_high", "p_value"),  # over layers: Fisher's z, and the exact or t test
    *("documents_low", "documents_high"),  # over documents: bootstrap of images
)
PLANS = ("model", "bench", "plan", "source", "spec", "kv_budget", "kv_planned", "kv_measured") + (
    *("n", "accuracy", "ci_low", "ci_high"),
    *("dense_accuracy", "delta_dense", "delta_dense_ci_low", "delta_dense_ci_high"),
    *("reference", "delta", "delta_ci_low", "delta_ci_high", "p_value", "p_adjusted"),
    *("retention", "made_on", "data", "device", "dtype", "batch_size", "seconds"),
)
