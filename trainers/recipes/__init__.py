"""What answers a program that calls team/NAME: a candidate as it was measured, frozen when it was promoted. Asks no
model."""

PUBLIC_MODULES = (
    "calibration",
    "canary_events",
    "classical",
    "encoder",
    "export",
    "feedback",
    "folder",
    "free",
    "frozen",
    "library",
    "placeholders",
    "prompts",
    "samples",
    "shadow_answers",
    "usage",
    "values",
)
