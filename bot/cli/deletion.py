"""Deletes a dataset, or rows of it, for `finetune forget` while the bot is stopped, and lists and removes documents for
`finetune knowledge`. The bot tells the channel later."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from bot.cards.common.words import OPERATOR
from bot.cards.datasets import dataset_deletion as views
from bot.cards.datasets.documents import DocumentEntry, removal_question
from bot.cli.models import context_without_slack, stopped_bot
from bot.context import AppContext
from bot.embedded_trainer import EmbeddedTrainer, with_trainer_address
from bot.rules.units import day_of
from bot.services import dataset_deletion, deletion_scope, document_removal
from bot.services.datasets import row_deletion
from bot.settings import Settings
from bot.values.requests import Delete
from bot.values.runs import Refusal
from storage.backup import open_copy
from storage.store import Store
from trainers.dataset.rows import to_printable

# The deletion is recorded by then, so a running bot does what is left.
PATIENCE_S = 60.0


def delete_dataset(settings: Settings, command: Delete, confirm: Callable[[str], bool]) -> str | Refusal:
    """Deletes a dataset and returns the outcome as a sentence. Raises StorageError, for instance if the bot is
    running."""
    if not settings.database.exists():
        return Refusal(f"There is no database at {settings.database}, so there is nothing to delete.")
    with _open_context(settings) as context:
        scope = deletion_scope.find_scope(context, command)
        if isinstance(scope, Refusal):
            return scope
        if not confirm(views.deletion_question(scope)):
            return Refusal("Nothing was deleted.")
        deletion = dataset_deletion.record(context, command, OPERATOR, None)
        if isinstance(deletion, Refusal):
            return deletion
        return _carry_out(context, deletion.id, scope.title)


def delete_rows(
    settings: Settings, dataset: str, lines: Collection[int], confirm: Callable[[str], bool]
) -> str | Refusal:
    """Deletes the rows at these lines of the newest usable version's file, and all rows that ask the same. Raises
    StorageError."""
    if not settings.database.exists():
        return Refusal(f"There is no database at {settings.database}, so there is nothing to delete.")
    with _open_context(settings) as context:
        scope = deletion_scope.find_scope(context, Delete(dataset), keeps_rest=True)
        if isinstance(scope, Refusal):
            return scope
        if context.store.deletions.of(dataset):  # the line numbers belong to a version that is being deleted
            return Refusal(
                f"{dataset} is already being deleted. Start the bot, which finishes that, and try again."
            )
        try:
            # Before the question, which says how many rows ask the same and how many are held out.
            new = row_deletion.rewrite_without_rows(context, dataset, lines)
            if isinstance(new, Refusal):
                return new
            if not confirm(
                views.row_deletion_question(scope, new.before.version, new.rows, new.rows_held_out)
            ):
                return Refusal("Nothing was deleted.")
            deletion = dataset_deletion.commit_rewrite(context, new, OPERATOR)
            if isinstance(deletion, Refusal):
                return deletion
            return _carry_out(context, deletion.id, f"Each earlier version of {dataset}")
        finally:
            # A deletion that is recorded and unfinished may still need the new version's files.
            if not context.store.deletions.of(dataset):
                row_deletion.discard_rewrite(context, dataset)


def list_documents(settings: Settings, dataset: str) -> list[DocumentEntry]:
    """Returns the documents of a dataset. Raises StorageError."""
    # A copy, as a running bot has the database open.
    with open_copy(settings.database) as store, context_without_slack(settings, store) as context:
        return document_removal.list_entries(context, dataset)


def remove_document(dataset: str, name: str, confirm: Callable[[str], bool]) -> str | Refusal:
    """Removes the document of this name and returns the outcome as a sentence. Exits if the bot is running."""
    with stopped_bot("/finetune knowledge in Slack does the same") as context:
        entries = document_removal.list_entries(context, dataset)
        entry = next((each for each in entries if each.document.filename == name), None)
        if entry is None:
            existing = ", ".join(each.document.filename for each in entries) or "none"
            return Refusal(f"{dataset} has no document named {name}. It has: {existing}.")
        if not confirm(f"Remove {name}? {removal_question(entry)}"):
            return Refusal("Nothing was removed.")
        refusal = document_removal.remove_document(context, entry.document, OPERATOR)
        return refusal or f"{name} is removed. Once the bot runs, it says so in the channel."


def document_line(entry: DocumentEntry) -> str:
    document = entry.document
    text = (
        f"{to_printable(document.filename, 200)}: {document.passages or 0} passages, {entry.size:,} bytes, "
        f"from {document.uploaded_by} on {day_of(document.created_at)}"
    )
    measured = ", ".join(f"m{number}" for number in entry.use.measured_in)
    if measured:
        text += f"; measured in {measured}"
    if entry.use.is_promoted:
        text += "; in use"
    return text


def document_json(entry: DocumentEntry) -> dict[str, Any]:
    document = entry.document
    return {
        "name": document.filename,
        "bytes": entry.size,
        "passages": document.passages,
        "person": document.uploaded_by,
        "at": document.created_at,
        "measured_in": list(entry.use.measured_in),
        "is_in_use": entry.use.is_promoted,
    }


def _carry_out(context: AppContext, number: int, title: str) -> str:
    """Carries out deletion `number` and returns the outcome as a sentence."""
    until = time.monotonic() + PATIENCE_S
    while waiting := [deletion for deletion in context.store.deletions.open() if deletion.id == number]:
        if time.monotonic() > until:
            return (
                f"{title} is deleted from the data folder. A trainer does not answer: once the bot runs, it tries "
                "again, and says in the channel what is left there."
            )
        dataset_deletion.step(context, waiting[0])
        time.sleep(0.2)
    context.store.wipes.wipe()  # nobody waits for the database while the bot is stopped
    return f"{title} is deleted. Once the bot runs, it says so in the channel, with anything that is left elsewhere."


@contextmanager
def _open_context(settings: Settings) -> Iterator[AppContext]:
    store = Store(settings.database)
    trainer = settings.trainer
    # Without jobs there is nothing to delete at our own trainer, so it is not started.
    ours = [row.name for row in settings.providers if row.is_started_by_us]
    has_jobs = any(store.runs.keys_at(name) for name in ours)
    embedded = None
    if has_jobs:
        data = settings.data / "trainer"
        embedded = EmbeddedTrainer(data, trainer.models, trainer.port, trainer.slots, trainer.arguments)
        settings = with_trainer_address(settings, embedded)
    try:
        if embedded:
            embedded.start()
        with context_without_slack(settings, store, embedded) as context:
            yield context
    finally:
        if embedded:
            embedded.stop()
        store.close()
