"""Frozen values that every layer reads: what runs, evaluations and learning curves were asked to do, how far
they are and what came out."""
