"""Benchmarks: lmms-eval's tasks, data and scores, and the loop that answers a cell's documents."""
