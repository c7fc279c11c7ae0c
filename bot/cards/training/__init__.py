"""Cards of runs, their results and their reports."""
