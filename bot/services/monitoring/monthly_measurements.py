"""Measures what is in use again: with the first card of each month, if its watch says so and as far as `usd_per_month`
of [policy.watch] allows; or after a click, which leads to the usual card that asks to agree to the cost.

A measurement is added together with the row of its month, so that a kill begins no second one.
"""

from __future__ import annotations

from functools import partial

from bot.cards.common.blocks import code
from bot.context import AppContext
from bot.services.common import budgets
from bot.services.measurement import evaluations
from bot.services.monitoring import monthly_scores, repetitions, weeks
from bot.values.runs import Refusal
from storage.monitoring.monthly_measurements import Hindrance, MonthlyMeasurement
from storage.monitoring.proposals import WatchMeasurement
from storage.promotions import Promotion
from storage.records import Measurement

HOUR_S = 3600.0


def measure(context: AppContext, name: str, person: str) -> Measurement | Refusal:
    """Handles the button: asks to measure what is in use on the newest held-out rows."""
    promotion = repetitions.promotion_for(context, name, person)
    if isinstance(promotion, Refusal):
        return promotion
    return _ask(context, promotion, person, is_asked=True)


def step(context: AppContext) -> None:
    """Begins what is due this month, and shows results on the card of the week."""
    for due in context.store.monthly_measurements.waiting():
        subject = f"month {due.month} of {due.dataset}"
        checked_at = context.checked_at.get(subject, 0.0)
        if context.clock() - checked_at >= HOUR_S:
            context.checked_at[subject] = context.clock()
            _begin(context, due)
    for due in context.store.monthly_measurements.measured():
        with context.store.transaction():
            context.store.monthly_measurements.end(due, now=context.clock())
            weeks.update_card(context, due.dataset)


def _begin(context: AppContext, due: MonthlyMeasurement) -> None:
    promotion = context.store.promotions.current(due.dataset)
    watch = context.store.watches.current(due.dataset)
    is_monthly = watch is not None and watch.every == "month"
    if watch is None or promotion is None or not is_monthly or not _is_current(context, due, promotion):
        context.store.monthly_measurements.end(due, now=context.clock())
        return
    hindrance = _hindrance(context, due.dataset)
    if hindrance is not None:
        _hold(context, due, hindrance)
        return
    measurement = _ask(context, promotion, watch.person, is_asked=False)
    if isinstance(measurement, Refusal):
        _hold(context, due, "refused", measurement.text)


def _is_current(context: AppContext, due: MonthlyMeasurement, promotion: Promotion) -> bool:
    """True if the card that shows it is the last one, and what it should measure is still in use."""
    if promotion.id != due.promotion:
        return False
    return due.week == _last_week(context, due.dataset)


def _last_week(context: AppContext, dataset: str) -> str:
    stored = context.store.watched_weeks.of(dataset)
    if not stored:
        return ""
    return stored[-1].week


def _hindrance(context: AppContext, dataset: str) -> Hindrance | None:
    if context.store.freezes.current() is not None:
        return "freeze"
    cost = monthly_scores.cost_micros(context, dataset)
    left = budgets.left_for_watching(context)
    if cost == 0:
        return None
    # Without an estimate it is asked for: once its highest cost is known, it begins if that fits.
    is_too_dear = cost is not None and cost > left
    if not left or is_too_dear:
        return "money"
    return None


def _hold(
    context: AppContext, due: MonthlyMeasurement, hindrance: Hindrance, refusal: str | None = None
) -> None:
    with context.store.transaction():
        if context.store.monthly_measurements.hold(due, hindrance, refusal):
            weeks.update_card(context, due.dataset)


def _ask(context: AppContext, promotion: Promotion, person: str, *, is_asked: bool) -> Measurement | Refusal:
    name = promotion.dataset
    command = repetitions.measurement_of(context, promotion)
    if command is None:
        return Refusal(f"What is in use for {code(name)} was trained: its plan can be repeated instead.")
    channel = promotion.channel
    watch = context.store.watches.current(name)
    if watch is not None:
        channel = watch.channel
    # What has no name begins unasked, as far as the policy allows.
    agreed_by = person if is_asked else None
    record = partial(_record, context, promotion, agreed_by)
    return evaluations.ask(context, command, person, channel, record=record)


def _record(context: AppContext, promotion: Promotion, person: str | None, measurement: Measurement) -> None:
    dataset = promotion.dataset
    began = WatchMeasurement(measurement.id, dataset, None, person, context.clock())
    context.store.watch_measurements.add(began)
    week = _last_week(context, dataset)
    due = context.store.monthly_measurements.shown(dataset, week)
    if due is not None and due.promotion == promotion.id:
        context.store.monthly_measurements.begin(due, measurement.id)
    weeks.update_card(context, dataset)
