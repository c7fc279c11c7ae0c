"""Who trains and answers, and what it costs."""

PUBLIC_MODULES = (
    "own_prices",
    "pricing",
    "providers",
)
