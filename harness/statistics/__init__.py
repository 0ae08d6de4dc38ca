"""Intervals, paired tests, power, joint tables. Torch-free."""
