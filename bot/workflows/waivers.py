"""An approver's word that personal data may leave for a vendor: recorded once, for one version, for good."""

from __future__ import annotations

from bot.decisions.approval import Request
from bot.decisions.waiving import is_no_reason
from bot.results import Refusal
from bot.views import waivers as views
from bot.views.blocks import code
from bot.workflows import permits
from bot.workflows.desk import Desk
from storage.records import Dataset, Draft, Waiver


def may_record(desk: Desk, dataset_id: int, person: str) -> Dataset | Refusal:
    """The dataset that the form is about."""
    dataset = desk.store.datasets.get(dataset_id)
    request = Request("", dataset.uploaded_by, dataset.created_at)
    refused = permits.may(desk, person, "waive", dataset.channel, request)
    if refused:
        return refused
    waiver = desk.store.waivers.of(dataset.id)
    return Refusal(_stands(dataset, waiver)) if waiver else dataset


def record(desk: Desk, dataset_id: int, person: str, reason: str) -> Waiver | Refusal:
    """With its row in the audit log; the card then says who and why."""
    dataset = may_record(desk, dataset_id, person)
    if isinstance(dataset, Refusal):
        return dataset
    nothing_said = is_no_reason(reason)
    if nothing_said:
        return Refusal(nothing_said.reason)
    now, why = desk.clock(), " ".join(reason.split())
    with desk.store.transaction():
        waiver = desk.store.waivers.add(dataset.id, person, why, now=now)
        if waiver is None:
            return Refusal(_stands(dataset, desk.store.waivers.of(dataset.id)))
        desk.store.audit.add(at=now, who=person, action="waive", subject=f"dataset {dataset.id}", detail=why)
        body = views.given(dataset, waiver).body()
        card = views.card_name(dataset)
        desk.store.outbox.put(Draft(kind="edit", channel=dataset.channel, body=body, card=card), now=now)
    return waiver


def _stands(dataset: Dataset, waiver: Waiver | None) -> str:
    by = f" by <@{waiver.person}>" if waiver else ""
    return f"A waiver for {code(dataset.title)} was recorded{by} already; it stands as it is."
