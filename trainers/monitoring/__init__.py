"""Whether what is in use still holds: live accuracy, shift of the calls, and tests of a candidate on live calls. Pure
statistics: it reads no file and asks no model."""

PUBLIC_MODULES = (
    "changed_words",
    "live_accuracy",
    "shift",
    "switch_tests",
)
