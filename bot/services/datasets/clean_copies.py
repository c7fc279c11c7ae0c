"""Writes a cleaned copy of a dataset's file for a person: the click is recorded, and later ticks write and post the
copy.

The copy holds customers' words, so it is deleted once it is sent. Where it may go is decided again when it is written;
the sender asks once more who reads there, because the channel may have become public since.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from bot import logs
from bot.cards.common.general import text_message
from bot.cards.datasets import findings as views
from bot.cards.datasets import traces
from bot.context import AppContext
from bot.rules.data_policy import RowDelivery
from bot.services.common import authorization
from bot.services.datasets import datasets, traced_questions
from bot.services.datasets.traced_questions import QuestionTable
from bot.values.runs import Refusal
from bot.worker_pool import WorkerStopped
from storage.records import Cleaning, Dataset, Draft
from trainers.dataset import Columns
from trainers.dataset.clean_copy import CleanedFile, CleaningRefusal, clean

log = logging.getLogger(__name__)


def request(context: AppContext, dataset_id: int, person: str) -> str | Refusal:
    """Records the request. Returns the text for the person who clicked."""
    dataset = context.store.datasets.get(dataset_id)
    if dataset.sha256 is None:
        return Refusal("The file was deleted, so it can't be cleaned any more. Upload it again.")
    delivery = _delivery(context, dataset, person)
    if isinstance(delivery, Refusal):
        return delivery
    now = context.clock()
    with context.store.transaction():
        if context.store.cleanings.ask(dataset.id, person, now=now) is None:
            return Refusal(views.cleaning_waits(dataset))
        context.audit(person, "ask cleaned", f"dataset {dataset.id}")
    path = context.settings.files / dataset.sha256
    is_traced = path.is_file() and traced_questions.is_traced(path)
    return views.cleaning_started(dataset, delivery, is_traced=is_traced)


def step(context: AppContext, cleaning: Cleaning) -> None:
    """Has a worker process write the copy, then posts it or tells the person why not."""
    dataset = context.store.datasets.get(cleaning.dataset_id)
    path = context.settings.files / str(dataset.sha256)
    columns = datasets.columns_of(dataset)
    out = _folder(context) / f"writing-{cleaning.id}"
    try:
        written = context.workers.poll(f"clean {cleaning.id}", write, path, dataset.filename, columns, out)
    except WorkerStopped as stopped:
        written = CleaningRefusal(f"Writing it {stopped}.")
    except Exception as error:
        # Whatever the cleaner raises in its process is raised here. Without an answer, the request would wait forever.
        log.exception("cleaning dataset %s", dataset.id)
        written = CleaningRefusal(f"Writing it stopped with {type(error).__name__}. {logs.sorry()}")
    if written is not None:
        _finish(context, cleaning, dataset, written)


def write(
    path: Path, name: str, columns: Columns, out: Path
) -> CleanedFile | QuestionTable | CleaningRefusal:
    """Writes the copy at `out`, in a worker, then renames it to its sha256. Deletes a file that a killed worker left
    half written first. Of recorded calls it is a table of their questions."""
    out.parent.mkdir(exist_ok=True)
    out.unlink(missing_ok=True)
    written = traced_questions.write_table(path, name, out) or clean(path, name, columns, out)
    if isinstance(written, Refusal):
        return CleaningRefusal(written.text)
    if isinstance(written, CleaningRefusal):
        return written
    with out.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(written, out=out.replace(out.with_name(digest)))


def tidy(context: AppContext) -> None:
    """Deletes cleaned files that are not waiting to be sent. Does nothing while one is being written."""
    if context.store.cleanings.waiting():
        return
    still_to_send = context.store.outbox.files()
    for path in _folder(context).glob("*"):
        if str(path) not in still_to_send:
            path.unlink(missing_ok=True)


def _folder(context: AppContext) -> Path:
    return context.settings.data / "cleaned"


def _finish(
    context: AppContext,
    cleaning: Cleaning,
    dataset: Dataset,
    written: CleanedFile | QuestionTable | CleaningRefusal,
) -> None:
    # Looked up again: the person may have left the channel while the copy was written.
    delivery = _delivery(context, dataset, cleaning.person)
    with context.store.transaction():
        if not context.store.cleanings.finish(cleaning):
            return
        if isinstance(delivery, Refusal):
            _tell(context, cleaning, dataset, delivery.text)
        elif isinstance(written, CleaningRefusal):
            _tell(context, cleaning, dataset, views.not_cleaned(dataset, written))
        else:
            context.send(_draft(cleaning, dataset, written, delivery))


def _draft(
    cleaning: Cleaning, dataset: Dataset, written: CleanedFile | QuestionTable, delivery: RowDelivery
) -> Draft:
    draft = Draft(
        kind="file",
        channel=dataset.channel,
        body={"file": str(written.out), **_words(dataset, written)},
        dedupe=f"cleaned {cleaning.id} of dataset {dataset.id}",
        private=True,
        topic="answers",
    )
    if delivery == "thread":
        return replace(draft, thread=f"dataset {dataset.id}", concerns=cleaning.person)
    return replace(draft, person=cleaning.person)


def _words(dataset: Dataset, written: CleanedFile | QuestionTable) -> dict[str, str]:
    if isinstance(written, QuestionTable):
        return {
            "filename": traces.table_filename(dataset),
            "title": traces.table_title(dataset),
            "initial_comment": traces.table_summary(dataset, written.rows, written.formulas),
        }
    return {
        "filename": views.cleaned_filename(dataset, written),
        "title": views.cleaned_title(dataset),
        "initial_comment": views.cleaned_summary(dataset, written),
    }


def _tell(context: AppContext, cleaning: Cleaning, dataset: Dataset, text: str) -> None:
    body = text_message(text).body()
    context.send(Draft("direct", dataset.channel, body, person=cleaning.person, topic="answers"))


def _delivery(context: AppContext, dataset: Dataset, person: str) -> RowDelivery | Refusal:
    """Returns where the copy may be posted, or why it may not be posted at all."""
    refusal = authorization.refusal(context, person, "read", dataset.channel)
    if refusal:
        return refusal
    delivery = authorization.row_delivery(context, dataset, person)
    if delivery == "thread" or delivery == "direct":
        return delivery
    return Refusal(views.not_delivered(dataset, delivery))
