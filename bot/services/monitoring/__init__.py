"""Watches the calls to what is in use: the card of each week, labels of sampled calls, and what has changed. Quiet and
cheap; nothing here starts a training or switches what is in use."""

PUBLIC_MODULES = (
    "compared_calls",
    "live_labels",
    "live_tests",
    "monthly_measurements",
    "new_models",
    "proposal_measurements",
    "repetitions",
    "unusual_calls",
    "watches",
    "weeks",
)
