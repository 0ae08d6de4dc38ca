"""Runs methods on models and benchmarks, stores what they cost and how well they answer."""
