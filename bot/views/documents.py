"""Texts that a team gives as knowledge beside a dataset: the form, and what became of each."""

from __future__ import annotations

from collections.abc import Sequence

from bot.views import inputs
from bot.views.blocks import Block, Message, code, context, cut, escape, header, listed, modal, section
from bot.views.words import counted, short
from storage.records import Document, DocumentState

FORM = "knowledge_form"
KINDS = ("txt", "md")
STATES: dict[DocumentState, str] = {"received": "is being read", "ready": "ready", "refused": "can't be used"}


def form(channel: str, dataset: str) -> Block:
    blocks = [
        section(f"For {code(short(dataset))}: what a person would look up to answer."),
        inputs.file("file", "Document: plain text or Markdown", KINDS),
        context(
            "It stays on the machine that runs this bot. When alternatives are measured with retrieval, the "
            "passages that fit a question go into its prompt, and with it to the models that you choose there."
        ),
    ]
    return modal("Add knowledge", FORM, blocks, submit="Add", private=f"{channel} {dataset}")


def received(document: Document) -> Message:
    text = f"Reading {escape(short(document.filename))} as knowledge for {code(document.dataset)}"
    return Message(text, (section(f"{text}, handed over by <@{document.uploaded_by}> …"),))


def ready(document: Document) -> Message:
    title = f"{short(document.filename)} is ready: {counted(document.passages or 0, 'passage')}"
    next_step = f"{code(f'/finetune baseline {short(document.dataset)}')} measures retrieval with it."
    said = f"Knowledge for {code(document.dataset)}, from <@{document.uploaded_by}>."
    return Message(escape(title), (header(title), section(said), section(f"*Next*: {next_step}")))


def refused(document: Document, why: str) -> Message:
    title = f"{short(document.filename)} can't be used"
    said = (
        section(escape(cut(why, 2_000))),
        context(f"For {code(document.dataset)}, from <@{document.uploaded_by}>"),
    )
    return Message(f"{escape(title)}: {escape(cut(why, 900))}", (header(title), *said))


def listing(dataset: str, documents: Sequence[Document]) -> Message:
    if not documents:
        text = f"{code(short(dataset))} has no documents. The form adds one."
        return Message(text, (section(text),))
    title = f"{counted(len(documents), 'document')} for {short(dataset)}"
    return Message(escape(title), (header(title), listed([_line(document) for document in documents])))


def _line(document: Document) -> str:
    why = f". {escape(cut(document.refusal, 200))}" if document.refusal else ""
    passages = f", {counted(document.passages, 'passage')}" if document.passages else ""
    return f"• {escape(short(document.filename))}: {STATES[document.state]}{passages}{why}"
