"""Measures a proposed model: after a click, which leads to the usual card that asks to agree to the cost; or without
asking, as far as `usd_per_month` of [policy.watch] allows. Either way its look at the held-out rows counts."""

from __future__ import annotations

from functools import partial

from bot.cards.common.blocks import code
from bot.context import AppContext
from bot.services.common import authorization, budgets
from bot.services.measurement import evaluations, measurements
from bot.services.monitoring import new_models, proposals, weeks
from bot.values.runs import Refusal
from storage.monitoring.proposals import Proposal, WatchMeasurement
from storage.monitoring.watches import Watch
from storage.records import Measurement
from trainers.money import usd_micros

HOUR_S = 3600.0


def ask(context: AppContext, number: int, person: str) -> Measurement | Refusal:
    """Handles the button: has the new model measured, once somebody agrees to the cost."""
    gone = Refusal("This model was measured by now, or is no longer offered.")
    proposal = context.store.proposals.get(number)
    if proposal is None:
        return gone
    refusal = authorization.button_refusal(context, proposal.dataset, person, gone)
    if refusal:
        return refusal
    watch = context.store.watches.current(proposal.dataset)
    if watch is None:
        return Refusal(f"{code(proposal.dataset)} is no longer watched.")
    measurement = context.store.watch_measurements.of(number)
    if proposal.ended_at is not None or measurement is not None:
        return gone
    return _ask(context, watch, proposal, person, is_asked=True)


def step(context: AppContext) -> None:
    """Begins what the policy allows without asking, and shows results on the card of the week."""
    _measure_unasked(context)
    for began in context.store.watch_measurements.open():
        if began.person is None and began.begun_at is None:
            _begin(context, began)
    for proposal in context.store.proposals.measured():
        with context.store.transaction():
            context.store.proposals.end(proposal, now=context.clock())
            weeks.update_card(context, proposal.dataset)


def _measure_unasked(context: AppContext) -> None:
    if not context.settings.policy.watch.usd_per_month:
        return
    if context.store.freezes.current() is not None:
        return
    for proposal in context.store.proposals.waiting():
        watch = context.store.watches.current(proposal.dataset)
        if watch is None or not _is_hour_over(context, proposal):
            continue
        new = proposals.shown(context, proposal.dataset, str(proposal.shown_week))
        if new is None or new.cost_micros is None:
            continue
        if new.cost_micros <= budgets.left_for_watching(context):
            _ask(context, watch, proposal, watch.person, is_asked=False)


def _is_hour_over(context: AppContext, proposal: Proposal) -> bool:
    """True once an hour for each proposal."""
    subject = f"proposal {proposal.id}"
    now = context.clock()
    checked_at = context.checked_at.get(subject, 0.0)
    if now - checked_at < HOUR_S:
        return False
    context.checked_at[subject] = now
    return True


def _ask(
    context: AppContext, watch: Watch, proposal: Proposal, person: str, *, is_asked: bool
) -> Measurement | Refusal:
    command = new_models.measurement_of(context, proposal.dataset, proposal.model)
    if command is None:
        return Refusal(f"Nothing is in use for {code(proposal.dataset)} any more.")
    # What has no name, `step` begins as far as the policy allows.
    agreed_by = person if is_asked else None
    record = partial(_record, context, proposal, agreed_by)
    return evaluations.ask(context, command, person, watch.channel, record=record)


def _record(context: AppContext, proposal: Proposal, person: str | None, measurement: Measurement) -> None:
    began = WatchMeasurement(measurement.id, proposal.dataset, proposal.id, person, context.clock())
    context.store.watch_measurements.add(began)
    weeks.update_card(context, proposal.dataset)


def _begin(context: AppContext, began: WatchMeasurement) -> None:
    """Begins a measurement whose cost is known by now, if it still fits. Else its card goes on asking people."""
    measurement = context.store.measurements.get(began.measurement)
    if measurement is None or measurement.state != "asked":
        return
    highest = measurement.reserved_micros
    if not highest or context.store.freezes.current() is not None:
        return
    if highest > budgets.left_for_watching(context):
        return
    where = context.settings.policy.watch.where
    because = f"up to {usd_micros(highest)}, by usd_per_month of {where}"
    with context.store.transaction():
        if measurements.begin_unasked(context, measurement, because):
            context.store.watch_measurements.begin(began, now=context.clock())
