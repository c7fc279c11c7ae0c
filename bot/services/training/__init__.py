"""Runs from the approval to the result: created once, followed, measured and reported."""
