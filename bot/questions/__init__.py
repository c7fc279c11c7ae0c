"""Texts that are no command: which commands answer a question in plain words, and what to type instead of a word that
is a command elsewhere, or nearly one. Pure: no model is asked, and nothing runs."""

PUBLIC_MODULES = (
    "nearest",
    "other_place",
)
