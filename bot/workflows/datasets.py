"""Datasets: what a person hands over is recorded at once, then fetched, checked and split by the ticks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bot import logs
from bot.decisions import waiving
from bot.decisions.waste import waste_of
from bot.options import Answer, dataset_name, is_dataset_name
from bot.results import Refusal
from bot.views import datasets as views
from bot.views import findings, versions
from bot.views import waivers as waiver_views
from bot.views.blocks import Message, code, escape
from bot.work.checking import Inspected, inspect
from bot.workers import Stopped
from bot.workflows import permits, scanning, sharing
from bot.workflows.desk import Backroom, Desk, FetchedFile, FetchLater
from bot.workflows.row_limits import usual_limit
from storage.datasets import NewDataset
from storage.records import Dataset, Draft
from trainers.dataset import DEFAULT_LIMITS, Columns, Report
from trainers.dataset.holdout.versions import Previous
from trainers.providers import ProviderRow

SEED = 20261124
FETCH_TRIES = 8
CHECK_TRIES = 3
ASK_AGAIN_S = 3600

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """What a person put into the modal. Empty column names: find them.

    The dataset belongs to `channel` and is reported there. `here`: where the person acted, '' where in no channel."""

    name: str
    channel: str
    here: str
    person: str
    file_id: str
    filename: str
    text_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Checked:
    """A dataset with its report, once there is one."""

    dataset: Dataset
    report: Report | None


def receive(desk: Desk, upload: Upload) -> Dataset | Refusal:
    """Record it and say so in the channel; the rest is the ticks' work."""
    given = upload.name or Path(upload.filename).stem
    name = dataset_name(given)
    if isinstance(name, Answer):
        return Refusal(name.text)
    refused = permits.may(desk, upload.person, "upload", upload.channel) or _not_in_it(desk, upload)
    if refused:
        return refused
    now = desk.clock()
    with desk.store.transaction():
        dataset = desk.store.datasets.receive(
            NewDataset(
                name=name,
                channel=upload.channel,
                uploaded_by=upload.person,
                filename=upload.filename,
                source=upload.file_id,
                text_column=upload.text_column,
                label_column=upload.label_column,
                may_add=is_dataset_name(given),
            ),
            now=now,
        )
        if dataset is None:
            return Refusal(_taken(desk, name, upload.channel))
        desk.store.audit.add(at=now, who=upload.person, action="upload", subject=f"dataset {dataset.id}")
        show(desk, dataset, views.received(dataset), kind_is_post=True)
    return dataset


def _not_in_it(desk: Desk, upload: Upload) -> Refusal | None:
    """Only its members hand files over to a channel."""
    is_in = upload.channel == upload.here or desk.directory.is_member(upload.person, upload.channel)
    if is_in:
        return None
    if is_in is None:
        said = "Slack didn't tell who is in that channel. Invite the bot there (`/invite @Finetune`), or try again."
    else:
        said = "You are not in that channel. Choose one that you are in, or join it first."
    return Refusal(said, "channel")


def _taken(desk: Desk, name: str, channel: str) -> str:
    if desk.store.datasets.owners().get(name) == channel:
        return (
            f"This channel has a dataset {code(name)} already. To add a version to it, type exactly that name; for "
            "another dataset, type another one."
        )
    return f"Another channel has a dataset {code(name)} already, so this one needs another name: type one."


def step(desk: Desk, dataset: Dataset) -> None:
    """One step towards ready or refused."""
    if dataset.state == "received":
        _fetch(desk, dataset)
    else:
        _check(desk, dataset)


def after_trouble(desk: Desk, dataset: Dataset) -> None:
    """A step stopped with a fault of ours: once more, a few times, then the person is told."""
    _again_or_refuse(desk, dataset, f"something in the bot went wrong. {logs.sorry()}", CHECK_TRIES)


def listing(desk: Desk, person: str, here: str | None) -> Sequence[Checked]:
    """Those that a person may know of, newest first."""
    known = sharing.visible(desk, person, here)
    return [Checked(one, report_of(one)) for one in desk.store.datasets.all() if one.name in known]


def names(desk: Desk, person: str, here: str) -> list[str]:
    """Of those that a person may use, newest first: what a form offers."""
    return list(dict.fromkeys(one.dataset.name for one in listing(desk, person, here) if one.report))


def ready(desk: Desk, name: str, person: str, here: str, *, is_posted: bool = False) -> Checked | Refusal:
    """The newest usable version under a name for a person who asks in the channel `here`, or why there is none.
    `is_posted`: what comes of it is posted in that channel."""
    refused = sharing.refused(desk, name, person, here, is_posted=is_posted)
    dataset = desk.store.datasets.newest(name)
    if refused or dataset is None:
        return refused or Refusal(views.no_such_dataset(name, ()))
    if desk.store.forgettings.of(name):
        return Refusal(f"`{name}` is being deleted.")
    if dataset.state == "refused":
        return Refusal(
            f"`{dataset.name}` can't be used: {escape(dataset.refusal or '')} "
            "Upload a mended file with `/finetune upload`."
        )
    report = report_of(dataset)
    if report is None:
        return Refusal(
            f"`{dataset.name}` is still being checked; its card in the channel says when it is ready."
        )
    return Checked(dataset, report)


def needs_waiver(desk: Desk, dataset: Dataset, report: Report, row: ProviderRow) -> Refusal | None:
    """Why this data may not leave for this trainer yet. The card that asks an approver for their word is posted
    with it, in the dataset's channel, once an hour at most."""
    if row.stays_here:
        return None
    scans = scanning.of(desk, report)
    if scans is None:
        return Refusal(waiver_views.not_looked_through(dataset))
    codes = codes_of(desk, report)
    if waiving.SECRET in codes:
        return Refusal(waiver_views.has_secret(dataset, row.title, scans))
    if not waiving.needs_waiver(codes, stays_here=False) or desk.store.waivers.of(dataset.id):
        return None
    card, now = waiver_views.card_name(dataset), desk.clock()
    body = waiver_views.asked(dataset, row.title, report.findings, scans).body()
    once = f"{card} {int(now // ASK_AGAIN_S)}"
    who = dataset.uploaded_by
    draft = Draft(kind="post", channel=dataset.channel, body=body, card=card, dedupe=once, concerns=who)
    desk.store.outbox.put(draft, now=now)
    return Refusal(waiver_views.refusal(dataset, row.title))


def codes_of(desk: Desk, report: Report) -> frozenset[str]:
    """Of what was found in the file, and in the two parts as they are written, as far as they were looked through."""
    found = frozenset(finding.code for finding in report.findings)
    return found.union(*(one.codes for one in scanning.of(desk, report) or ()))


def report_of(dataset: Dataset) -> Report | None:
    return Report.from_json(dataset.report) if dataset.report and dataset.state == "ready" else None


def _fetch(desk: Desk, dataset: Dataset) -> None:
    try:
        fetched = desk.files.fetch(dataset.source, desk.settings.files, DEFAULT_LIMITS.max_bytes)
    except FetchLater as trouble:
        _again_or_refuse(desk, dataset, str(trouble), FETCH_TRIES)
        return
    if isinstance(fetched, Refusal):
        _refuse(desk, dataset, fetched.text)
        return
    _to_checking(desk, dataset, fetched)


def _to_checking(desk: Desk, dataset: Dataset, fetched: FetchedFile) -> None:
    desk.store.datasets.move(
        dataset,
        "checking",
        now=desk.clock(),
        sha256=fetched.sha256,
        filename=fetched.name,
        tries=0,
        next_at=0,
    )


def _check(desk: Desk, dataset: Dataset) -> None:
    """A version follows the one before it: it waits until that one is ready or refused."""
    if any(one.state in ("received", "checking") for one in _earlier(desk, dataset)):
        return
    limit = usual_limit(desk.settings)
    try:
        inspected = desk.workers.poll(
            f"check {dataset.id}",
            inspect,
            desk.settings.files / str(dataset.sha256),
            dataset.filename,
            Columns(dataset.text_column, dataset.label_column),
            desk.settings.files,
            SEED,
            previous=_previous(desk, dataset),
            drawings=_folder(desk, dataset),
            longest=limit.tokens if limit else None,
            lengths_by=limit.own if limit else None,
            presidio=desk.settings.presidio,
            local_models=desk.settings.trainer.folders,
        )
    except Stopped as stopped:
        _again_or_refuse(desk, dataset, f"checking it {stopped}", CHECK_TRIES)
        return
    except Exception as error:
        # the checker met something that it should have answered with a finding; the file must not hang
        log.exception("checking dataset %s", dataset.id)
        _again_or_refuse(desk, dataset, f"checking it stopped with {type(error).__name__}", CHECK_TRIES)
        return
    if inspected is not None:
        _finish(desk, dataset, inspected)


def _earlier(desk: Desk, dataset: Dataset) -> list[Dataset]:
    """The versions before, newest first."""
    return [
        one for one in desk.store.datasets.all() if one.name == dataset.name and one.version < dataset.version
    ]


def _previous(desk: Desk, dataset: Dataset) -> Previous | None:
    """The two files of the newest version before this one that could be used."""
    report = next((report for one in _earlier(desk, dataset) if (report := report_of(one))), None)
    if report is None:
        return None
    files = desk.settings.files
    return Previous(files / f"{report.train_sha256}.jsonl", files / f"{report.holdout_sha256}.jsonl")


def _finish(desk: Desk, dataset: Dataset, inspected: Inspected) -> None:
    now, report = desk.clock(), inspected.report
    listed = _listed(desk, dataset, report)
    refusal = views.refusal_sentence(report) if report.blocked else None
    with desk.store.transaction():
        moved = desk.store.datasets.move(
            dataset, "refused" if refusal else "ready", now=now, report=report.to_json(), refusal=refusal
        )
        if moved is None:
            return
        scanning.keep(desk, inspected.scans)
        desk.store.audit.add(at=now, who="finetune", action=moved.state, subject=f"dataset {moved.id}")
        show(desk, moved, views.checked(moved, report, days=desk.settings.retention.refused))
        if report.diff and not report.blocked:
            put_beside(desk, moved, versions.changed(moved, report.diff, report.n_holdout))
        for file in (*listed, *inspected.plots):
            _put_file(desk, moved, file, findings.title_of(file.stem, moved.title))


def put_findings(desk: Backroom, dataset: Dataset, report: Report) -> None:
    """The list that the card of a version speaks of, into its thread."""
    for file in _listed(desk, dataset, report):
        _put_file(desk, dataset, file, findings.title_of(file.stem, dataset.title))


def _listed(desk: Backroom, dataset: Dataset, report: Report) -> tuple[Path, ...]:
    """Every finding in a file, where there is more than the card says: lines and cures, no word of a customer."""
    if not findings.fill_a_file(report.findings):
        return ()
    within_reach = [row for row in desk.settings.providers if row.name in desk.trainers]
    today = datetime.fromtimestamp(desk.clock(), UTC).date()
    waste = waste_of(report.duplicate_tokens, within_reach, today)
    path = _folder(desk, dataset) / "findings.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(findings.file_text(report, waste), encoding="utf-8")
    return (path,)


def _folder(desk: Backroom, dataset: Dataset) -> Path:
    """What is made of a dataset to be looked at."""
    return desk.settings.data / "plots" / f"dataset-{dataset.id}"


def put_beside(desk: Backroom, dataset: Dataset, message: Message) -> None:
    """What became of the version before, in the card's thread."""
    card = f"dataset {dataset.id}"
    draft = Draft(
        kind="post",
        channel=dataset.channel,
        body=message.body(),
        thread=card,
        dedupe=f"what changed in {card}",
        concerns=dataset.uploaded_by,
    )
    desk.store.outbox.put(draft, now=desk.clock())


def _put_file(desk: Backroom, dataset: Dataset, path: Path, title: str) -> None:
    draft = Draft(
        kind="file",
        channel=dataset.channel,
        body={"file": str(path), "filename": path.name, "title": title, "alt_txt": title},
        thread=f"dataset {dataset.id}",
        dedupe=f"{path.name} of dataset {dataset.id}",
        concerns=dataset.uploaded_by,
    )
    desk.store.outbox.put(draft, now=desk.clock())


def _again_or_refuse(desk: Desk, dataset: Dataset, trouble: str, most: int) -> None:
    """Back off and try again; after `most` tries say what stood in the way."""
    now = desk.clock()
    if dataset.tries + 1 >= most:
        _refuse(desk, dataset, f"Gave up after {most} tries: {trouble}.")
        return
    desk.store.datasets.move(
        dataset, dataset.state, now=now, tries=dataset.tries + 1, next_at=now + min(2**dataset.tries, 120)
    )


def _refuse(desk: Desk, dataset: Dataset, why: str) -> None:
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.datasets.move(dataset, "refused", now=now, refusal=why)
        if moved:
            desk.store.audit.add(
                at=now, who="finetune", action="refused", subject=f"dataset {moved.id}", detail=why
            )
            show(desk, moved, views.refused(moved, why))


def show(desk: Backroom, dataset: Dataset, message: Message, *, kind_is_post: bool = False) -> None:
    card = f"dataset {dataset.id}"
    desk.store.outbox.put(
        Draft(
            kind="post" if kind_is_post else "edit",
            channel=dataset.channel,
            body=message.body(),
            card=card,
            dedupe=card if kind_is_post else None,
            concerns=dataset.uploaded_by,
        ),
        now=desk.clock(),
    )
