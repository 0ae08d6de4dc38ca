"""Columns of a study's CSV files."""

STUDY = (
    *("arm", "role", "train", "test", "bench", "metric", "mean", "ci_low", "ci_high", "seeds", "n"),
    *("seed_std", "reference_mean", "delta", "delta_ci_low", "delta_ci_high", "kv_ratio_vision"),
    *("tflops_ratio", "train_seconds", "paper_value", "paper_note", "notes", "status", "error"),
)
RUNS = (
    *("arm", "seed", "train", "test", "status", "error", "steps", "final_loss", "train_seconds"),
    *("step_ms", "accuracy_average", "checkpoint", "n"),
)
CLAIMS = (
    *("claim", "kind", "better", "worse", "bench", "difference", "ci_low", "ci_high", "p_value"),
    *("p_adjusted", "paper_difference", "margin", "verdict", "reason", "source"),
    *("p_margin", "p_margin_adjusted"),  # of a difference of just the margin
)
SCORES = ("arm", "seed", "bench", "doc_id", "image_id", "score")
LOSSES = ("arm", "seed", "step", "loss")
