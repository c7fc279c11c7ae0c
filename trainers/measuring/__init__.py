"""Measures alternatives on one frozen holdout: rungs 0 to 3 of the ladder, and whether more data is worth it."""
