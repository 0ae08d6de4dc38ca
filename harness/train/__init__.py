"""Training: `python -m harness.train`: LLaVA-format data, any LLaVA-family model, any method."""
