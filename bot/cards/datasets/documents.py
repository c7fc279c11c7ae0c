"""Cards and the form for documents that a team adds to a dataset as knowledge for retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bot.cards.common import forms
from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Headline,
    Message,
    Note,
    Text,
    button,
    code,
    confirm,
    cut,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.forms import modal
from bot.cards.common.words import day, listed, mention, pluralize, shorten
from bot.cards.datasets.datasets import MEASURE
from bot.rules.models.promotion import alias_for
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
REMOVE = "remove_document"
LISTED = 20
SHOWN_MEASUREMENTS = 4
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


@dataclass(frozen=True)
class DocumentUse:
    """What used a document: the numbers of finished measurements, newest first, and that of one that is `running`, 0 if
    none is. `is_promoted`: what is in use retrieves from it, and is taken out of use with it; `is_being_promoted` until
    programs get it."""

    measured_in: tuple[int, ...] = ()
    running: int = 0
    is_promoted: bool = False
    is_being_promoted: bool = False


@dataclass(frozen=True)
class DocumentEntry:
    """A document in a list; `size` is in bytes."""

    document: Document
    size: int
    use: DocumentUse


def document_form(channel: str, dataset: str, entries: Sequence[DocumentEntry] = ()) -> Block:
    """Lists the dataset's documents with a button to remove each, and takes another one, which replaces the one of the
    same name. `entries` are newest first."""
    blocks: list[CardBlock | Block] = [
        Text(f"For {code(shorten(dataset))}: documents that a person would consult to answer.")
    ]
    blocks += [Text(entry_text(entry), _remove_button(entry)) for entry in entries[:LISTED]]
    left_out = len(entries) - LISTED
    if left_out > 0:
        blocks.append(
            Note(f"And {left_out:,} more: {code(f'finetune knowledge {dataset}')} lists all in a terminal.")
        )
    blocks.append(forms.file_input("file", "Document: PDF, Word, HTML, Markdown or text", KINDS))
    blocks.append(
        Note(
            "Stored on the machine that runs this bot. Retrieval puts matching passages into prompts, so the models "
            "that you measure see them."
        )
    )
    return modal("Add knowledge", DOCUMENT_FORM, blocks, submit="Add", private=f"{channel} {dataset}")


def entry_text(entry: DocumentEntry) -> str:
    """A document's name, size and passages, who added it when, and what was measured with it."""
    document = entry.document
    size = f"{max(round(entry.size / 1000), 1):,} kB"
    text = (
        f"*{escape(shorten(document.filename))}*: {pluralize(document.passages or 0, 'passage')}, {size}, from "
        f"<@{document.uploaded_by}> on {day(document.created_at)}"
    )
    if entry.use.measured_in:
        text += (
            f"; measured in {listed([f'm{number}' for number in entry.use.measured_in], SHOWN_MEASUREMENTS)}"
        )
    if entry.use.is_promoted:
        text += "; *in use*"
    return text


def removal_question(entry: DocumentEntry) -> str:
    """What removing it changes; plain text of at most 300 characters."""
    text = "Its file and text are deleted, in all versions of this name; later measurements do without it."
    if entry.use.measured_in:
        text += " Scores that were measured with it stay."
    if entry.use.is_promoted:
        text += " What is in use answers from it, so it is taken out of use: programs then get an error."
    return text


def _remove_button(entry: DocumentEntry) -> Block:
    sure = confirm(
        f"Remove {shorten(entry.document.filename, 60)}?", removal_question(entry), "Remove", "Keep it"
    )
    return button("Remove", REMOVE, str(entry.document.id), style="danger", confirm=sure)


def document_removed(document: Document, person: str, use: DocumentUse) -> Message:
    parts = Parts()
    parts.text(
        f"{mention(person)} removed it from the knowledge of {code(document.dataset)}. Retrieval no longer searches it."
    )
    if use.measured_in:
        numbers = listed([f"m{number}" for number in use.measured_in], SHOWN_MEASUREMENTS)
        parts.text(f"Scores of {numbers} were measured with it and stay; a new measurement does without it.")
    if use.is_promoted:
        parts.text(
            f"*Taken out of use*: what answered programs as {code(alias_for(document.dataset))} looked things up in "
            "it. They get an error until something else is deployed. "
            f"{code(f'/finetune baseline {document.dataset}')} measures candidates for that."
        )
    return parts.titled(f"{shorten(document.filename)} was removed")


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
