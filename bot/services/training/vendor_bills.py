"""Reads the bills of runs at vendors that list what they bill, and corrects what was booked, once for each run.

A run is booked with its tokens times the list price when it ends. The vendor's price is final hours or days later, when
its invoice covers the run's days; until then, and without an administrator's key, that figure stays. Nothing is written
down before a bill is final but that it is open, so a kill only means another look.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bot.cards.common.blocks import Message
from bot.cards.training import vendor_bills as cards
from bot.context import AppContext
from bot.rules.plans import plan_from_json
from bot.rules.training import vendor_bills as rules
from bot.rules.training.vendor_bills import VendorBill
from bot.services.evidence import notifications
from bot.values.runs import Progress, RunResult
from storage.records import Draft, Run, Topic
from trainers.client.vendor_bills import Billing
from trainers.errors import Refused, TrainerError
from trainers.types import UsageList

DAY_S = 24 * 3600.0
LOOK_S = 3600.0  # the vendor lists usage by the hour
REFUSED_S = DAY_S  # a key gets its rights from a person
PATIENCE_DAYS = 14
CENT_MICROS = 10_000

log = logging.getLogger(__name__)


def sweep(context: AppContext) -> None:
    """Reads one list for each vendor with open bills, each hour at most. A vendor that doesn't answer is asked again an
    hour later."""
    for provider, billing in context.billing.items():
        runs = _open_bills(context, provider)
        if runs and _is_due(context, provider):
            context.checked_at[_subject(provider)] = context.clock()
            _look(context, provider, billing, runs)
        for run in runs:
            if context.clock() - run.state_since > PATIENCE_DAYS * DAY_S:
                _give_up(context, run)


def _open_bills(context: AppContext, provider: str) -> Sequence[Run]:
    since = context.clock() - PATIENCE_DAYS * DAY_S
    runs = context.store.vendor_bills.waiting(provider, since)
    for run in runs:
        context.store.vendor_bills.open(run, now=context.clock())
    return runs


def _is_due(context: AppContext, provider: str) -> bool:
    now = context.clock()
    asked_at = context.checked_at.get(_subject(provider), 0.0)
    refused_at = context.checked_at.get(_refusal(provider), 0.0)
    return now >= asked_at + LOOK_S and now >= refused_at + REFUSED_S


def _subject(provider: str) -> str:
    return f"bills of {provider}"


def _refusal(provider: str) -> str:
    return f"refused bills of {provider}"


def _look(context: AppContext, provider: str, billing: Billing, runs: Sequence[Run]) -> None:
    since, until = rules.window([(run.created_at, run.state_since) for run in runs])
    try:
        listed = billing.usage(since, until)
    except Refused as refused:
        log.warning("the bills of %s: %s", provider, refused)
        context.checked_at[_refusal(provider)] = context.clock()
        for run in runs:
            _tell_refusal(context, run, str(billing.provider.key_env), refused.status)
        return
    except TrainerError as trouble:
        log.info("the bills of %s: %s", provider, trouble)
        return
    for run in runs:
        _take_bill(context, run, listed)


def _take_bill(context: AppContext, run: Run, listed: UsageList) -> None:
    bill = rules.bill_of(listed, str(run.job_id), run.state_since)
    if isinstance(bill, VendorBill):
        _book(context, run, bill)
    else:
        log.info("the bill of run %s: %s", run.id, bill)


def _book(context: AppContext, run: Run, bill: VendorBill) -> None:
    """Corrects ledger, run, result and cards in one transaction, if nobody did so before."""
    store = context.store
    now = context.clock()
    with store.transaction():
        settled = store.runs.settled(run)
        booked = _booked_for_training(run, settled)
        if not store.vendor_bills.book(run, booked_micros=booked, billed_micros=bill.micros, now=now):
            return
        corrected = rules.corrected_micros(settled, booked, bill)
        store.runs.correct_settlement(run, corrected)
        moved = _with_bill(context, run, bill, corrected - settled)
        if moved is None:
            return
        context.audit("finetune", "billed", f"run {run.id}", cards.audit_detail(bill, booked))
        if abs(corrected - settled) > CENT_MICROS:
            title = context.settings.title_of(run.provider)
            spent = moved.actual_micros or 0
            message = cards.corrected(title, run, bill, booked, spent)
            _post(context, run, message, topic="results", once=f"bill of run {run.id}")
        if not _is_deleted(context, run):
            notifications.update_ended(context, moved)


def _booked_for_training(run: Run, settled: int) -> int:
    """Returns what was booked for the training. A run without a model has asked nothing, so that is all."""
    if run.model is None:
        return settled
    return notifications.training_cost(plan_from_json(run.plan), Progress.from_json(run.progress))


def _with_bill(context: AppContext, run: Run, bill: VendorBill, change: int) -> Run | None:
    """Adds the change (micro-dollars) to what the run and its result have cost. Returns the run as it is now."""
    runs = context.store.runs
    latest = runs.get(run.id)  # its dataset may have been deleted meanwhile, with parts of its result
    if latest is None:
        return None
    changes: dict[str, object] = {"actual_micros": (latest.actual_micros or 0) + change}
    if latest.result is not None:
        changes["result"] = RunResult.from_json(latest.result).with_bill(bill, change).to_json()
    moved: Run | None = runs.move(latest, latest.state, now=context.clock(), **changes)
    return moved


def _tell_refusal(context: AppContext, run: Run, variable: str, status: int) -> None:
    with context.store.transaction():
        if not context.store.vendor_bills.refuse(run, now=context.clock()):
            return
        title = context.settings.title_of(run.provider)
        message = cards.refused(title, run, variable, status)
        _post(context, run, message, topic="problems", once=f"refused bill of run {run.id}")


def _give_up(context: AppContext, run: Run) -> None:
    with context.store.transaction():
        if not context.store.vendor_bills.give_up(run, now=context.clock()):
            return
        context.audit("finetune", "bill given up", f"run {run.id}")
        if not context.store.runs.settled(run):
            return  # it sent nothing, so there is nothing to list
        title = context.settings.title_of(run.provider)
        message = cards.given_up(title, run, PATIENCE_DAYS)
        _post(context, run, message, topic="problems", once=f"no bill of run {run.id}")


def _post(context: AppContext, run: Run, message: Message, *, topic: Topic, once: str) -> None:
    """Posts in the thread of the run's result or card, which a deleted dataset's run has no more."""
    if _is_deleted(context, run):
        return
    thread = notifications.posted_result_card_of(context, run)
    body = message.body()
    context.send(
        Draft("post", run.channel, body, dedupe=once, thread=thread, concerns=run.requester, topic=topic)
    )


def _is_deleted(context: AppContext, run: Run) -> bool:
    return context.store.datasets.get(run.dataset_id).forgotten_at is not None
