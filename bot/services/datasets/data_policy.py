"""Decides whether a dataset may be sent to a provider, by the waivers for personal data and the rules of
[[policy.data]], and records waivers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import code, escape, sentence
from bot.cards.datasets import data_policy as views
from bot.context import AppContext
from bot.rules import data_policy as rules
from bot.rules.data_policy import PERSONAL_DATA, EgressDecision
from bot.rules.permissions import Data, Request, has_enough_words
from bot.rules.plans import Plan
from bot.services.common import authorization
from bot.services.datasets import datasets
from bot.values.runs import Refusal
from storage.records import Dataset, Waiver
from trainers.dataset import Report
from trainers.dataset.sensitive_data import PERSONAL, SECRET, faults_in
from trainers.providers.providers import ProviderRow


@dataclass(frozen=True)
class Unsure:
    """Whether it is allowed can't be told yet, because Slack didn't answer or a scan is missing. Nothing is sent until
    then."""

    reason: str


@dataclass(frozen=True)
class Forbidden:
    """It is no longer allowed, and no approval can change that: the run or measurement ends."""

    reason: str


@dataclass(frozen=True)
class EgressPermission:
    """The dataset may be sent. `notes` are for the card, as plain text; `overridden` are the names of the rules that
    `reason` overrides."""

    notes: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    reason: str = ""


def decide_egress(
    context: AppContext, dataset: Dataset, report: Report, rows: Sequence[ProviderRow], reason: str | None
) -> EgressPermission | Refusal:
    """Decides whether the dataset may be sent to all providers in `rows`. `reason` is a person's reason to override
    soft rules."""
    if reason and not has_enough_words(reason):
        return Refusal(f"`because=`: {views.reason_too_short()}", "because")
    notes: list[str] = []
    overridden: list[str] = []
    for row in rows:
        refusal = datasets.needs_waiver(context, dataset, report, row)
        if refusal:
            return refusal
        decision, data = _decide(context, dataset, report, row, reason)
        if decision.refused:
            return Refusal(sentence(views.egress_refusal(decision, data, row.name)))
        notes += views.egress_notes(decision, row.name, reason)
        if row.cluster and not row.rents:
            notes.append(f"It trains on {row.title}.")
        overridden += decision.overridden
    # Several providers may have the same note; each is said once, in its order.
    return EgressPermission(
        notes=tuple(dict.fromkeys(notes)),
        overridden=tuple(dict.fromkeys(overridden)),
        reason=" ".join((reason or "").split()),
    )


def secret_refusal(text: str, name: str) -> Refusal | None:
    """Returns why a text that a person typed may not be sent to any model, None if it may. `name` names the text in the
    sentence, like 'Your question'."""
    for fault in faults_in(text):
        if fault.rule == SECRET:
            return Refusal(
                f"{name} {fault.text}, so it is not sent to any model. Remove the secret, and revoke it where it was "
                "issued, because Slack has it by now."
            )
    return None


def typed_text_refusal(
    context: AppContext,
    text: str,
    name: str,
    dataset_id: int,
    rows: Sequence[ProviderRow | None],
    cure: str = "Write a placeholder instead.",
) -> Refusal | None:
    """Returns why a text that was not read from a scanned file (a question or a prompt) may not be sent to these
    providers, None if it may. Every such text passes here before it is sent. `name` names it in the sentence, like
    'Your question'; `dataset_id` is the dataset whose waiver covers it. A row of None is a provider that is no longer
    configured."""
    secret = secret_refusal(text, name)
    if secret:
        return secret
    elsewhere = [row for row in rows if row is None or not row.stays_here]
    if not elsewhere or context.store.waivers.of(dataset_id):
        return None
    personal = [fault.text for fault in faults_in(text) if fault.rule == PERSONAL]
    if not personal:
        return None
    row = elsewhere[0]
    vendor = "this provider"
    if row is not None:
        vendor = escape(row.title)
    return Refusal(
        f"{name} {personal[0]}, and no approver has recorded a waiver that lets personal data of this dataset go to "
        f"{vendor}. {cure}"
    )


def question_refusal(context: AppContext, text: str, channel: str, row: ProviderRow) -> Refusal | None:
    """Returns why a question in plain words, which is about no dataset, may not be sent to a provider, None if it may.
    It counts as data of the channel where it was asked, and no waiver covers it."""
    secret = secret_refusal(text, "Your question")
    if secret:
        return secret
    personal = next((fault.text for fault in faults_in(text) if fault.rule == PERSONAL), None)
    if personal and not row.stays_here:
        return Refusal(f"Your question {personal}, so it is not sent to {escape(row.title)}.")
    data = Data("", frozenset({channel}), personal is not None)
    if _may_go(context, data, row):
        return None
    return Refusal(
        f"By the rules about data in finetune.toml, what is asked here is not sent to {escape(row.title)}."
    )


def may_name(context: AppContext, name: str, row: ProviderRow) -> bool:
    """True if a provider may be told a dataset's name: only where its rows might go, too."""
    dataset = context.store.datasets.newest(name)
    if dataset is None:
        return False
    return _may_go(context, Data(name, dataset.source_channels, False), row)


def _may_go(context: AppContext, data: Data, row: ProviderRow) -> bool:
    policy = context.settings.policy
    decision = rules.decide_egress(policy, data, row.name, stays_here=row.stays_here, reason=None)
    return decision.refused is None


def plan_refusal(context: AppContext, plan: Plan) -> str | None:
    """Returns why a plan's data may not be sent by today's rules, None if it may. Rules that were overridden when the
    plan was made stay overridden."""
    return dataset_refusal(context, plan.dataset_id, plan.receivers, plan.overridden)


def egress_now(
    context: AppContext,
    dataset_id: int,
    providers: Collection[str],
    overridden: Collection[str],
    prompts: Collection[str] = (),
) -> Unsure | Forbidden | None:
    """Returns why a dataset may not be sent to these providers now, by the scans of its files and today's rules; None
    if it may. `overridden` are the names of rules that a person overrode; `prompts` are sent with the rows."""
    # First, because the scan may still find something that the rules below depend on.
    waits = unscanned(context, dataset_id, providers)
    if waits:
        return Unsure(waits)
    forbidden = dataset_refusal(context, dataset_id, providers, overridden)
    if forbidden:
        return Forbidden(forbidden)
    refused = prompts_refusal(context, prompts, dataset_id, providers)
    if refused:
        return Forbidden(refused.text)
    return None


def prompts_refusal(
    context: AppContext, prompts: Collection[str], dataset_id: int, providers: Collection[str]
) -> Refusal | None:
    """Returns why one of these prompts may not be sent to these providers, None if all may."""
    rows = [context.settings.provider(name) for name in providers]
    for prompt in filter(None, prompts):
        refusal = typed_text_refusal(context, prompt, "The prompt", dataset_id, rows)
        if refusal:
            return refusal
    return None


def unscanned(context: AppContext, dataset_id: int, providers: Collection[str]) -> str | None:
    """Returns why the dataset has to wait for a scan before it may leave, None if it need not wait."""
    dataset = context.store.datasets.get(dataset_id)
    report = datasets.report_of(dataset)
    receivers = [row for row in context.settings.providers if row.name in providers]
    leaves = any(not row.stays_here for row in receivers)
    if report is None or not leaves:
        return None
    if datasets.scans_of(context, report):
        return None
    return views.scan_pending_refusal(dataset)


def dataset_refusal(
    context: AppContext, dataset_id: int, providers: Collection[str], overridden: Collection[str]
) -> str | None:
    """Returns why a dataset may not be sent to these providers, by what was found in its files and then by the rules;
    None if it may. `overridden` are the names of rules that a person overrode."""
    dataset = context.store.datasets.get(dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        return None  # other checks report that the dataset or a key is missing
    rows = [row for row in context.settings.providers if row.name in providers]
    # All are looked at before the first refusal, since each may post the card that asks for its waiver.
    refusals = [datasets.needs_waiver(context, dataset, report, row) for row in rows]
    for refusal in refusals:
        if refusal:
            return refusal.text
    for row in rows:
        decision, data = _decide(context, dataset, report, row, None)
        # With a reason, only hard rules refuse, and `overridden` names the soft rules that it would have to override.
        with_reason, _ = _decide(context, dataset, report, row, "as recorded")
        is_overridden = not with_reason.refused and set(with_reason.overridden) <= set(overridden)
        if decision.refused and not is_overridden:
            return sentence(views.egress_refusal(decision, data, row.name))
    return None


def overridden_rules(context: AppContext, subject: str) -> tuple[str, ...]:
    """Returns the names of the rules that were overridden for a subject of the audit log, like 'measurement 7'."""
    entries = context.store.audit.entries(subject)
    details = [entry.detail for entry in entries if entry.action == "override"]
    names = []
    for rule in context.settings.policy.data:
        # As `record_egress` writes them.
        if any(detail.startswith(f"{rule.name}: ") for detail in details):
            names.append(rule.name)
    return tuple(names)


def record_egress(context: AppContext, permission: EgressPermission, person: str, subject: str) -> None:
    """Writes the overridden rules into the audit log. Call it in the transaction that records the run or
    measurement."""
    for name in permission.overridden:
        context.audit(person, "override", subject, f"{name}: {permission.reason}")


def _decide(
    context: AppContext, dataset: Dataset, report: Report, row: ProviderRow, reason: str | None
) -> tuple[EgressDecision, Data]:
    """Applies the rules about data to one provider. Returns the decision and the data as the rules see it."""
    is_personal = PERSONAL_DATA in datasets.codes_of(context, report)
    data = Data(dataset.name, dataset.source_channels, is_personal)
    policy = context.settings.policy
    decision = rules.decide_egress(policy, data, row.name, stays_here=row.stays_here, reason=reason)
    return decision, data


def may_record_waiver(context: AppContext, dataset_id: int, person: str) -> Dataset | Refusal:
    """Returns the dataset that the form is about, or why this person can't record a waiver for it."""
    dataset = context.store.datasets.get(dataset_id)
    request = Request("", dataset.uploaded_by, dataset.created_at)
    refusal = authorization.dataset_button_refusal(context, "waive", dataset, person, request)
    if refusal:
        return refusal
    if dataset.forgotten_at is not None:
        return Refusal(f"{code(dataset.name)} was deleted, so it no longer needs a waiver.")
    waiver = context.store.waivers.of(dataset.id)
    if waiver:
        return Refusal(_recorded_already(dataset, waiver))
    return dataset


def record_waiver(context: AppContext, dataset_id: int, person: str, reason: str) -> Waiver | Refusal:
    """Records an approver's waiver, which is final for this version, and its audit row. The card then shows who gave it
    and why."""
    dataset = may_record_waiver(context, dataset_id, person)
    if isinstance(dataset, Refusal):
        return dataset
    if not has_enough_words(reason):
        return Refusal(views.reason_too_short())
    now = context.clock()
    why = " ".join(reason.split())
    with context.store.transaction():
        waiver = context.store.waivers.add(dataset.id, person, why, now=now)
        # Two approvers may press the button at once: the first one's reason stays.
        if waiver is None:
            first = context.store.waivers.of(dataset.id)
            return Refusal(_recorded_already(dataset, first))
        context.audit(person, "waive", f"dataset {dataset.id}", why)
        body = views.waiver_recorded_card(dataset, waiver).body()
        card = views.card_name(dataset)
        context.store.outbox.show(card, dataset.channel, body, now=now)
    return waiver


def _recorded_already(dataset: Dataset, waiver: Waiver | None) -> str:
    by = ""
    if waiver is not None:
        by = f" by <@{waiver.person}>"
    return f"A waiver for {code(dataset.title)} was already recorded{by}; it can't be changed."
