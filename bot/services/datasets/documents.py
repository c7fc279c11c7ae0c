"""Documents that retrieval searches, uploaded for a dataset. An upload is recorded at once; the ticks fetch it and have
a worker read it, which converts it in a child process with limits on memory and time."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from bot import logs
from bot.cards.common.blocks import Message, code
from bot.cards.datasets import documents as views
from bot.context import AppContext, FetchLater
from bot.services.common import authorization
from bot.services.datasets import dataset_worker, datasets
from bot.values.runs import Refusal
from bot.worker_pool import WorkerStopped
from storage.datasets import NewDocument
from storage.records import Document

MAX_BYTES = 20_000_000
TRIES = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DocumentUpload:
    """What a person entered in the form."""

    dataset: str
    channel: str
    person: str
    file_id: str
    filename: str


def may_upload(context: AppContext, dataset: str, person: str, channel: str) -> Refusal | None:
    """Returns why documents can't be uploaded for this dataset here, None if they can. Checked before the form opens,
    and again when it is submitted.

    Documents must come from the dataset's own channel: the rules about data go by that channel, and people outside it
    must not be able to put text into the dataset's prompts.
    """
    checked = datasets.load_usable(context, dataset, person, channel, is_posted=True)
    if isinstance(checked, Refusal):
        return checked
    owner = checked.dataset.owner
    if owner != channel:
        return Refusal(f"{code(dataset)} belongs to <#{owner}>: upload its documents there.")
    return None


def list_usable(context: AppContext, dataset: str) -> list[Document]:
    """Returns the documents that retrieval searches, the newest one of each file name."""
    return context.store.documents.ready(dataset)


def receive(context: AppContext, upload: DocumentUpload) -> Document | Refusal:
    """Records an upload and posts its card in the channel; the ticks do the rest."""
    refusal = authorization.refusal(context, upload.person, "upload", upload.channel)
    if refusal is None:
        refusal = may_upload(context, upload.dataset, upload.person, upload.channel)
    if refusal:
        return refusal
    kind = Path(upload.filename.lower()).suffix[1:]
    if kind not in views.KINDS:
        return Refusal(views.OTHER_KIND)
    new = NewDocument(upload.dataset, upload.filename, upload.file_id, upload.channel, upload.person)
    with context.store.transaction():
        document = context.store.documents.receive(new, now=context.clock())
        subject = f"document {document.id}"
        context.audit(upload.person, "knowledge", subject, f"for dataset {upload.dataset}")
        _show(context, document, views.document_received(document))
    return document


def step(context: AppContext, document: Document) -> None:
    """Takes a document one step further: fetches its file, which is stored under its sha256, then has it read."""
    if document.sha256 is None:
        _fetch(context, document)
    else:
        _read(context, document, document.sha256)


def _fetch(context: AppContext, document: Document) -> None:
    try:
        file = context.files.fetch(document.source, context.settings.files, MAX_BYTES)
    except FetchLater as trouble:
        _retry_or_refuse(context, document, str(trouble))
        return
    if isinstance(file, Refusal):
        _refuse(context, document, file.text)
        return
    changes = {"sha256": file.sha256, "tries": 0, "next_at": 0}
    context.store.documents.move(document, "received", now=context.clock(), **changes)


def _read(context: AppContext, document: Document, sha256: str) -> None:
    path = context.settings.files / sha256
    try:
        work = f"document {document.id}"
        passages = context.workers.poll(work, dataset_worker.read_passages, path)
    except WorkerStopped as stopped:
        # A document that takes too long will take as long again; a worker that died may have been killed by chance.
        if stopped.is_late:
            _refuse(context, document, f"Reading it {stopped}. {views.SPLIT_IT}")
        else:
            _retry_or_refuse(context, document, f"reading it {stopped}")
        return
    if passages is None:
        return
    if isinstance(passages, Refusal):
        _refuse(context, document, passages.text)
        return
    now = context.clock()
    with context.store.transaction():
        replaced = _replaced_text(context, document)  # before the move, which makes this one usable
        moved = context.store.documents.move(document, "ready", now=now, passages=passages)
        if moved:
            context.audit("finetune", "document ready", f"document {document.id}", replaced)
            _show(context, moved, views.document_ready(moved))


def _replaced_text(context: AppContext, document: Document) -> str:
    """Says in the audit log which document a new one of the same name takes the place of."""
    for older in list_usable(context, document.dataset):
        if older.filename == document.filename:
            return f"replaces document {older.id}"
    return ""


def handle_step_failure(context: AppContext, document: Document) -> None:
    _retry_or_refuse(context, document, f"something in the bot went wrong. {logs.sorry()}")


def _retry_or_refuse(context: AppContext, document: Document, trouble: str) -> None:
    tries = document.tries + 1
    if tries >= TRIES:
        _refuse(context, document, f"Gave up after {TRIES} attempts: {trouble}.")
        return
    now = context.clock()
    pause = min(2**document.tries, 120)
    next_at = now + pause
    context.store.documents.move(document, "received", now=now, tries=tries, next_at=next_at)


def _refuse(context: AppContext, document: Document, why: str) -> None:
    now = context.clock()
    with context.store.transaction():
        moved = context.store.documents.move(document, "refused", now=now, refusal=why)
        if moved:
            context.audit("finetune", "document refused", f"document {document.id}")
            _show(context, moved, views.document_refused(moved, why))


def _show(context: AppContext, document: Document, message: Message) -> None:
    context.show(f"document {document.id}", document.channel, message, concerns=document.uploaded_by)
