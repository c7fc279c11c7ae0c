"""A cleaned copy of a dataset's file, for who asks: the click is recorded, a later tick writes and posts it.

It holds customers' words, so it is named by its content, and deleted once it is sent. Where it may go is asked again
when it is posted: the channel may have been opened since.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from bot import logs
from bot.decisions.approval import Denied
from bot.decisions.sharing import Place, place_of_rows
from bot.results import Refusal
from bot.views import cleaning as views
from bot.views.general import sentence
from bot.workers import Stopped
from bot.workflows import permits, sharing
from bot.workflows.desk import Desk
from storage.records import Cleaning, Dataset, Draft
from trainers.dataset import Columns
from trainers.dataset.cleaning import Cleaned, NotCleaned, clean

log = logging.getLogger(__name__)


def ask(desk: Desk, dataset_id: int, person: str) -> str | Refusal:
    """What the person who clicked reads."""
    dataset = desk.store.datasets.get(dataset_id)
    if dataset.sha256 is None:
        return Refusal("The file was deleted, so it can't be cleaned any more. Upload it again.")
    place = _place(desk, dataset, person)
    if isinstance(place, Denied):
        return Refusal(place.reason)
    now = desk.clock()
    with desk.store.transaction():
        if desk.store.cleanings.ask(dataset.id, person, now=now) is None:
            return Refusal(views.waits(dataset))
        desk.store.audit.add(at=now, who=person, action="ask cleaned", subject=f"dataset {dataset.id}")
    return views.coming(dataset, place)


def step(desk: Desk, cleaning: Cleaning) -> None:
    """Written by a worker process; then it is posted, or the person is told why not."""
    dataset = desk.store.datasets.get(cleaning.dataset_id)
    try:
        written = desk.workers.poll(
            f"clean {cleaning.id}",
            write,
            desk.settings.files / str(dataset.sha256),
            dataset.filename,
            Columns(dataset.text_column, dataset.label_column),
            _folder(desk) / f"writing-{cleaning.id}",
        )
    except Stopped as stopped:
        written = NotCleaned(f"Writing it {stopped}.")
    except Exception as error:
        # the cleaner met something that it should have answered with a sentence; the wish must not hang
        log.exception("cleaning dataset %s", dataset.id)
        written = NotCleaned(f"Writing it stopped with {type(error).__name__}. {logs.sorry()}")
    if written is not None:
        _finish(desk, cleaning, dataset, written)


def write(path: Path, name: str, columns: Columns, out: Path) -> Cleaned | NotCleaned:
    """For a worker: written at `out`, then named by its sha256. What a killed one left half written goes first."""
    out.parent.mkdir(exist_ok=True)
    out.unlink(missing_ok=True)
    written = clean(path, name, columns, out)
    if isinstance(written, NotCleaned):
        return written
    with out.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(written, out=out.replace(out.with_name(digest)))


def tidy(desk: Desk) -> None:
    """Delete cleaned files that were sent, or can't be. None while one is being written."""
    if desk.store.cleanings.waiting():
        return
    still_to_send = desk.store.outbox.files()
    for path in _folder(desk).glob("*"):
        if str(path) not in still_to_send:
            path.unlink(missing_ok=True)


def _folder(desk: Desk) -> Path:
    return desk.settings.data / "cleaned"


def _finish(desk: Desk, cleaning: Cleaning, dataset: Dataset, written: Cleaned | NotCleaned) -> None:
    place = _place(desk, dataset, cleaning.person)
    with desk.store.transaction():
        if not desk.store.cleanings.done(cleaning):
            return
        if isinstance(place, Denied):
            _tell(desk, cleaning, dataset, place.reason)
        elif isinstance(written, NotCleaned):
            _tell(desk, cleaning, dataset, views.not_cleaned(dataset, written))
        else:
            _post(desk, cleaning, dataset, written, place)


def _post(desk: Desk, cleaning: Cleaning, dataset: Dataset, cleaned: Cleaned, place: Place) -> None:
    body = {
        "file": str(cleaned.out),
        "filename": views.filename(dataset, cleaned),
        "title": views.title(dataset),
        "initial_comment": views.said(dataset, cleaned),
    }
    to_thread = place == "thread"
    draft = Draft(
        kind="file",
        channel=dataset.channel,
        body=body,
        dedupe=f"cleaned {cleaning.id} of dataset {dataset.id}",
        thread=f"dataset {dataset.id}" if to_thread else None,
        person=None if to_thread else cleaning.person,
        private=True,
    )
    desk.store.outbox.put(draft, now=desk.clock())


def _tell(desk: Desk, cleaning: Cleaning, dataset: Dataset, said: str) -> None:
    draft = Draft(kind="direct", channel=dataset.channel, person=cleaning.person, body=sentence(said).body())
    desk.store.outbox.put(draft, now=desk.clock())


def _place(desk: Desk, dataset: Dataset, person: str) -> Place | Denied:
    refused = permits.may(desk, person, "read", dataset.channel)
    if refused:
        return Denied(refused.text)
    home = sharing.home(desk, dataset.owner, person, here=None)
    in_thread = sharing.may_show_rows(desk, dataset, dataset.channel)
    return place_of_rows(home, person, dataset.uploaded_by, in_thread=in_thread)
