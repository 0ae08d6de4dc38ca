"""Instruction tuning at full size: LLaVA-format data, any LLaVA-family model, any method."""
