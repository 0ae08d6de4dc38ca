"""The CSV files of a run: their columns, the key of a row, and what must be there."""

from __future__ import annotations

from reports.csvio import Spec

CELL_TEXT = ("cell_id", "model", "method", "params", "label", "bench")
CELLS = Spec(
    "cells.csv",
    (*CELL_TEXT, "data", "data_source", "status", "error"),
    ("n", "seconds"),
    ("cell_id",),
    ("cell_id", "method", "bench", "status"),
)
ACCURACY = Spec(
    "accuracy.csv",
    (*CELL_TEXT, "task", "metric", "verdict", "positions", "budget_unit"),
    ("value", "n", "ci_low", "ci_high", "dense_value", "delta", "delta_ci_low", "delta_ci_high")
    + ("p_value", "p_adjusted", "headline", "n_paired", "right_to_wrong", "wrong_to_right")
    + ("detectable", "margin", "skill", "skill_ci_low", "skill_ci_high")
    + ("budget_asked", "budget_met", "budget_within", "same_answers", "smallest_n"),
    ("cell_id", "task", "metric"),
    ("cell_id", "method", "bench", "value"),
)
COST = Spec(
    "cost.csv",
    (*CELL_TEXT, "scope", "unit", "counter", "convention"),
    ("tflops_mean", "tflops_ci_low", "tflops_ci_high", "kv_ratio_vision", "kv_ratio_all")
    + ("kv_mib", "skip_mod_layers", "skip_all_layers", "kv_mib_end", "kv_batch"),
    ("cell_id", "scope", "counter", "convention"),
    ("cell_id", "method", "bench", "scope"),
)
ROUTING = Spec(
    "routing.csv",
    ("cell_id", "bench", "kind"),
    ("layer", "tokens", "kept", "kept_fraction"),
    ("cell_id", "bench", "layer", "kind"),
    ("cell_id", "layer", "kind", "kept_fraction"),
)
EVIDENCE = Spec(
    "evidence.csv",
    ("cell_id", "bench", "answered", "scope"),
    ("layer", "n", "recall", "ci_low", "ci_high", "merged"),
    ("cell_id", "scope", "layer", "answered"),
    ("cell_id", "layer", "answered", "recall", "scope"),
)
THROUGHPUT = Spec(
    "throughput.csv",
    (*CELL_TEXT, "workload", "device", "attn", "dtype", "phase", "notes"),
    ("batch", "n_text", "n_image", "n_out", "median_ms", "p10_ms", "p90_ms", "samples_per_s")
    + ("tokens_per_s", "speedup_vs_dense", "speedup_ci_low", "speedup_ci_high", "flops_ratio")
    + ("realisation", "realisation_ci_low", "realisation_ci_high", "peak_mib", "kv_mib")
    + ("repeats", "agreement", "joules_per_sample"),
    ("cell_id", "method", "params", "workload", "phase", "batch", "device", "attn", "dtype"),
    ("method", "phase", "median_ms"),
)
PUBLISHED = Spec(
    "published.csv",
    ("paper", "table", "row", "model", "method", "quantity", "unit", "difference_unit", "rule")
    + ("setting", "reason", "hardware", "note"),
    ("paper_value", "paper_rule", "paper_rule_difference", "one_rule", "one_rule_difference")
    + ("reproducible",),
    ("table", "row", "quantity"),
    ("row", "quantity"),
)


WORKLOAD = r":n_out=\d+:batch=\d+$"
"""How the name of a workload ends, which stands in the place of the bench of a timed cell."""
