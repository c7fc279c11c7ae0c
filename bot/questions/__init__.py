"""Texts that are no command: which commands answer a question in plain words, by its words or by a model's answer, and
what to type instead of a word that is a command elsewhere, or nearly one. Pure: nothing is asked or run here."""

PUBLIC_MODULES = (
    "model_answer",
    "model_prompt",
    "nearest",
    "other_place",
)
