"""Frozen values that every layer reads: the plans, progress and results of runs, evaluations and learning curves."""
