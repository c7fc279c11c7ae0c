"""Documents that retrieval looks things up in, as passages: PDF, Word, HTML, Markdown and plain text."""

from __future__ import annotations

from trainers.documents.conversion import MOST_PAGES, MOST_UNPACKED
from trainers.documents.reader import (
    MOST_CHARACTERS,
    TEXT_ENDING,
    WORDS_A_PASSAGE,
    Trouble,
    Unreadable,
    passages_of,
    read_document,
    store_text,
)

__all__ = [
    "MOST_CHARACTERS",
    "MOST_PAGES",
    "MOST_UNPACKED",
    "TEXT_ENDING",
    "WORDS_A_PASSAGE",
    "Trouble",
    "Unreadable",
    "passages_of",
    "read_document",
    "store_text",
]
