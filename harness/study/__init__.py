"""Ablation studies: train every arm with several seeds, evaluate, and judge the papers' claims."""
