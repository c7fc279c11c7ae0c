"""Measurements before a run: the ladder and its judge, learning curves, documents, and what is known by now."""
