"""Evaluates answers to a frozen holdout: statistics, scoring, prompts, the comparison of candidates and learning
curves. Doesn't ask any model."""
