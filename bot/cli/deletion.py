"""Deletes a dataset, or rows of it, for `finetune forget` while the bot is stopped. The bot tells the channel later."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bot.app import build_trainers
from bot.cards.datasets import dataset_deletion as views
from bot.embedded_trainer import EmbeddedTrainer, with_trainer_address
from bot.services import dataset_deletion
from bot.services.datasets import row_deletion
from bot.settings import Settings
from bot.values.requests import Delete
from bot.values.runs import Refusal
from storage.store import Store
from trainers.client.client import Trainer

PERSON = "terminal"
# The deletion is recorded by then, so a running bot does what is left.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class DeletionContext:
    settings: Settings
    store: Store
    trainers: Mapping[str, Trainer]
    clock: Callable[[], float] = time.time

    def audit(self, who: str, action: str, subject: str, detail: str = "") -> None:
        self.store.audit.add(at=self.clock(), who=who, action=action, subject=subject, detail=detail)


def delete_dataset(settings: Settings, command: Delete, confirm: Callable[[str], bool]) -> str | Refusal:
    """Deletes a dataset and returns the outcome as a sentence. Raises StorageError, for instance if the bot is
    running."""
    if not settings.database.exists():
        return Refusal(f"There is no database at {settings.database}, so there is nothing to delete.")
    with _open_context(settings) as context:
        scope = dataset_deletion.find_scope(context, command)
        if isinstance(scope, Refusal):
            return scope
        if not confirm(views.deletion_question(scope)):
            return Refusal("Nothing was deleted.")
        deletion = dataset_deletion.record(context, command, PERSON, None)
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
        scope = dataset_deletion.find_scope(context, Delete(dataset), keeps_rest=True)
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
            deletion = dataset_deletion.commit_rewrite(context, new, PERSON)
            if isinstance(deletion, Refusal):
                return deletion
            return _carry_out(context, deletion.id, f"Each earlier version of {dataset}")
        finally:
            # A deletion that is recorded and unfinished may still need the new version's files.
            if not context.store.deletions.of(dataset):
                row_deletion.discard_rewrite(context, dataset)


def open_stored(settings: Settings, store: Store) -> DeletionContext:
    """Returns what services need for work that asks no trainer."""
    return DeletionContext(settings, store, {})


def _carry_out(context: DeletionContext, number: int, title: str) -> str:
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
def _open_context(settings: Settings) -> Iterator[DeletionContext]:
    store = Store(settings.database)
    trainer = settings.trainer
    # Without jobs there is nothing to delete at our own trainer, so it is not started.
    has_jobs = any(row.is_started_by_us and store.runs.keys_at(row.name) for row in settings.providers)
    embedded = None
    if has_jobs:
        data = settings.data / "trainer"
        embedded = EmbeddedTrainer(data, trainer.models, trainer.port, trainer.slots, trainer.arguments)
        settings = with_trainer_address(settings, embedded)
    try:
        if embedded:
            embedded.start()
        yield DeletionContext(settings, store, build_trainers(settings, embedded))
    finally:
        if embedded:
            embedded.stop()
        store.close()
