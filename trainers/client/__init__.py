"""Calls to a trainer: OpenAI's fine-tuning API, and the dialects of vendors whose API is another."""

PUBLIC_MODULES = (
    "calls",
    "client",
    "dialects",
    "payloads",
    "uploads",
    "vendor_bills",
)
