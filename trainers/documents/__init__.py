"""Documents that retrieval looks things up in, as passages: PDF, Word, HTML, Markdown and plain text."""

from __future__ import annotations

from trainers.documents.conversion import MOST_PAGES as MOST_PAGES
from trainers.documents.conversion import MOST_UNPACKED as MOST_UNPACKED
from trainers.documents.reader import MOST_CHARACTERS as MOST_CHARACTERS
from trainers.documents.reader import TEXT_ENDING as TEXT_ENDING
from trainers.documents.reader import WORDS_A_PASSAGE as WORDS_A_PASSAGE
from trainers.documents.reader import Trouble as Trouble
from trainers.documents.reader import Unreadable as Unreadable
from trainers.documents.reader import passages_of as passages_of
from trainers.documents.reader import read_document as read_document
from trainers.documents.reader import store_text as store_text
