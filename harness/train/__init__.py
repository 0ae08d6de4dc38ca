"""Training: `python -m harness.train` (vision tower pretraining and instruction tuning)."""
