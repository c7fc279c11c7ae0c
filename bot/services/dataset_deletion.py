"""Deletes a dataset, or some of its rows by adding a version without them.

A deletion is recorded at the click and carried out by ticks: first in the database, in one transaction that also lists
the copies elsewhere, then files, copies at trainers, and the freed bytes of the database. After a kill the next tick
goes on.

A version without some rows is written into a folder of its own. Its files are moved to the others once the version is
recorded; until then the next attempt, or the nightly retention, deletes what a kill leaves behind.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bot.cards import dataset_deletion as views
from bot.cards import datasets as dataset_views
from bot.cards import models as model_views
from bot.cards.blocks import Message, code
from bot.cards.dataset_deletion import DeletionScope
from bot.cards.datasets import no_such_dataset
from bot.cards.runs import STATE_TEXTS
from bot.cards.words import pluralize
from bot.context import AppContext, CoreContext
from bot.rules.permissions import Request
from bot.rules.plans import plan_from_json
from bot.rules.promotion import alias_for
from bot.services import authorization, datasets, models, provider_jobs, taught_rows, tried_answers
from bot.services.dataset_worker import FULL_LIST, SEED, Inspection, inspect
from bot.services.hardware import default_row_limit
from bot.services.row_labels_worker import write_table
from bot.values.learning_curves import TunedCurvePlan, TunedCurveProgress, plan_of
from bot.values.requests import Delete
from bot.values.runs import Refusal
from storage.dataset_deletion import DatasetDeletion, FilesInUse, RemoteCopy
from storage.datasets import NewDataset
from storage.promotions import Promotion
from storage.records import OPEN_RUN_STATES, Dataset, Draft, Labelling, Measurement, Run
from trainers.dataset import Columns, Report, read
from trainers.dataset.conversion import open_converted
from trainers.dataset.rows import question_key
from trainers.dataset.versions import Previous, store_without_questions
from trainers.documents import TEXT_ENDING
from trainers.errors import Refused, TrainerError

RETENTION = "finetune"
RUN_MESSAGES = ("run", "plan", "result", "doubt", "decision", "reminder", "void", "end", "dm", "changed")
MEASUREMENT_MESSAGES = ("measurement", "measured", "pair", "answer", "agreement", "sealed")
AGAIN_S = 300.0
GIVE_UP_S = 24 * 3600.0  # a trainer that can't be reached for longer is named in the outcome
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewrittenDataset:
    """The version `before` without `rows` rows, `rows_held_out` of which were held out. `inspected` is the check of the
    remaining rows, which are in these `columns` of its file."""

    before: Dataset
    inspected: Inspection
    rows: int
    rows_held_out: int
    columns: Columns


def rewrite_without_rows(
    context: CoreContext, dataset: str, lines: Collection[int]
) -> RewrittenDataset | Refusal:
    """Writes the newest usable version again, without the rows that ask the same questions as the rows at these lines
    of its file."""
    before = context.store.datasets.newest(dataset)
    report = datasets.report_of(before) if before else None
    if before is None or report is None:
        return Refusal(f"{code(dataset)} has no usable version, so no row can be deleted from it.")
    every_key = _keys_by_line(context, before)
    key_by_line = {line: every_key[line] for line in lines if line in every_key}
    unknown = ", ".join(str(line) for line in sorted(set(lines) - key_by_line.keys()))
    if unknown:
        return Refusal(
            f"No row of {code(before.name)}, version {before.version}, begins at line {unknown}. Use the line numbers "
            f"of {before.filename}, as its card and `finetune check` show them."
        )
    return _rewrite(context, before, report, frozenset(key_by_line.values()))


def add_version(context: CoreContext, new: RewrittenDataset, person: str) -> Dataset:
    """Records the new version as ready, since it is checked already. Call it in the transaction that records the
    deletion."""
    now, before, report = context.clock(), new.before, new.inspected.report
    values = NewDataset(
        before.name,
        before.owner,
        before.uploaded_by,
        report.name,
        source="",
        text_column=new.columns.text,
        label_column=new.columns.label,
    )
    received = context.store.datasets.receive(values, now=now)
    changes = {"sha256": report.source_sha256, "report": report.to_json()}
    added = context.store.datasets.move(received, "ready", now=now, **changes) if received else None
    assert added is not None  # noqa: S101 - its channel's own name, in this transaction
    datasets.store_scans(context, new.inspected.scans)
    rows = f"{pluralize(new.rows, 'row')}, {new.rows_held_out} held out"
    detail = f"{rows}, of version {before.version}: version {added.version} has the others"
    context.audit(person, "take out rows", f"dataset {added.id}", detail)
    taught = taught_rows.count_taught_in(context, before.name, report)
    datasets.show(context, added, dataset_views.checked_card(added, report, taught=taught))
    datasets.post_findings(context, added, report)
    datasets.post_in_thread(
        context, added, views.rows_deleted_notice(before.version, new.rows, new.rows_held_out)
    )
    return added


def move_rewritten_files(context: CoreContext, dataset: str) -> None:
    """Moves the files of a new version that is recorded to those of the other datasets."""
    folder, newest = _folder(context, dataset), context.store.datasets.newest(dataset)
    report = datasets.report_of(newest) if newest else None
    parts = [f"{sha256}.jsonl" for sha256 in report.stored_files] if report else []
    for name in (report.source_sha256, *parts) if report else ():
        if (folder / name).exists():
            (folder / name).replace(context.settings.files / name)
    discard_rewrite(context, dataset)


def discard_rewrite(context: CoreContext, dataset: str) -> None:
    """Deletes the folder of a new version that will not be recorded, or whose files were moved."""
    if _folder(context, dataset).exists():
        shutil.rmtree(_folder(context, dataset))


def tidy_rewrites(context: CoreContext) -> None:
    """Deletes the folders of new versions that a kill kept from being recorded."""
    for folder in (context.settings.data / "rewritten").glob("*"):
        if not context.store.deletions.of(folder.name):
            discard_rewrite(context, folder.name)


def _folder(context: CoreContext, dataset: str) -> Path:
    return context.settings.data / "rewritten" / dataset


def _keys_by_line(context: CoreContext, version: Dataset) -> dict[int, bytes]:
    """Returns the question's key for each line of the version's file at which a row begins."""
    columns = datasets.columns_of(version)
    path = context.settings.files / str(version.sha256)
    reading = read(path, version.filename, columns=columns, limits=FULL_LIST)
    return {example.line: question_key(example) for example in reading.examples}


def _rewrite(
    context: CoreContext, before: Dataset, report: Report, keys: frozenset[bytes]
) -> RewrittenDataset | Refusal:
    """Writes and checks the version without the questions in `keys`."""
    discard_rewrite(context, before.name)
    folder = _folder(context, before.name)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for sha256 in filter(None, (report.train_sha256, report.holdout_sha256, report.sealed_sha256)):
        shutil.copyfile(context.settings.files / f"{sha256}.jsonl", folder / f"{sha256}.jsonl")
        parts.append(folder / f"{store_without_questions(folder, sha256, keys)}.jsonl")
    joined = folder / "joined"
    columns = _join(context, before, report, parts, keys, joined)
    opened_before = datasets.is_opened(context, before.name, report)
    sealed = parts[2] if report.sealed_sha256 else None
    previous = Previous(parts[0], parts[1], sealed=sealed, is_opened=opened_before)
    inspection = _inspect(context, joined, f"{before.name}.jsonl", previous, columns)
    if columns == Columns():
        # The rows contain their instructions already. The report keeps these for models that are trained on the rows.
        inspection = replace(inspection, report=replace(inspection.report, system=report.system))
    new = inspection.report
    if new.is_blocked:
        worst = next(finding for finding in new.findings if finding.blocks)
        return Refusal(
            f"Without these rows {code(before.name)} can't be used: {worst.message} Delete the whole dataset, or "
            "upload a file without them first."
        )
    if not new.n_holdout:
        return Refusal(
            f"Without these rows {code(before.name)} has no test rows left. Upload more rows first."
        )
    joined.rename(joined.with_name(new.source_sha256))
    held = report.n_holdout + report.n_sealed - new.n_holdout - new.n_sealed
    return RewrittenDataset(before, inspection, report.n_train - new.n_train + held, held, columns)


def _join(
    context: CoreContext,
    before: Dataset,
    report: Report,
    parts: Sequence[Path],
    keys: Collection[bytes],
    joined: Path,
) -> Columns:
    """Writes the file of the version without the questions in `keys`, and returns its columns. It is made of the parts,
    except for what they lack: the rejected answers of pairs, and rows without a label."""
    source = context.settings.files / str(before.sha256)
    if report.pairs:
        keys_by_line = _keys_by_line(context, before)
        with open_converted(source, FULL_LIST) as converted, joined.open("wb") as file:
            converted.file.seek(0)
            lines = enumerate(converted.file, 1)
            file.writelines(line for number, line in lines if keys_by_line.get(number) not in keys)
        return Columns()
    if report.n_unlabelled and report.system is not None:
        return write_table(before.filename, source, datasets.columns_of(before), parts, keys, joined)
    with joined.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    return Columns()


def _inspect(context: CoreContext, path: Path, name: str, previous: Previous, columns: Columns) -> Inspection:
    """Checks the file like an upload."""
    limit, settings = default_row_limit(context.settings), context.settings
    return inspect(
        path,
        name,
        columns,
        path.parent,
        SEED,
        previous=previous,
        drawings=path.parent,
        longest=limit.tokens if limit else None,
        lengths_by=limit.own if limit else None,
        presidio=settings.presidio,
        local_models=settings.trainer.folders,
    )


def may_ask(context: AppContext, command: Delete, person: str, channel: str) -> DeletionScope | Refusal:
    """Returns what would be deleted, or why this person can't delete it now."""
    refusal = authorization.dataset_refusal(context, command.dataset, person, channel)
    versions = refusal or chosen_versions(context, command)
    if isinstance(versions, Refusal):
        return versions
    is_theirs = all(version.uploaded_by == person for version in versions)
    request = Request(person if is_theirs else "", person, versions[0].created_at)
    refusal = authorization.refusal(context, person, "delete", channel, request)
    if not refusal and _standing_promotion(context, versions):
        refusal = authorization.refusal(context, person, "promote", channel)
    return refusal or scope_of(context, command.dataset, versions)


def ask(context: AppContext, command: Delete, person: str, channel: str) -> DatasetDeletion | Refusal:
    """Records the request of a person; the ticks delete."""
    refusal = may_ask(context, command, person, channel)
    return refusal if isinstance(refusal, Refusal) else record(context, command, person, channel)


def record(
    context: CoreContext, command: Delete, person: str, channel: str | None
) -> DatasetDeletion | Refusal:
    """Records the request of a person whose right to make it was checked."""
    versions = chosen_versions(context, command)
    if isinstance(versions, Refusal):
        return versions
    with context.store.transaction():
        scope = scope_of(context, command.dataset, versions)
        if isinstance(scope, Refusal):
            return scope
        return _record(context, scope, versions, person, channel) or Refusal(
            f"{code(command.dataset)} is already being deleted."
        )


def commit_rewrite(context: CoreContext, new: RewrittenDataset, person: str) -> DatasetDeletion | Refusal:
    """Records the version without the rows and deletes all earlier versions, in one transaction. A model in use that
    was trained on one of them is deleted too: the rows have to go before a newer model can be trained."""
    name = new.before.name
    with context.store.transaction():
        versions = context.store.datasets.versions(name)
        scope = scope_of(context, name, versions, keeps_rest=True)
        if isinstance(scope, Refusal):
            return scope
        deletion = _record(context, replace(scope, is_whole=False), versions, person, None)
        if deletion is None:
            return Refusal(f"{code(name)} is already being deleted.")
        add_version(context, new, person)
        _erase(context, deletion, takes_used=True)
    return deletion


def expire(context: CoreContext, version: Dataset) -> None:
    """Records the deletion of a refused file whose retention is over."""
    with context.store.transaction():
        scope = scope_of(context, version.name, [version])
        if isinstance(scope, DeletionScope):
            _record(context, scope, [version], RETENTION, None)


def find_scope(context: CoreContext, command: Delete, *, keeps_rest: bool = False) -> DeletionScope | Refusal:
    """Returns what the command would delete, or why that can't be deleted now. With `keeps_rest` a version with the
    other rows is added."""
    versions = chosen_versions(context, command)
    if isinstance(versions, Refusal):
        return versions
    return scope_of(context, command.dataset, versions, keeps_rest=keeps_rest)


def chosen_versions(context: CoreContext, command: Delete) -> Sequence[Dataset] | Refusal:
    """Returns the versions that the command names, newest first."""
    versions = context.store.datasets.versions(command.dataset)
    if not versions:
        return Refusal(no_such_dataset(command.dataset, []))
    if command.before is None:
        return versions
    until = datetime.combine(command.before, datetime.min.time(), UTC).timestamp()
    old = [version for version in versions if version.created_at < until]
    return old or Refusal(f"No version of {code(command.dataset)} was uploaded before {command.before}.")


def scope_of(
    context: CoreContext,
    dataset: str,
    versions: Sequence[Dataset],
    *,
    takes_used: bool = False,
    keeps_rest: bool = False,
) -> DeletionScope | Refusal:
    """Returns what is deleted with these versions, or why they can't be deleted now and what to do about it. With
    `takes_used` a model in use that was trained on them may be deleted even though newer versions stay. `keeps_rest`
    means that a version with the other rows will be added."""
    ids, standing = {version.id for version in versions}, _standing_promotion(context, versions)
    is_whole = {version.id for version in context.store.datasets.versions(dataset)} <= ids
    runs, measurements = context.store.runs.on(ids), context.store.measurements.on(ids)
    labellings = context.store.labellings.on(ids)
    answered = sum(_count_answered(context, labelling) for labelling in labellings)
    why = _find_obstacle(versions, runs, measurements, labellings)
    if answered and (keeps_rest or not is_whole):
        why = why or views.open_answers_obstacle(answered)
    if is_whole and context.store.documents.has_unread(dataset):
        why = why or "a document is still being read. Try again in a minute."
    if standing and not is_whole and not takes_used:
        why = f"{code(standing.model)}, which is in use, was trained on it. Deploy a newer model first."
    if why:
        return Refusal(f"{code(dataset)} can't be deleted now: {why}")
    numbers = tuple(sorted(version.version for version in versions))
    return DeletionScope(
        dataset,
        numbers,
        is_whole,
        len(runs),
        len(measurements),
        in_use=standing.model if standing else None,
        answered=answered,
        pairs=_find_pairs(context, versions[0]),
    )


def _find_pairs(context: CoreContext, version: Dataset) -> str | None:
    """Returns the name of the dataset of pairs that was made from verdicts on this dataset's models."""
    name = tried_answers.pairs_name(version.name)
    reports = map(datasets.report_of, context.store.datasets.versions(name))
    has_pairs = any(report is not None and report.pairs for report in reports)
    is_ours = context.store.datasets.owners().get(name) == version.owner
    return name if has_pairs and is_ours else None


def _count_answered(context: CoreContext, labelling: Labelling) -> int:
    """Returns how many rows of an open batch people have labelled."""
    if labelling.state != "open" or labelling.teacher is not None:
        return 0
    return len({label.place for label in context.store.labellings.labels(labelling)})


def step(context: CoreContext, deletion: DatasetDeletion) -> None:
    """Takes a deletion one step further."""
    if deletion.state == "asked":
        _erase(context, deletion)
    else:
        _delete(context, deletion)


def handle_step_failure(context: CoreContext, deletion: DatasetDeletion) -> None:
    context.store.deletions.postpone(deletion, next_at=context.clock() + AGAIN_S)


def _record(
    context: CoreContext, scope: DeletionScope, versions: Sequence[Dataset], person: str, channel: str | None
) -> DatasetDeletion | None:
    """Records a deletion, None if the dataset is already being deleted. Call it in a transaction."""
    now, ids = context.clock(), [version.id for version in versions]
    deletion = context.store.deletions.ask(scope.dataset, ids, person=person, channel=channel, now=now)
    if deletion:
        context.audit(person, "delete", f"dataset {max(ids)}", f"{scope.title}: {scope.with_it}")
    return deletion


def _find_obstacle(
    versions: Sequence[Dataset],
    runs: Sequence[Run],
    measurements: Sequence[Measurement],
    labellings: Sequence[Labelling],
) -> str | None:
    """Returns what has to end before these versions can be deleted, as a sentence, None if nothing has to."""
    run = next((run for run in runs if run.state in (*OPEN_RUN_STATES, "needs_human")), None)
    if run and run.state == "needs_human":
        return f"run {run.id} is waiting for a decision. Decide on its card first."
    if run:
        return f"run {run.id} {STATE_TEXTS[run.state]}. `/finetune cancel {run.id}` ends it."
    measurement = next((each for each in measurements if each.state in ("asked", "running")), None)
    if measurement:
        return f"m{measurement.id} is using it. `/finetune cancel m{measurement.id}` ends that measurement."
    if any(version.state in ("received", "checking") for version in versions):
        return "a file is still being checked. Try again in a minute."
    # A file that is fetched or written after the deletion would belong to no dataset, and never be deleted.
    is_bot_next = (each.state in ("received", "choosing", "closing") for each in labellings)
    is_taught = (each.state == "open" and each.teacher is not None for each in labellings)
    if any(is_bot_next) or any(is_taught):
        return "a batch of rows to label is being read or written. Try again in a minute."
    return None


def _erase(context: CoreContext, deletion: DatasetDeletion, *, takes_used: bool = False) -> None:
    """Erases everything in the database, and lists all files and copies elsewhere for `_delete`."""
    store, ids = context.store, set(deletion.datasets)
    # Reading every plan takes long, so it is done before the transaction, in which only what has changed is read again.
    # A minute more allows for a clock that was set.
    since = context.clock() - 60
    documents_of = _documents_deleted(context, deletion)
    in_use = store.deletions.files_of(ids, documents_of=documents_of)
    with store.transaction():
        versions = [store.datasets.get(dataset) for dataset in deletion.datasets]
        scope = scope_of(context, deletion.dataset, versions, takes_used=takes_used)
        if isinstance(scope, Refusal):  # a run, measurement or labelling began since the request
            store.deletions.end(deletion)
            message = views.not_deleted_card(deletion.dataset, scope.text)
            _post_outcome(context, deletion, versions, message)
            return
        runs, measurements = store.runs.on(ids), store.measurements.on(ids)
        standing = _standing_promotion(context, versions)
        is_whole = _documents_deleted(context, deletion) is not None
        estimates = store.estimates.newest(deletion.dataset) if is_whole else []

        if documents_of != _documents_deleted(context, deletion):  # a version came or went meanwhile
            documents_of, since = _documents_deleted(context, deletion), 0.0
            in_use = FilesInUse()
        in_use = in_use.with_changes(store.deletions.files_of(ids, documents_of=documents_of, since=since))
        files = in_use.only_ours
        paths = [f"files/{file}{ending}" for file in files for ending in ("", ".jsonl", TEXT_ENDING)]
        paths += [f"plots/dataset-{version}" for version in ids]
        paths += [f"plots/estimate-{estimate.id}" for estimate in estimates]
        paths += [f"plots/{kind}-{run.id}" for run in runs for kind in ("run", "plan")]
        paths += [f"measurements/m{measurement.id}" for measurement in measurements]
        elsewhere = [*_copies_of_runs(context, runs, standing), *_copies_of_curves(measurements)]
        store.deletions.begin(deletion, paths, files, elsewhere)
        if standing:
            store.promotions.end(standing, now=context.clock())
            card = model_views.deleted_card(standing.model, standing.dataset).letter()
            name, channel = models.card_name(standing), standing.channel
            store.outbox.show(name, channel, card, now=context.clock(), concerns=standing.person)

        # Every key of messages about them: the names of their cards and threads, and the keys for posting once.
        about = [f"{kind} {version}" for version in ids for kind in ("dataset", "waiver")]
        about += [f"{kind} {run.id}" for run in runs for kind in RUN_MESSAGES]
        about += [f"{kind} {measurement.id}" for measurement in measurements for kind in MEASUREMENT_MESSAGES]
        about += [f"estimate {estimate.id}" for estimate in estimates]
        for labelling in store.labellings.on(ids):
            name = f"labelling {labelling.id}"
            if labelling.state == "open":  # its card would keep its buttons
                card = views.batch_deleted_card(labelling.dataset).letter()
                store.outbox.show(
                    name, labelling.channel, card, now=context.clock(), concerns=labelling.person
                )
            else:
                about.append(name)
        store.deletions.erase(
            ids, deletion.dataset, files=files, about=about, is_whole=is_whole, now=context.clock()
        )
        store.wipes.request(now=context.clock())


def _documents_deleted(context: CoreContext, deletion: DatasetDeletion) -> str | None:
    """Returns the dataset whose documents are deleted with its last version, None if they stay."""
    left = {version.id for version in context.store.datasets.versions(deletion.dataset)} - set(
        deletion.datasets
    )
    return None if left or deletion.person == RETENTION else deletion.dataset


def _delete(context: CoreContext, deletion: DatasetDeletion) -> None:
    """Deletes the files and the copies at trainers, empties the database's log, which still has the rows, then
    posts the outcome. If a trainer can't be reached, tries again later. The night's work wipes what SQLite left of them
    in unused space."""
    move_rewritten_files(context, deletion.dataset)
    for path in deletion.paths:
        place = context.settings.data / path
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    is_late = context.clock() - deletion.at > GIVE_UP_S
    left: list[str] = []
    for copy in deletion.elsewhere:
        trouble = _delete_there(context, copy)
        if isinstance(trouble, TrainerError) and not isinstance(trouble, Refused) and not is_late:
            log.warning("forgetting %s: %s", deletion.id, trouble)
            context.store.deletions.postpone(deletion, next_at=context.clock() + AGAIN_S)
            return
        if trouble:
            left.append(f"{copy.model or copy.job_id} at {copy.provider}: {trouble}")
    for trainer in context.trainers.values():
        owner = f"forgetting {deletion.id}"
        if not provider_jobs.has_deleted_uploads(context, trainer, set(deletion.files), owner):
            left.append(
                f"uploaded files at {trainer.provider.name}: deleting them is retried until they are gone"
            )
    if not context.store.wipes.empty_log():
        context.store.deletions.postpone(deletion, next_at=context.clock() + 1)
        return
    ids = set(deletion.datasets)
    versions = [context.store.datasets.get(dataset) for dataset in deletion.datasets]
    numbers = tuple(sorted(version.version for version in versions))
    rest = context.store.datasets.versions(deletion.dataset)
    runs, measurements = context.store.runs.on(ids), context.store.measurements.on(ids)
    scope = DeletionScope(deletion.dataset, numbers, not rest, len(runs), len(measurements))
    by = f"<@{deletion.person}>" if deletion.channel else "somebody in the terminal"
    message = views.deleted_card(scope, by, left, context.settings.service.backups_kept)
    with context.store.transaction():
        if not context.store.deletions.end(deletion):
            return
        context.audit("finetune", "deleted", f"dataset {max(ids)}", f"{scope.title}: {scope.with_it}")
        _post_outcome(context, deletion, versions, message)


def _delete_there(context: CoreContext, copy: RemoteCopy) -> TrainerError | str | None:
    """Deletes a copy at its trainer. Returns why something of it is still there, None if everything is gone."""
    trainer = context.trainers.get(copy.provider)
    if trainer is None:
        return f"there is no key for {copy.provider} where the bot runs"
    try:
        if copy.alias:
            trainer.delete_alias(copy.alias)
        if copy.job_id and trainer.provider.can("job_deletion"):
            trainer.delete_job(copy.job_id)
        elif copy.model:
            trainer.delete_model(copy.model)
    except TrainerError as trouble:
        return trouble
    has_record = copy.job_id and not trainer.provider.can("job_deletion")
    return "the record of the job stays there, which this trainer can't delete" if has_record else None


def _post_outcome(
    context: CoreContext, deletion: DatasetDeletion, versions: Sequence[Dataset], message: Message
) -> None:
    """Posts the outcome in the dataset's channel. A refused file is deleted silently, as its card announced."""
    if deletion.person != RETENTION:
        once = f"forgetting {deletion.id}"
        draft = Draft(kind="post", channel=versions[0].owner, body=message.letter(), dedupe=once)
        context.store.outbox.put(draft, now=context.clock())


def _standing_promotion(context: CoreContext, versions: Sequence[Dataset]) -> Promotion | None:
    """Returns the current promotion if its model was trained on one of these versions, else None."""
    standing = context.store.promotions.current(versions[0].name)
    model = context.store.model(standing.model) if standing else None
    run = context.store.runs.get(model.run_id) if model else None
    return standing if run and run.dataset_id in {version.id for version in versions} else None


def _copies_of_runs(
    context: CoreContext, runs: Sequence[Run], standing: Promotion | None
) -> list[RemoteCopy]:
    """Returns the jobs and models of these runs at their trainers."""
    copies = []
    for run in runs:
        model = context.store.model(run.model or "")
        is_used = standing is not None and model is not None and standing.model == model.name
        alias = (
            alias_for(plan_from_json(run.plan).dataset)
            if is_used and model and models.has_alias(context, model)
            else None
        )
        if run.job_id:
            copies.append(
                RemoteCopy(run.provider, run.job_id, model.provider_model if model else None, alias)
            )
    return copies


def _copies_of_curves(measurements: Sequence[Measurement]) -> list[RemoteCopy]:
    """Returns the jobs and models that learning curves created at their trainers."""
    copies = []
    for measurement in measurements:
        plan = plan_of(measurement.plan) if measurement.kind == "curve" else None
        if isinstance(plan, TunedCurvePlan):
            sizes = TunedCurveProgress.from_json(measurement.progress).sizes
            own = (size for size in sizes if size.job_id and size.from_before is None)
            copies += [RemoteCopy(plan.provider, size.job_id, size.model) for size in own]
    return copies
