"""Cards and the form for documents that a team adds to a dataset as knowledge for retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bot.cards.common import forms
from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Headline,
    Lines,
    Message,
    Note,
    Text,
    button,
    code,
    cut,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.forms import modal
from bot.cards.common.words import first_lines, pluralize, shorten
from bot.cards.datasets.datasets import MEASURE
from storage.records import Document
from trainers.documents import (
    MAX_CHARACTERS,
    MAX_PAGES,
    MAX_UNPACKED_BYTES,
    WORDS_A_PASSAGE,
    Trouble,
    Unreadable,
)

DOCUMENT_FORM = "knowledge_form"
KINDS = ("pdf", "docx", "html", "htm", "md", "txt")
SPLIT_IT = "Split it into smaller documents."
OTHER_KIND = "Save it as PDF, Word (.docx), HTML, Markdown (.md) or text (.txt)."
LISTED = 5
TROUBLES: Mapping[Trouble, str] = {
    "damaged": "It is damaged or in an unreadable format. Open it, save it again, and upload the new file.",
    "empty": "It is empty. Choose the file again; it may have been saved before it was filled.",
    "encrypted": "It is locked with a password. Save it without one and upload it again.",
    "no_document": f"It is not a document, whatever its name says. {OTHER_KIND}",
    "no_text": "It has no text. It may be a scan: run text recognition (OCR) in a PDF program and upload the result.",
    "no_word": f"It is a zip archive without a Word document in it. {OTHER_KIND}",
    "not_utf8": "It is not plain text in UTF-8. Save it as UTF-8, PDF or .docx, and upload it again.",
    "old_word": "It is an old Word or Excel file (.doc, .xls). Save it as .docx or PDF and upload it again.",
    "too_big_unpacked": f"It unpacks to more than {MAX_UNPACKED_BYTES // 10**6} MB. Save it without its pictures, "
    "or as plain text.",
    "too_hard": "Reading it took too much time or memory and was stopped. Upload only the chapters that matter, or the "
    "text without pictures.",
    "too_long": f"Its text is longer than {MAX_CHARACTERS // 10**6} million characters. Upload only the chapters that "
    "matter, as separate documents.",
    "too_many_pages": f"It has {{pages}}; the limit is {MAX_PAGES:,}. Upload only the chapters that matter, as "
    "separate documents.",
}


def why_unreadable(unreadable: Unreadable) -> str:
    return TROUBLES[unreadable.trouble].replace("{pages}", pluralize(unreadable.number, "page"))


def passages_text(passages: int) -> str:
    """'37 passages of about 90 words'."""
    return f"{pluralize(passages, 'passage')} of about {WORDS_A_PASSAGE} words"


def document_form(channel: str, dataset: str, documents: Sequence[Document] = ()) -> Block:
    """The upload form. `documents` are those that the dataset has; a new one replaces the one with the same name."""
    blocks: list[CardBlock | Block] = [
        Text(f"For {code(shorten(dataset))}: documents that a person would consult to answer.")
    ]
    lines = []
    for document in reversed(documents):
        passages = pluralize(document.passages or 0, "passage")
        lines.append(f"• {escape(shorten(document.filename))}: {passages}")
    if lines:
        blocks.append(Lines(first_lines(lines, LISTED)))
    blocks.append(forms.file_input("file", "Document: PDF, Word, HTML, Markdown or text", KINDS))
    blocks.append(
        Note(
            "Stored on the machine that runs this bot. Retrieval puts matching passages into prompts, so the models "
            "that you measure see them."
        )
    )
    return modal("Add knowledge", DOCUMENT_FORM, blocks, submit="Add", private=f"{channel} {dataset}")


def document_received(document: Document) -> Message:
    text = f"Reading {escape(shorten(document.filename))} as knowledge for {code(document.dataset)}"
    return Message(text, (Text(f"{text}, uploaded by <@{document.uploaded_by}> …"),))


def document_ready(document: Document) -> Message:
    parts = Parts()
    parts.text(f"Knowledge for {code(document.dataset)}, from <@{document.uploaded_by}>.")
    parts.text("*Next*: measure retrieval, which puts matching passages into each prompt.")
    parts.buttons(button("Measure", MEASURE, document.dataset, style="primary"))
    return parts.titled(f"{shorten(document.filename)} is ready: {passages_text(document.passages or 0)}")


def document_refused(document: Document, why: str) -> Message:
    title = f"{shorten(document.filename)} can't be used"
    parts = Parts()
    parts.add(Headline(title))
    parts.text(escape(cut(why, 2_000)))
    parts.note(f"For {code(document.dataset)}, from <@{document.uploaded_by}>")
    notice = f"{escape(title)}: {escape(cut(why, 900))}"
    return Message(notice, tuple(parts))
