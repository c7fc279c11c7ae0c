"""Lists the documents of a dataset with what was measured with them, and removes one: what is under the same name, in
all its versions. What is in use and answers from it is taken out of use: without it, that was never measured.

A removal is recorded in one transaction; then the files and the recipes with its passages are deleted. After a kill
between the two, the nightly retention deletes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bot.cards.common.blocks import Block, code
from bot.cards.common.candidates import promotable_name
from bot.cards.datasets import documents as views
from bot.cards.datasets.documents import DocumentEntry, DocumentUse
from bot.cards.models import promotions as promotion_views
from bot.context import AppContext, CoreContext
from bot.rules.permissions import Request
from bot.services.common import authorization
from bot.services.models import models, promotion_records
from bot.services.models.promotables import origin_of
from bot.services.serving import publications, recipes
from bot.values.evaluations import ComparisonPlan, promoted_candidate
from bot.values.runs import Refusal
from storage.promotions import Promotion
from storage.records import COMPARISON, Document, Measurement
from trainers.documents import TEXT_ENDING


def list_entries(context: CoreContext, dataset: str) -> list[DocumentEntry]:
    """Returns the documents that retrieval searches, newest first, with what used them."""
    entries = []
    measurements = _measurements(context, dataset)
    for document in reversed(context.store.documents.ready(dataset)):
        path = context.settings.files / str(document.sha256)
        size = path.stat().st_size if path.exists() else 0
        use = _use_of(context, document, measurements)
        entries.append(DocumentEntry(document, size, use))
    return entries


def form(context: AppContext, channel: str, dataset: str) -> Block:
    """Returns the form that lists the documents and takes another one."""
    entries = list_entries(context, dataset)
    return views.document_form(channel, dataset, entries)


def remove(context: AppContext, value: str, person: str) -> Block | Refusal:
    """Handles the button in the form: removes the document and returns the form without it. `value` is the document's
    number."""
    document = context.store.documents.get(int(value))
    gone = Refusal("This document is removed already.")
    if document is None or document.state != "ready":
        return gone
    refusal = authorization.button_refusal(context, document.dataset, person, gone)
    if refusal:
        return refusal
    # Who uploaded it may remove it without being named in the policy.
    owner = ""
    if document.uploaded_by == person:
        owner = person
    request = Request(owner, person, document.created_at)
    refusal = authorization.refusal(context, person, "delete", document.channel, request)
    if refusal:
        return refusal
    if use_of(context, document).is_promoted:
        refusal = authorization.refusal(context, person, "promote", document.channel)
        if refusal:
            return refusal
    refusal = remove_document(context, document, person)
    if refusal:
        return refusal
    return form(context, document.channel, document.dataset)


def use_of(context: CoreContext, document: Document) -> DocumentUse:
    """Returns what was measured with a document, and whether what is in use answers from it."""
    measurements = _measurements(context, document.dataset)
    return _use_of(context, document, measurements)


def remove_document(context: AppContext, document: Document, person: str) -> Refusal | None:
    """Removes a document and its files, or returns what has to end first. The person's right was checked."""
    use = use_of(context, document)
    if use.running:
        return Refusal(
            f"m{use.running} is reading {code(document.filename)}. `/finetune cancel m{use.running}` ends that "
            "measurement; or wait for its result."
        )
    if use.is_being_promoted:
        return Refusal(
            "A retrieval with this document is being deployed. Try again in a minute, or undo that first: "
            f"`/finetune rollback {document.dataset}`."
        )
    if _stands_in(context, document):
        ends = code(f"/finetune fallback {document.dataset} to=nothing")
        return Refusal(
            f"The fallback of {code(document.dataset)} answers from it: {ends} ends that. Then remove it."
        )
    store = context.store
    now = context.clock()
    name = f"document {document.id}"
    standing = store.promotions.current(document.dataset)
    with store.transaction():
        removed = store.documents.remove(document, now=now)
        if not removed:
            return Refusal("This document is removed already.")
        context.audit(person, "remove knowledge", name, f"of dataset {document.dataset}")
        card = views.document_removed(document, person, use).letter()
        if standing and use.is_promoted:
            _take_out_of_use(context, standing, document, person)
        store.outbox.show(name, document.channel, card, now=now, concerns=document.uploaded_by)
    delete_files(context)
    return None


def _stands_in(context: CoreContext, document: Document) -> bool:
    """True if what answers when what is in use can't looks things up in this document."""
    fallback = context.store.fallbacks.current(document.dataset)
    if fallback is None:
        return False
    looked_up = recipes.documents_of(context, fallback.what)
    return not _hashes(context, document).isdisjoint(looked_up)


def _take_out_of_use(context: AppContext, standing: Promotion, document: Document, person: str) -> None:
    """Ends the use of what answers from a removed document. Call it in the transaction of the removal."""
    store = context.store
    now = context.clock()
    why = f"{document.filename}, from which it answers, was removed"
    over = store.promotions.take_out_of_use(standing, person, why, now=now)
    if over is None:
        return
    store.fallbacks.end(over.dataset, person, now=now)
    origin = origin_of(context, over.what)
    detail = f"{promotable_name(over.what)} for {over.dataset}. Because: {why}"
    context.audit(person, "take out of use", origin.subject, detail)
    card = promotion_views.document_removed_card(over, document.filename).letter()
    name = models.card_name(over)
    store.outbox.show(name, over.channel, card, now=now, concerns=over.person)
    promotion_records.update_cards_after_end(context, over)


def delete_files(context: CoreContext) -> None:
    """Deletes the files of removed documents, unless something else has the same file, and the recipes that have their
    passages."""
    removed = context.store.documents.removed()
    if removed:
        publications.sync(context)  # before the files of what answers are gone, also while no bot runs
    for document in removed:
        for sha256 in recipes.built_with(context, document):
            recipes.folder_of(context).remove(sha256)
        if not context.store.documents.is_file_used(str(document.sha256)):
            path = context.settings.files / str(document.sha256)
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}{TEXT_ENDING}").unlink(missing_ok=True)
        context.store.documents.move(document, "refused", now=context.clock(), sha256=None)


def _measurements(context: CoreContext, dataset: str) -> Sequence[tuple[Measurement, ComparisonPlan]]:
    """Returns the measurements of candidates on a dataset, newest first, with their plans."""
    versions = [version.id for version in context.store.datasets.versions(dataset)]
    compared = []
    for measurement in context.store.measurements.on(versions):
        if measurement.kind != COMPARISON or measurement.state in ("cancelled", "failed"):
            continue
        plan = ComparisonPlan.from_json(measurement.plan)
        compared.append((measurement, plan))
    compared.sort(key=lambda each: -each[0].id)
    return compared


def _hashes(context: CoreContext, document: Document) -> frozenset[str | None]:
    """Returns the hashes of all versions of a document: a removal takes the earlier ones of its name, too."""
    hashes = set()
    for other in context.store.documents.of(document.dataset):
        if other.filename == document.filename and other.state == "ready":
            hashes.add(other.sha256)
    return frozenset(hashes)


def _use_of(
    context: CoreContext, document: Document, measurements: Sequence[tuple[Measurement, ComparisonPlan]]
) -> DocumentUse:
    done = []
    running = 0
    versions = _hashes(context, document)
    for measurement, plan in measurements:
        if versions.isdisjoint(plan.documents):
            continue
        if measurement.state == "done":
            done.append(measurement.id)
        else:
            running = measurement.id
    use = DocumentUse(tuple(done), running)
    promotion = context.store.promotions.current(document.dataset)
    if promotion is None or promotion.measurement not in done:
        return use
    candidate = promoted_candidate(promotion.what)
    if candidate is None or candidate.kind != "retrieval":
        return use
    # Until its recipe is built, it has no copy of the document.
    return replace(use, is_promoted=True, is_being_promoted=promotion.recipe is None)
