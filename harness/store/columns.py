"""Columns of the run directory's CSVs: the contract's first, ours after them. Torch-free."""

from __future__ import annotations

SCHEMA_VERSION = 1

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

CELL = ("cell_id", "model", "method", "params", "label", "bench")
CELLS = (*CELL, "data", "status", "error", "n", "seconds") + (
    "data_source",  # what was read: dataset@commit of the hub, file@hash of local data
    "requested_id",  # the id as planned; differs from cell_id after a batch had to be halved
    "batch_size",  # the one that ran last
    "over_length",  # samples longer than the model's context (--allow over-length)
    "truncated_images",  # from files that end too early, counted in every sample that shows them
    "notes",
    "device",
    "dtype",
    "attn",
    "finished_at",
    "positions",  # how kept tokens are numbered: `original`, `compact`; empty: none or all leave
)
ACCURACY = (*CELL, "task", "metric", "value", "n", "ci_low", "ci_high") + (
    "dense_value",
    "delta",
    "delta_ci_low",
    "delta_ci_high",
    "p_value",
    "p_adjusted",
    "verdict",
    "headline",  # 1 on the one metric per bench that is tested; 0 elsewhere
    "n_paired",  # documents that the row and dense's both answered; the next five are about them
    "right_to_wrong",  # documents whose score fell against dense's
    "wrong_to_right",  # documents whose score rose
    "right_to_wrong_share",
    "wrong_to_right_share",
    "detectable",  # the true difference the test finds with 80 % power, metric's scale
    "margin",  # of non-inferiority, on the metric's scale
    "skill",  # (method - blind) / (dense - blind) on the documents that all three answered
    "skill_ci_low",
    "skill_ci_high",
    "positions",  # as in cells.csv
    "budget_asked",  # empty without a budget, as the next three
    "budget_met",  # what the records show: mean over layers and samples, in the same unit
    "budget_unit",  # `tokens` of one image, or `share` of its tokens
    "budget_within",  # 1: met to one token or 2 %; 0: missed, and the row gets no verdict
    "same_answers",  # documents that both answered with the same text
    "smallest_n",  # from which on equal scores can be `non-inferior`, at this margin and images
)
# Who stands on the accuracy-cost front, and in what share of the bootstrap's draws.
FRONTS = (*CELL, "metric", "n", "images", "score", "tflops_prefill") + (
    "on_front",
    "front_probability",
    "resamples",
)
# Every method against each control at its budget; empty behind `kv_ratio_vision` where no row of
# the control has it.
CONTROLS = (*CELL, "metric", "control", "kv_ratio_vision") + (
    "control_label",  # of all its rows at the budget, " | " between them
    "control_rows",  # how many they are; scores are averaged document by document
    "control_kv",
    "n",
    "value",
    "control_value",
    "delta",
    "delta_ci_low",
    "delta_ci_high",
    "p_value",
    "p_adjusted",
    "verdict",  # `above` where better and p_adjusted is below 0.05, else `not above`
)
SAMPLES = (
    "doc_id",
    "score",
    "prediction",
    "target",
    "n_text",
    "n_image",
    "n_out",
    "skip_mod_layers",
    "skip_all_layers",
    "kv_ratio",
    "tflops_prefill",  # the one rule: causal attention, LM head on the last position
    "tflops_decode",
) + (
    "image_id",
    "n_images",
    "kv_ratio_vision",
    "kv_mib",  # of this sample, after the prompt
    "kv_mib_end",  # and after the last token that is fed back
    "tflops_vision",
    "tflops_projector",
    "tflops_prefill_full",
    "tflops_prefill_paper_pmod",
    "tflops_prefill_paper_gamma",
    "tflops_prefill_paper_fastv",
    "tflops_router",  # what the method computed of its own; empty where a part is not known
    "tflops_lm_head",  # of which, in prefill and decode already
    # The same sample by two counters, attention in full (`harness.cost.referees`).
    *(f"{column}_{counter}" for counter in COUNTERS for column in COUNTED.values()),
)
# TFLOP are of one sample, whatever the batch; cache sizes of `kv_batch` samples together (1: of one
# sample, the mean of them).
COST = (*CELL, "scope", "unit", "tflops_mean", "tflops_ci_low", "tflops_ci_high") + (
    "counter",
    "convention",
    "kv_ratio_vision",
    "kv_ratio_all",
    "kv_mib",  # after the prompt
    "skip_mod_layers",
    "skip_all_layers",
    "kv_mib_end",  # after the last token that is fed back
    "kv_batch",
)
ROUTING = ("cell_id", "bench", "layer", "kind", "tokens", "kept", "kept_fraction")
# Answer-bearing patches still processed; `scope` is `layer`, or `mean` over all layers.
EVIDENCE = ("cell_id", "bench", "layer", "answered", "n", "recall", "ci_low", "ci_high") + (
    "merged",  # mean share of them that stands in another token's slot
    "scope",
)
# What a paper prints beside what the ledger counts; differences are ours to the paper's.
PUBLISHED = ("paper", "table", "row", "model", "method", "quantity", "unit", "paper_value") + (
    "paper_rule",
    "paper_rule_difference",
    "one_rule",
    "one_rule_difference",
    "difference_unit",
    "rule",
    "setting",
    "reproducible",  # 1: asserted by the tests; 0: `reason` says why it cannot be
    "reason",
    "hardware",  # of the paper's figure, where it was measured
    "note",
)
THROUGHPUT = (
    (*CELL, "workload", "device", "attn", "dtype", "batch", "n_text", "n_image", "n_out")
    + (
        "phase",
        "median_ms",
        "p10_ms",
        "p90_ms",
        "samples_per_s",
        "tokens_per_s",  # generated tokens only
        "speedup_vs_dense",
        "speedup_ci_low",
        "speedup_ci_high",
        "flops_ratio",  # dense / method under `causal`: above 1 the method does less
        "realisation",  # speedup_vs_dense / flops_ratio
        "realisation_ci_low",  # from the draws of the speed-up; FLOPs are counted, not sampled
        "realisation_ci_high",
        "peak_mib",
        "kv_mib",  # of the whole batch after the last token, from the cache tensors
        "repeats",
    )
    + (
        "tflops",  # of one sample, under `causal`
        "first_ms",  # the very first call, warm-up included
        "speedup_vs_best",  # against dense on the best backend, where that is another one
        "agreement",  # rows of the batch that answer as they do alone
        "rejected",  # rounds left out because the clock had dropped
        "sm_mhz",
        "memory_mhz",
        "watt",
        "celsius",
        "joules_per_sample",  # above idle
        "notes",
    )
)
ROUNDS = ("cell_id", "label", "round", "phase", "ms", "kept")
