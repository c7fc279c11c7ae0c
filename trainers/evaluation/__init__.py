"""Evaluates answers to a frozen holdout: statistics, scoring, prompts, the ladder of candidates and learning curves.
Doesn't ask any model."""
