"""Documents that a team gives as knowledge beside a dataset: recorded at once, then fetched and read by the ticks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from bot import logs
from bot.results import Refusal
from bot.views import documents as views
from bot.views.blocks import Message, code
from bot.work import climbing
from bot.workflows import datasets, permits
from bot.workflows.desk import Desk, FetchLater
from storage.documents import NewDocument
from storage.records import Document, Draft

MAX_BYTES = 5_000_000
KINDS = (".txt", ".md")
TRIES = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Handed:
    """What a person put into the form."""

    dataset: str
    channel: str
    person: str
    file_id: str
    filename: str


def may_give(desk: Desk, dataset: str, person: str, channel: str) -> Refusal | None:
    """Before the form opens, and when it is sent. Documents come from the dataset's own channel, as its rows do: rules
    about data go by that channel, and nobody else puts words into its prompts."""
    checked = datasets.ready(desk, dataset, person, channel, is_posted=True)
    if isinstance(checked, Refusal):
        return checked
    owner = checked.dataset.owner
    if owner != channel:
        return Refusal(f"{code(dataset)} belongs to <#{owner}>: give documents for it there.")
    return None


def receive(desk: Desk, handed: Handed) -> Document | Refusal:
    refused = permits.may(desk, handed.person, "upload", handed.channel)
    refused = refused or may_give(desk, handed.dataset, handed.person, handed.channel)
    if refused:
        return refused
    if not handed.filename.lower().endswith(KINDS):
        return Refusal("Plain text or Markdown is read (.txt, .md): save the document as one of them.")
    now = desk.clock()
    with desk.store.transaction():
        document = desk.store.documents.receive(
            NewDocument(handed.dataset, handed.filename, handed.file_id, handed.channel, handed.person),
            now=now,
        )
        subject = f"document {document.id}"
        desk.store.audit.add(at=now, who=handed.person, action="knowledge", subject=subject)
        _show(desk, document, views.received(document))
    return document


def step(desk: Desk, document: Document) -> None:
    """Fetch it, then count its passages. The file stays under its sha256."""
    if document.sha256 is None:
        _fetch(desk, document)
    else:
        _read(desk, document, desk.settings.files / document.sha256)


def after_trouble(desk: Desk, document: Document) -> None:
    _again_or_refuse(desk, document, f"something in the bot went wrong. {logs.sorry()}")


def _fetch(desk: Desk, document: Document) -> None:
    try:
        fetched = desk.files.fetch(document.source, desk.settings.files, MAX_BYTES)
    except FetchLater as trouble:
        _again_or_refuse(desk, document, str(trouble))
        return
    if isinstance(fetched, Refusal):
        _refuse(desk, document, fetched.text)
        return
    desk.store.documents.move(
        document, "received", now=desk.clock(), sha256=fetched.sha256, tries=0, next_at=0
    )


def _read(desk: Desk, document: Document, path: Path) -> None:
    passages = desk.workers.poll(f"document {document.id}", climbing.count_passages, path)
    if passages is None:
        return
    if isinstance(passages, Refusal):
        _refuse(desk, document, passages.text)
        return
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.documents.move(document, "ready", now=now, passages=passages)
        if moved:
            _show(desk, moved, views.ready(moved))


def _again_or_refuse(desk: Desk, document: Document, trouble: str) -> None:
    now = desk.clock()
    if document.tries + 1 >= TRIES:
        _refuse(desk, document, f"Gave up after {TRIES} tries: {trouble}.")
        return
    pause = min(2**document.tries, 120)
    desk.store.documents.move(document, "received", now=now, tries=document.tries + 1, next_at=now + pause)


def _refuse(desk: Desk, document: Document, why: str) -> None:
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.documents.move(document, "refused", now=now, refusal=why)
        if moved:
            _show(desk, moved, views.refused(moved, why))


def _show(desk: Desk, document: Document, message: Message) -> None:
    card = f"document {document.id}"
    is_first = document.state == "received"
    draft = Draft(
        kind="post" if is_first else "edit",
        channel=document.channel,
        body=message.letter(),
        card=card,
        dedupe=card if is_first else None,
        concerns=document.uploaded_by,
    )
    desk.store.outbox.put(draft, now=desk.clock())
