"""Datasets. An upload is recorded at once; the ticks fetch it, check it, split it, and scan it for personal data.

Every file of a dataset is scanned before it first leaves this machine. The check scans a new version's files. The files
of older versions, and all files after the patterns have changed, are scanned in a worker when they are next used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bot import logs
from bot.cards.common.blocks import Message, code, escape
from bot.cards.common.candidates import bar_share
from bot.cards.datasets import check_reports, dataset_versions, findings, traces
from bot.cards.datasets import data_policy as waiver_views
from bot.cards.datasets import datasets as views
from bot.cards.evidence.evaluations import new_standard
from bot.context import AppContext, CoreContext, FetchLater
from bot.rules import data_policy
from bot.rules.facts import Standard, TaskKind, task_kind
from bot.rules.units import Misread
from bot.services.common import authorization, messages
from bot.services.common.targets import default_row_limit
from bot.services.datasets import taught_rows, trained_rows
from bot.services.datasets.check_reports import write_findings
from bot.services.datasets.dataset_worker import SEED, Inspection, inspect
from bot.services.datasets.pairs import judged_model
from bot.values.runs import Refusal
from bot.values.upload_fields import dataset_name, is_dataset_name, parse_sealed
from bot.worker_pool import WorkerStopped
from storage.datasets import NewDataset
from storage.records import Dataset, DatasetState, Draft
from trainers.dataset import DEFAULT_LIMITS, Columns, Report
from trainers.dataset.sensitive_data import Scan, scanner_name
from trainers.dataset.sensitive_data import scan_file as scan_file_sensitive_data
from trainers.dataset.versions import Previous
from trainers.models.base_models import why_not_served
from trainers.providers.providers import ProviderRow

log = logging.getLogger(__name__)
FETCH_TRIES = 8
CHECK_TRIES = 3
ASK_AGAIN_S = 3600


def scans_of(context: AppContext, report: Report) -> tuple[Scan, ...] | None:
    """Returns the scans of a dataset's files. If one is missing, returns None and requests it from the next tick."""
    by = scanner_name(presidio=context.settings.presidio)
    scans = list[Scan]()
    is_missing = False
    # All missing scans are requested at once, rather than one per question.
    for sha256 in report.stored_files:
        stored = context.store.scans.of(sha256, by)
        if stored is None:
            context.store.scans.request(sha256, by, now=context.clock())
            is_missing = True
        else:
            scans.append(Scan.from_json(stored))
    if is_missing:
        return None
    return tuple(scans)


def store_scans(context: CoreContext, scans: Iterable[Scan]) -> None:
    by = scanner_name(presidio=context.settings.presidio)
    for scan in scans:
        context.store.scans.save(scan.sha256, by, scan.to_json(), now=context.clock())


def scan_file(context: AppContext, sha256: str, by: str) -> None:
    """Scans one file whose scan was requested from the scanner `by`."""
    presidio = context.settings.presidio
    path = context.settings.files / f"{sha256}.jsonl"
    if by != scanner_name(presidio=presidio) or not path.exists():
        # The settings have changed since the request, or the version was deleted.
        context.store.scans.drop(sha256)
        return
    try:
        scan = context.workers.poll(f"scan {sha256}", scan_file_sensitive_data, path, presidio=presidio)
    except WorkerStopped:
        log.exception("scanning %s", path.name)
        context.store.scans.drop(sha256)  # the next use requests it again
        return
    if scan is None:
        return
    if scan.sha256 != sha256:
        log.error("%s has changed since it was written, so its scan is discarded", path.name)
        context.store.scans.drop(sha256)
        return
    store_scans(context, [scan])


@dataclass(frozen=True)
class Upload:
    """What a person entered in the form. A sheet and columns that are None are found. `sealed` is the number of rows to
    seal, as typed.

    The dataset belongs to `channel`, where its card is posted. `here` is the channel in which the person acted, '' if
    there was none.
    """

    name: str
    channel: str
    here: str
    person: str
    file_id: str
    filename: str
    text_column: str | None = None
    label_column: str | None = None
    sheet: str | None = None
    sealed: str | None = None


@dataclass(frozen=True)
class CheckedDataset:
    """A version that can be used, with its report."""

    dataset: Dataset
    report: Report


def receive(context: AppContext, upload: Upload) -> Dataset | Refusal:
    """Records an upload and posts its card in the channel; the ticks do the rest."""
    text = upload.name or Path(upload.filename).stem
    name = dataset_name(text)
    if isinstance(name, Misread):
        return Refusal(name.sentence)
    sealed = parse_sealed(upload.sealed or f"{context.settings.policy.promotion.sealed or 0}")
    if isinstance(sealed, Misread):
        return Refusal(sealed.sentence, "sealed")
    refusal = authorization.refusal(context, upload.person, "upload", upload.channel)
    if refusal is None:
        refusal = _membership_refusal(context, upload)
    if refusal:
        return refusal
    new = NewDataset(
        name=name,
        channel=upload.channel,
        uploaded_by=upload.person,
        filename=upload.filename,
        source=upload.file_id,
        text_column=upload.text_column,
        label_column=upload.label_column,
        sheet=upload.sheet,
        sealed=sealed,
        may_add=is_dataset_name(text),
    )
    with context.store.transaction():
        dataset = context.store.datasets.receive(new, now=context.clock())
        if dataset is None:
            return Refusal(_name_taken(context, name, upload.channel))
        context.audit(upload.person, "upload", f"dataset {dataset.id}")
        show(context, dataset, check_reports.received_card(dataset))
    return dataset


def add_generated_version(
    context: AppContext, new: NewDataset, sha256: str, *, action: str, detail: str
) -> Dataset | None:
    """Records a version whose file the bot itself wrote; the ticks check it like an upload. Returns None if the name
    belongs to another channel. Call it in a transaction."""
    now = context.clock()
    received = context.store.datasets.receive(new, now=now)
    if received is None:
        return None
    added = context.store.datasets.move(received, "checking", now=now, sha256=sha256)
    if added:
        context.audit(new.uploaded_by, action, f"dataset {added.id}", detail)
        show(context, added, check_reports.received_card(added))
    return added


def _membership_refusal(context: AppContext, upload: Upload) -> Refusal | None:
    """Refuses an upload to a channel that the person is not a member of."""
    is_in = upload.channel == upload.here or context.directory.is_member(upload.person, upload.channel)
    if is_in:
        return None
    if is_in is None:
        text = "I can't see who is in that channel. Invite me there first: `/invite @Finetune`."
    else:
        text = "You are not in that channel. Choose one that you are in, or join it first."
    return Refusal(text, "channel")


def _name_taken(context: AppContext, name: str, channel: str) -> str:
    if context.store.datasets.owners().get(name) == channel:
        return (
            f"This channel already has a dataset {code(name)}. To add a version to it, type exactly that name; for a "
            "new dataset, type another name."
        )
    return f"The name {code(name)} is not available here. Type another one."


def columns_of(dataset: Dataset) -> Columns:
    """Returns what people have chosen; the rest is found."""
    return Columns(dataset.text_column, dataset.label_column, dataset.sheet)


def step(context: AppContext, dataset: Dataset) -> None:
    """Takes a dataset one step towards ready or refused."""
    if dataset.state == "received":
        _fetch(context, dataset)
    else:
        _check(context, dataset)


def _fetch(context: AppContext, dataset: Dataset) -> None:
    try:
        file = context.files.fetch(dataset.source, context.settings.files, DEFAULT_LIMITS.max_bytes)
    except FetchLater as trouble:
        _retry_or_refuse(context, dataset, str(trouble), FETCH_TRIES)
        return
    if isinstance(file, Refusal):
        _refuse(context, dataset, file.text)
        return
    # Attempts to fetch the file don't count against those to check it.
    changes = {"sha256": file.sha256, "filename": file.name, "tries": 0, "next_at": 0}
    context.store.datasets.move(dataset, "checking", now=context.clock(), **changes)


def handle_step_failure(context: AppContext, dataset: Dataset) -> None:
    """Repeats a step that stopped with an error of the bot; after a few attempts the file is refused."""
    _retry_or_refuse(context, dataset, f"something in the bot went wrong. {logs.sorry()}", CHECK_TRIES)


def usable_names(context: AppContext, person: str, here: str) -> list[str]:
    """Returns the names that a form offers: the datasets that a person may use, newest first."""
    names = authorization.visible_datasets(context, person, here)
    return [name for name in context.store.datasets.usable_names() if name in names]


def load_usable(
    context: AppContext, name: str, person: str, here: str, *, is_posted: bool = False
) -> CheckedDataset | Refusal:
    """Returns the newest usable version of a dataset for a person in the channel `here`, or why there is none.
    `is_posted` is True if the outcome will be posted in that channel."""
    refusal = authorization.dataset_refusal(context, name, person, here, is_posted=is_posted)
    if refusal:
        return refusal
    dataset = context.store.datasets.newest(name)
    if dataset is None:
        return Refusal(views.no_such_dataset(name, ()))
    if context.store.deletions.of(name):
        return Refusal(f"`{name}` is being deleted.")
    if dataset.state == "refused":
        return Refusal(
            f"`{dataset.name}` can't be used: {escape(dataset.refusal or '')} "
            "Upload a corrected file with `/finetune upload`."
        )
    report = report_of(dataset)
    if report is None:
        return Refusal(
            f"`{dataset.name}` is still being checked; its card in the channel says when it is ready."
        )
    return CheckedDataset(dataset, report)


def bar_refusal(
    context: AppContext, name: str, bar: float | None, person: str, channel: str
) -> Refusal | None:
    """Returns why a person may not set this quality bar, None if they may, or it is the current one."""
    if bar is None or bar == bar_of(context, name):
        return None
    refusal = authorization.refusal(context, person, "bar", channel)
    if refusal is None:
        return None
    return replace(refusal, about="bar")


def change_settings(
    context: AppContext,
    dataset: Dataset,
    person: str,
    *,
    bar: float | None = None,
    task: TaskKind | None = None,
    prompt: str | None = None,
) -> None:
    """Stores the settings that are not None. A new bar or kind of task is written into the audit log and announced in
    the dataset's channel, since every verdict on the dataset depends on it. Call it in a transaction."""
    if (bar, task, prompt) == (None, None, None):
        return
    before = standard_of(context, dataset.name)
    context.store.dataset_settings.set(
        dataset.name, by=person, now=context.clock(), bar=bar, task_kind=task, prompt=prompt
    )
    after = standard_of(context, dataset.name)
    if bar is not None and bar != before.bar:
        detail = f"{bar_share(before.bar)} to {bar_share(bar)}"
        context.audit(person, "bar", f"dataset {dataset.id}", detail)
    if after.task != before.task:
        context.audit(person, "task", f"dataset {dataset.id}", f"{before.task or 'none'} to {after.task}")
    if (after.bar, after.task) != (before.bar, before.task):
        body = new_standard(dataset.name, person, before, after).body()
        context.post(dataset.channel, body, topic="changes")


def sealed_of_refused_version(context: AppContext, name: str) -> str:
    """Returns, as text, how many rows were to be sealed in the newest version if its file was refused, so that the form
    can suggest that number again. '' if there is none."""
    newest = context.store.datasets.newest(name)
    if newest is None or newest.state != "refused" or not newest.sealed:
        return ""
    return f"{newest.sealed}"


def bar_of(context: CoreContext, name: str) -> float:
    """Returns the dataset's quality bar, the policy's default if it has none of its own."""
    settings = context.store.dataset_settings.get(name)
    if settings and settings.bar:
        return settings.bar
    return context.settings.policy.promotion.bar


def is_bar_set(context: AppContext, name: str) -> bool:
    return standard_of(context, name).is_bar_set


def standard_of(context: AppContext, name: str) -> Standard:
    """Returns what the team requires of a model for this dataset."""
    bar = bar_of(context, name)
    settings = context.store.dataset_settings.get(name)
    if settings is None:
        return Standard(bar=bar, is_bar_set=False, task=None)
    return Standard(
        bar=bar,
        is_bar_set=settings.bar is not None,
        task=task_kind(settings.task_kind) if settings.task_kind else None,
    )


def needs_waiver(context: AppContext, dataset: Dataset, report: Report, row: ProviderRow) -> Refusal | None:
    """Returns why the dataset may not be sent to this provider without a waiver, None if it may. If a waiver would
    help, also posts the card that asks an approver for one in the dataset's channel, at most once an hour."""
    if row.stays_here:
        return None
    scans = scans_of(context, report)
    if scans is None:
        return Refusal(waiver_views.scan_pending_refusal(dataset))
    codes = codes_of(context, report)
    # Before the waiver is looked for, because none can cover a secret.
    if data_policy.SECRET in codes:
        return Refusal(waiver_views.secret_refusal(dataset, row.title, scans))
    if not data_policy.needs_waiver(codes, stays_here=False) or context.store.waivers.of(dataset.id):
        return None
    _ask_for_waiver(context, dataset, waiver_views.request_card(dataset, row.title, report.findings, scans))
    return Refusal(waiver_views.refusal(dataset, row.title))


def _ask_for_waiver(context: AppContext, dataset: Dataset, message: Message) -> None:
    now = context.clock()
    card = waiver_views.card_name(dataset)
    draft = Draft(
        kind="post",
        channel=dataset.channel,
        body=message.body(),
        card=card,
        dedupe=f"{card} {int(now // ASK_AGAIN_S)}",
        concerns=dataset.uploaded_by,
        topic="questions",
    )
    context.store.outbox.put(draft, now=now)


def codes_of(context: AppContext, report: Report) -> frozenset[str]:
    """Returns the codes of everything that the check and the finished scans found."""
    codes = {finding.code for finding in report.findings}
    for scan in scans_of(context, report) or ():
        codes.update(scan.codes)
    return frozenset(codes)


def report_of(dataset: Dataset) -> Report | None:
    """Returns the report of a version that can be used, else None."""
    if dataset.state != "ready" or not dataset.report:
        return None
    return Report.from_json(dataset.report)


def _check(context: AppContext, dataset: Dataset) -> None:
    """Checks a file. A version waits until all earlier ones are ready or refused."""
    # Its held-out rows follow from those of the version before, which have to be known.
    if any(earlier.state in ("received", "checking") for earlier in _earlier_versions(context, dataset)):
        return
    try:
        inspection = _inspect(context, dataset)
    except WorkerStopped as stopped:
        if stopped.is_late:
            # Another attempt would take as long.
            _refuse(context, dataset, f"Checking it {stopped}. {findings.SPLIT_IT}")
        else:
            _retry_or_refuse(context, dataset, f"checking it {stopped}", CHECK_TRIES)
        return
    except Exception as error:
        # Whatever the checker raises in its process is raised here, and the file must not stay in this state forever.
        log.exception("checking dataset %s", dataset.id)
        trouble = f"checking it stopped with {type(error).__name__}"
        _retry_or_refuse(context, dataset, trouble, CHECK_TRIES)
        return
    if inspection is not None:
        _finish(context, dataset, inspection)


def _inspect(context: AppContext, dataset: Dataset) -> Inspection | None:
    """Returns None while the worker is at it."""
    settings = context.settings
    longest = None
    lengths_by = None
    limit = default_row_limit(settings)
    if limit:
        longest = limit.tokens
        lengths_by = limit.own
    previous = _previous_files(context, dataset)
    learnt_files = trained_rows.files_of_models(context, dataset)
    if previous is not None:
        # The split reads this file in any case.
        learnt_files = tuple(path for path in learnt_files if path != previous.train)
    return context.workers.poll(
        f"check {dataset.id}",
        inspect,
        settings.files / str(dataset.sha256),
        dataset.filename,
        columns_of(dataset),
        settings.files,
        SEED,
        previous=previous,
        drawings=folder_of(context, dataset),
        longest=longest,
        lengths_by=lengths_by,
        presidio=settings.presidio,
        local_models=settings.trainer.folders,
        n_sealed=dataset.sealed,
        learnt_files=learnt_files,
    )


def _earlier_versions(context: AppContext, dataset: Dataset) -> list[Dataset]:
    """Returns the versions before this one, newest first."""
    versions = context.store.datasets.versions(dataset.name)
    return [earlier for earlier in versions if earlier.version < dataset.version]


def _previous_files(context: AppContext, dataset: Dataset) -> Previous | None:
    """Returns the files of the newest usable version before this one."""
    reports = filter(None, map(report_of, _earlier_versions(context, dataset)))
    report = next(reports, None)
    if report is None:
        return None
    files = context.settings.files
    sealed = None
    if report.sealed_sha256:
        sealed = files / f"{report.sealed_sha256}.jsonl"
    return Previous(
        files / f"{report.train_sha256}.jsonl",
        files / f"{report.holdout_sha256}.jsonl",
        draws_more=dataset.origin is None,
        sealed=sealed,
        is_opened=is_opened(context, dataset.name, report),
    )


def is_opened(context: CoreContext, name: str, report: Report) -> bool:
    """True if people have seen scores on the sealed part."""
    versions = [version.id for version in context.store.datasets.versions(name)]
    return bool(context.store.looks(versions).get(str(report.sealed_sha256)))


def _finish(context: AppContext, dataset: Dataset, inspected: Inspection) -> None:
    """Everything slow (Slack is asked, files are read and written) is done before the transaction."""
    report = inspected.report
    listed: tuple[Path, ...] = ()
    if inspected.traced is None:
        listed = write_findings(context, report, folder_of(context, dataset))
    may_show_row = authorization.may_show_rows(context, dataset, dataset.channel)
    bases = context.settings.trainer.models
    missing_bases = [name for name, folder in bases.items() if why_not_served(name, folder)]
    taught = taught_rows.count_taught_in(context, dataset.name, report)
    state: DatasetState = "refused" if report.is_blocked else "ready"
    changes = {"report": report.to_json(), "refusal": _why_refused(dataset, inspected)}
    with context.store.transaction():
        moved = context.store.datasets.move(dataset, state, now=context.clock(), **changes)
        if moved is None:
            return
        store_scans(context, inspected.scans)
        context.audit("finetune", moved.state, f"dataset {moved.id}")
        if inspected.traced is not None:
            show(context, moved, _traced_card(context, moved, inspected.traced))
            return
        card = check_reports.checked_card(
            moved,
            report,
            days=context.settings.retention.refused,
            may_show_row=may_show_row,
            missing_bases=missing_bases,
            taught=taught,
            judged=judged_model(context, moved) if report.pairs else None,
        )
        show(context, moved, card)
        if report.diff and not report.is_blocked:
            changed = dataset_versions.version_changes(moved, report.diff, report.n_holdout)
            post_in_thread(context, moved, changed)
        _post_files(context, moved, report, (*listed, *inspected.plots))


def _why_refused(dataset: Dataset, inspected: Inspection) -> str | None:
    if inspected.traced is not None:
        return traces.upload_refusal(dataset)
    if inspected.report.is_blocked:
        return check_reports.refusal_sentence(inspected.report)
    return None


def _traced_card(context: AppContext, dataset: Dataset, traced: traces.TracedUpload) -> Message:
    newest = context.store.datasets.newest(dataset.name)
    labelled = report_of(newest) if newest else None
    can_label = labelled is not None and labelled.task == "labels" and not labelled.pairs
    days = context.settings.retention.refused
    return traces.upload_card(dataset, traced, can_label=can_label, days=days)


def post_findings(context: CoreContext, dataset: Dataset, report: Report) -> None:
    """Posts the list of findings, which the version's card mentions, in its thread."""
    folder = folder_of(context, dataset)
    files = write_findings(context, report, folder)
    _post_files(context, dataset, report, files)


def folder_of(context: CoreContext, dataset: Dataset) -> Path:
    """Returns the folder of a version's plots and list of findings."""
    return context.settings.data / "plots" / f"dataset-{dataset.id}"


def post_in_thread(context: CoreContext, dataset: Dataset, message: Message) -> None:
    """Posts once, in the card's thread, what changed since the previous version."""
    card = f"dataset {dataset.id}"
    draft = Draft(
        kind="post",
        channel=dataset.channel,
        body=message.body(),
        thread=card,
        dedupe=f"what changed in {card}",
        concerns=dataset.uploaded_by,
        topic="changes",
    )
    context.store.outbox.put(draft, now=context.clock())


def _post_files(context: CoreContext, dataset: Dataset, report: Report, files: Sequence[Path]) -> None:
    """Posts the files in the card's thread, in one message."""
    card = f"dataset {dataset.id}"
    titled = [check_reports.attachment(path, dataset.title, report) for path in files]
    chosen = " ".join(filter(None, (dataset.text_column, dataset.label_column, dataset.sheet)))
    once = f"files of {card} {chosen}".rstrip()  # other columns give other files
    who = dataset.uploaded_by
    messages.put_files(context, card, dataset.channel, titled, topic="cards", once=once, concerns=who)


def _retry_or_refuse(context: AppContext, dataset: Dataset, trouble: str, most: int) -> None:
    """Tries again later; after `most` attempts the file is refused with the reason."""
    tries = dataset.tries + 1
    if tries >= most:
        _refuse(context, dataset, f"Gave up after {most} attempts: {trouble}.")
        return
    now = context.clock()
    pause = min(2**dataset.tries, 120)
    context.store.datasets.move(dataset, dataset.state, now=now, tries=tries, next_at=now + pause)


def _refuse(context: AppContext, dataset: Dataset, why: str) -> None:
    now = context.clock()
    with context.store.transaction():
        moved = context.store.datasets.move(dataset, "refused", now=now, refusal=why)
        if moved:
            context.audit("finetune", "refused", f"dataset {moved.id}", why)
            show(context, moved, check_reports.refused_card(moved, why))


def show(context: CoreContext, dataset: Dataset, message: Message) -> None:
    """Posts the dataset's card, or edits it."""
    card = f"dataset {dataset.id}"
    now = context.clock()
    context.store.outbox.show(card, dataset.channel, message.letter(), now=now, concerns=dataset.uploaded_by)
