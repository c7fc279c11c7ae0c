"""Deletes a dataset, or some of its rows by adding a version without them.

A deletion is recorded at the click and carried out by ticks: first in the database, in one transaction that also lists
the copies elsewhere, then files, copies at trainers, and the freed bytes of the database. After a kill the next tick
goes on.

deletion_scope.py says what that includes, and row_deletion.py writes a version without some rows.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from bot.cards.common.blocks import Message, code
from bot.cards.datasets import dataset_deletion as views
from bot.cards.datasets.dataset_deletion import DeletionScope
from bot.cards.models import promotions as promotion_views
from bot.context import AppContext, CoreContext
from bot.rules.permissions import Request
from bot.rules.plans import plan_from_json
from bot.services import deletion_scope
from bot.services.common import authorization, provider_jobs, token_serving
from bot.services.datasets import row_deletion
from bot.services.models import models, promotion_records
from bot.services.serving import call_samples, publications, recipes
from bot.values.learning_curves import trained_curve
from bot.values.requests import Delete
from bot.values.runs import Refusal
from storage.deletion.dataset_deletion import DatasetDeletion, FilesInUse, RemoteCopy
from storage.promotions import Fallback, Promotion
from storage.records import (
    Dataset,
    Draft,
    Labelling,
    Measurement,
    Model,
    Run,
    StoredEstimate,
)
from trainers.client.client import Trainer
from trainers.deployments.coreweave import EXPORT_PREFIX
from trainers.deployments.port import Deployments
from trainers.documents import TEXT_ENDING
from trainers.errors import Refused, TrainerError

RETENTION = "finetune"
FILE_ENDINGS = ("", ".jsonl", TEXT_ENDING)  # the upload, its cleaned copy, and the text of a document
DATASET_MESSAGES = ("dataset", "waiver")
RUN_MESSAGES = ("run", "plan", "result", "doubt", "decision", "reminder", "void", "end", "dm", "changed")
MEASUREMENT_MESSAGES = ("measurement", "measured", "pair", "answer", "agreement", "sealed")
AGAIN_S = 300.0
GIVE_UP_S = 24 * 3600.0  # a trainer that can't be reached for longer is named in the outcome
log = logging.getLogger(__name__)


def may_ask(context: AppContext, command: Delete, person: str, channel: str) -> DeletionScope | Refusal:
    """Returns what would be deleted, or why this person can't delete it now."""
    refusal = authorization.dataset_refusal(context, command.dataset, person, channel)
    if refusal:
        return refusal
    versions = deletion_scope.chosen_versions(context, command)
    if isinstance(versions, Refusal):
        return versions
    # Who uploaded everything may delete it without being named in the policy.
    is_theirs = all(version.uploaded_by == person for version in versions)
    owner = ""
    if is_theirs:
        owner = person
    request = Request(owner, person, versions[0].created_at)
    refusal = authorization.refusal(context, person, "delete", channel, request)
    if refusal:
        return refusal
    # The deletion takes a model out of use, so it needs that right too.
    if deletion_scope.standing_promotions(context, versions):
        refusal = authorization.refusal(context, person, "promote", channel)
        if refusal:
            return refusal
    return deletion_scope.scope_of(context, command.dataset, versions)


def ask(context: AppContext, command: Delete, person: str, channel: str) -> DatasetDeletion | Refusal:
    """Records the request of a person; the ticks delete."""
    scope = may_ask(context, command, person, channel)
    if isinstance(scope, Refusal):
        return scope
    return record(context, command, person, channel)


def record(
    context: CoreContext, command: Delete, person: str, channel: str | None
) -> DatasetDeletion | Refusal:
    """Records the request of a person whose right to make it was checked."""
    versions = deletion_scope.chosen_versions(context, command)
    if isinstance(versions, Refusal):
        return versions
    with context.store.transaction():
        scope = deletion_scope.scope_of(context, command.dataset, versions)
        if isinstance(scope, Refusal):
            return scope
        deletion = _record(context, scope, versions, person, channel)
    if deletion is None:
        return Refusal(f"{code(command.dataset)} is already being deleted.")
    return deletion


def commit_rewrite(
    context: AppContext, new: row_deletion.RewrittenDataset, person: str
) -> DatasetDeletion | Refusal:
    """Records the version without the rows and deletes all earlier versions, in one transaction. A model in use that
    was trained on one of them is deleted too: the rows have to go before a newer model can be trained."""
    name = new.before.name
    call_samples.delete_rows(context, new.named)
    with context.store.transaction():
        versions = context.store.datasets.versions(name)
        scope = deletion_scope.scope_of(context, name, versions, keeps_rest=True)
        if isinstance(scope, Refusal):
            return scope
        deletion = _record(context, replace(scope, is_whole=False), versions, person, None)
        if deletion is None:
            return Refusal(f"{code(name)} is already being deleted.")
        row_deletion.add_version(context, new, person)
        _erase(context, deletion, takes_used=True)
    return deletion


def expire(context: CoreContext, version: Dataset) -> None:
    """Records the deletion of a refused file whose retention is over."""
    with context.store.transaction():
        scope = deletion_scope.scope_of(context, version.name, [version])
        if isinstance(scope, DeletionScope):
            _record(context, scope, [version], RETENTION, None)


def step(context: AppContext, deletion: DatasetDeletion) -> None:
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
    now = context.clock()
    ids = [version.id for version in versions]
    deletion = context.store.deletions.ask(scope.dataset, ids, person=person, channel=channel, now=now)
    if deletion:
        subject = f"dataset {max(ids)}"
        detail = f"{scope.title}: {scope.with_it}"
        context.audit(person, "delete", subject, detail)
    return deletion


def _erase(context: AppContext, deletion: DatasetDeletion, *, takes_used: bool = False) -> None:
    """Erases everything in the database, and lists all files and copies elsewhere for `_delete`."""
    store = context.store
    ids = set(deletion.datasets)
    # Reading every plan takes long, so it is done before the transaction, in which only what has changed is read again.
    # A minute more allows for a clock that was set.
    since = context.clock() - 60
    documents_of = _documents_deleted(context, deletion)
    in_use = store.deletions.files_of(ids, documents_of=documents_of)
    with store.transaction():
        versions = [store.datasets.get(dataset) for dataset in deletion.datasets]
        scope = deletion_scope.scope_of(context, deletion.dataset, versions, takes_used=takes_used)
        if isinstance(scope, Refusal):  # a run, measurement or labelling began since the request
            store.deletions.end(deletion)
            message = views.not_deleted_card(deletion.dataset, scope.text)
            _post_outcome(context, deletion, versions, message)
            return
        documents_now = _documents_deleted(context, deletion)
        if documents_of != documents_now:  # a version came or went meanwhile
            documents_of = documents_now
            since = 0.0
            in_use = FilesInUse()
        changed = store.deletions.files_of(ids, documents_of=documents_of, since=since)
        files = in_use.with_changes(changed).only_ours
        _erase_records(context, deletion, versions, files)


def _erase_records(
    context: AppContext, deletion: DatasetDeletion, versions: Sequence[Dataset], files: Collection[str]
) -> None:
    """Erases the versions and all that was made from them. Call it in a transaction."""
    store = context.store
    now = context.clock()
    ids = set(deletion.datasets)
    is_whole = _documents_deleted(context, deletion) is not None
    runs = store.runs.on(ids)
    measurements = store.measurements.on(ids)
    estimates: Sequence[StoredEstimate] = ()
    if is_whole:
        estimates = store.estimates.newest(deletion.dataset)
    standing = deletion_scope.standing_promotions(context, versions)
    paths = [f"files/{file}{ending}" for file in files for ending in FILE_ENDINGS]
    paths += _folders_of(ids, runs, measurements, estimates)
    serving = context.settings.recipes.name
    paths += [f"{serving}/recipes/{sha256}" for sha256 in recipes.learnt_from(context, ids)]
    elsewhere = [*_copies_of_runs(context, runs), *_copies_of_curves(measurements)]
    # Listed in the same transaction: once the rows are gone, nothing else knows of these files and copies.
    store.deletions.begin(deletion, paths, files, elsewhere)
    for promotion in standing:
        _end_promotion(context, promotion, deletion.person)
    for fallback in deletion_scope.standing_fallbacks(context, versions):
        _end_fallback(context, fallback, deletion.person)

    about = _message_keys(ids, runs, measurements, estimates)
    if is_whole:
        _audit_documents(context, deletion.dataset)
    for labelling in store.labellings.on(ids):
        if labelling.state == "open":
            _close_card(context, labelling)
        else:
            about.append(f"labelling {labelling.id}")
    for ask in store.deletions.waiting_asks(ids, deletion.dataset):
        message = views.unanswered_notice(ask.model).body()
        notice = Draft("ephemeral", ask.channel, message, person=ask.person, topic="answers")
        store.outbox.put(notice, now=now)
    store.deletions.erase(ids, deletion.dataset, files=files, about=about, is_whole=is_whole, now=now)
    store.wipes.request(now=now)


def _folders_of(
    versions: Collection[int],
    runs: Sequence[Run],
    measurements: Sequence[Measurement],
    estimates: Sequence[StoredEstimate],
) -> Iterator[str]:
    """Yields the folders of what was made from these versions."""
    for version in versions:
        yield f"plots/dataset-{version}"
    for estimate in estimates:
        yield f"plots/estimate-{estimate.id}"
    for run in runs:
        yield f"plots/run-{run.id}"
        yield f"plots/plan-{run.id}"
    for measurement in measurements:
        yield f"measurements/m{measurement.id}"


def _message_keys(
    versions: Collection[int],
    runs: Sequence[Run],
    measurements: Sequence[Measurement],
    estimates: Sequence[StoredEstimate],
) -> list[str]:
    """Returns every key of messages about them: the names of their cards and threads, and the keys for posting once."""
    about = [f"{kind} {version}" for version in versions for kind in DATASET_MESSAGES]
    about += [f"{kind} {run.id}" for run in runs for kind in RUN_MESSAGES]
    for measurement in measurements:
        about += [f"{kind} {measurement.id}" for kind in MEASUREMENT_MESSAGES]
    about += [f"estimate {estimate.id}" for estimate in estimates]
    return about


def _audit_documents(context: CoreContext, dataset: str) -> None:
    for document in context.store.documents.of(dataset):
        subject = f"document {document.id}"
        context.audit("finetune", "document deleted", subject, f"with dataset {dataset}")


def _end_promotion(context: AppContext, standing: Promotion, deleted_by: str) -> None:
    """Ends the use of what is deleted, with what stands in for it, and shows that on its card."""
    store = context.store
    now = context.clock()
    store.promotions.end(standing, now=now)
    store.fallbacks.end(standing.dataset, deleted_by, now=now)
    name = models.card_name(standing)
    card = promotion_views.deleted_card(standing).letter()
    store.outbox.show(name, standing.channel, card, now=now, concerns=standing.person)
    promotion_records.update_cards_after_end(context, standing)


def _end_fallback(context: AppContext, fallback: Fallback, deleted_by: str) -> None:
    """Ends what is deleted as the fallback of something that stays in use, and shows that on the card of this."""
    context.store.fallbacks.end(fallback.dataset, deleted_by, now=context.clock())
    standing = context.store.promotions.current(fallback.dataset)
    if standing is not None:
        proof = models.proof_of(context, standing)
        models.show_card(context, standing, proof)


def _close_card(context: CoreContext, labelling: Labelling) -> None:
    """Replaces the card of an open batch, which would keep its buttons."""
    name = f"labelling {labelling.id}"
    card = views.batch_deleted_card(labelling.dataset).letter()
    now = context.clock()
    context.store.outbox.show(name, labelling.channel, card, now=now, concerns=labelling.person)


def _documents_deleted(context: CoreContext, deletion: DatasetDeletion) -> str | None:
    """Returns the dataset whose documents are deleted with its last version, None if they stay."""
    versions = context.store.datasets.versions(deletion.dataset)
    has_rest = any(version.id not in deletion.datasets for version in versions)
    if has_rest or deletion.person == RETENTION:
        return None
    return deletion.dataset


def _delete(context: CoreContext, deletion: DatasetDeletion) -> None:
    """Deletes the files and the copies at trainers, empties the database's log, which still has the rows, then
    posts the outcome. If a trainer can't be reached, tries again later. The night's work wipes what SQLite left of them
    in unused space."""
    row_deletion.move_rewritten_files(context, deletion.dataset)
    publications.sync(context)  # before the files of what answers are gone, also while no bot runs
    if context.store.datasets.newest(deletion.dataset) is None:
        call_samples.delete_of(context, deletion.dataset)
    for name in deletion.paths:
        path = context.settings.data / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # a kill may have come after it was deleted
    left = _delete_elsewhere(context, deletion)
    now = context.clock()
    if left is None:
        context.store.deletions.postpone(deletion, next_at=now + AGAIN_S)
    elif not context.store.wipes.empty_log():
        context.store.deletions.postpone(deletion, next_at=now + 1)  # somebody is reading; that ends soon
    else:
        _end(context, deletion, left)


def _delete_elsewhere(context: CoreContext, deletion: DatasetDeletion) -> list[str] | None:
    """Deletes the copies at trainers. Returns what is left there, None if a trainer should be tried again later."""
    is_late = context.clock() - deletion.at > GIVE_UP_S
    left = []
    for copy in deletion.elsewhere:
        trouble = _delete_there(context, copy)
        # A refusal is final, anything else may work later.
        is_unreachable = isinstance(trouble, TrainerError) and not isinstance(trouble, Refused)
        if is_unreachable and not is_late:
            log.warning("forgetting %s: %s", deletion.id, trouble)
            return None
        if trouble:
            what = copy.model or copy.job_id
            left.append(f"{what} at {copy.provider}: {trouble}")
    owner = f"forgetting {deletion.id}"
    for trainer in context.trainers.values():
        are_gone = provider_jobs.try_to_delete_uploads(context, trainer, set(deletion.files), owner)
        if not are_gone:
            title = trainer.provider.name
            left.append(f"uploaded files at {title}: deleting them is retried until they are gone")
    return left


def _end(context: CoreContext, deletion: DatasetDeletion, left: Sequence[str]) -> None:
    """Records that everything is deleted but what is `left` at trainers, and posts it."""
    store = context.store
    ids = set(deletion.datasets)
    versions = [store.datasets.get(dataset) for dataset in deletion.datasets]
    scope = DeletionScope(
        deletion.dataset,
        deletion_scope.numbers_of(versions),
        is_whole=not store.datasets.versions(deletion.dataset),
        runs=len(store.runs.on(ids)),
        measurements=len(store.measurements.on(ids)),
    )
    by = "somebody in the terminal"
    if deletion.channel:
        by = f"<@{deletion.person}>"
    message = views.deleted_card(scope, by, left, context.settings.service.backups_kept)
    with store.transaction():
        if not store.deletions.end(deletion):
            return
        detail = f"{scope.title}: {scope.with_it}"
        context.audit("finetune", "deleted", f"dataset {max(ids)}", detail)
        _post_outcome(context, deletion, versions, message)


def _delete_there(context: CoreContext, copy: RemoteCopy) -> TrainerError | str | None:
    """Deletes a copy at its trainer. Returns why something of it is still there, None if everything is gone."""
    vendor = context.deployments.get(copy.provider)
    if copy.model and vendor is not None and vendor.bills_tokens:
        return _delete_adapter(vendor, copy.model)
    trainer = context.trainers.get(copy.provider)
    if trainer is None:
        return f"there is no key for {copy.provider} where the bot runs"
    deletes_jobs = trainer.provider.can("job_deletion")
    try:
        if copy.model and trainer.provider.can("aliases"):
            _delete_aliases(trainer, copy.model)
        if copy.job_id and deletes_jobs:
            trainer.delete_job(copy.job_id)  # with its model
        elif copy.model:
            trainer.delete_model(copy.model)
    except TrainerError as trouble:
        return trouble
    if copy.job_id and not deletes_jobs:
        return "the record of the job stays there, which this trainer can't delete"
    return None


def _delete_aliases(trainer: Trainer, model: str) -> None:
    """Deletes all names by which programs call the model, before it is deleted: they then hear that it is gone, rather
    than an error from a model behind it. A trainer deletes no model that has one."""
    checkpoint = f"{model}:ckpt-step-"
    for alias, target in trainer.aliases().items():
        if target == model or target.startswith(checkpoint):
            trainer.delete_alias(alias)


def _delete_adapter(vendor: Deployments, name: str) -> TrainerError | None:
    try:
        vendor.delete_adapter(name)
    except TrainerError as trouble:
        return trouble
    return None


def _post_outcome(
    context: CoreContext, deletion: DatasetDeletion, versions: Sequence[Dataset], message: Message
) -> None:
    """Posts the outcome in the dataset's channel. A refused file is deleted silently, as its card announced."""
    if deletion.person == RETENTION:
        return
    channel = versions[0].owner
    once = f"forgetting {deletion.id}"
    draft = Draft("post", channel, message.letter(), dedupe=once, topic="receipts")
    context.store.outbox.put(draft, now=context.clock())


def _copies_of_runs(context: CoreContext, runs: Sequence[Run]) -> list[RemoteCopy]:
    """Returns the jobs and models of these runs at their trainers."""
    copies = []
    for run in runs:
        if not run.job_id:
            continue
        model = context.store.model(run.model or "")
        if model is None:
            copies.append(RemoteCopy(run.provider, run.job_id, None))
            continue
        # First, since the job's own folder has what they were uploaded from.
        copies += _uploaded_adapters(context, run, model)
        copies.append(RemoteCopy(run.provider, run.job_id, model.provider_model))
    return copies


def _uploaded_adapters(context: CoreContext, run: Run, model: Model) -> Iterator[RemoteCopy]:
    """Yields the adapter of a run at each vendor that serves it by the token, and what somebody may have uploaded from
    the terminal."""
    for record in context.store.deployments.of_run(run.id):
        vendor = context.deployments.get(record.provider)
        if record.by_token and record.state != "stopped" and (vendor is None or vendor.takes_folders):
            yield RemoteCopy(record.provider, None, record.name)
    plan = plan_from_json(run.plan)
    for row in token_serving.servers_for(context.settings, plan):
        has_key = row.name in context.deployments
        if has_key and not isinstance(token_serving.server_for(context.settings, row.name, plan), Refusal):
            # What the vendor has trained itself it knows by the model's own name.
            name = f"{EXPORT_PREFIX}{model.name}" if row.takes_uploads else model.provider_model
            yield RemoteCopy(row.name, None, name)


def _copies_of_curves(measurements: Sequence[Measurement]) -> list[RemoteCopy]:
    """Returns the jobs and models that learning curves of earlier versions created at their trainers."""
    copies = []
    for measurement in measurements:
        if measurement.kind != "curve":
            continue
        curve = trained_curve(measurement.plan, measurement.progress)
        if curve is None:
            continue
        for size in curve.own_sizes:
            if size.job_id:
                copies.append(RemoteCopy(curve.provider, size.job_id, size.model))
    return copies
