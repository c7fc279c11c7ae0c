"""Who trains and answers, and what it costs."""

PUBLIC_MODULES = (
    "pricing",
    "providers",
)
