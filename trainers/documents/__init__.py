"""Reads documents for retrieval (PDF, Word, HTML, Markdown and plain text) and splits them into passages."""

from __future__ import annotations

from trainers.documents.conversion import MAX_PAGES as MAX_PAGES
from trainers.documents.conversion import MAX_UNPACKED_BYTES as MAX_UNPACKED_BYTES
from trainers.documents.reader import MAX_CHARACTERS as MAX_CHARACTERS
from trainers.documents.reader import TEXT_ENDING as TEXT_ENDING
from trainers.documents.reader import WORDS_A_PASSAGE as WORDS_A_PASSAGE
from trainers.documents.reader import Trouble as Trouble
from trainers.documents.reader import Unreadable as Unreadable
from trainers.documents.reader import read_document as read_document
from trainers.documents.reader import split_passages as split_passages
from trainers.documents.reader import store_text as store_text
