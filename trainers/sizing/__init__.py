"""Estimates a training before it starts: parameters, memory, fitting hardware, and time. Pure, without torch."""

PUBLIC_MODULES = (
    "architecture",
    "encoders",
    "hardware",
    "memory",
    "training_time",
)
