"""Runs from the approval to the result: created once, followed, measured and reported."""

PUBLIC_MODULES = (
    "compared_results",
    "interventions",
    "orphan_jobs",
    "reports",
    "run_results",
    "runs",
    "training",
    "vendor_bills",
)
