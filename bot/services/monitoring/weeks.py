"""The card of a week of calls: posted on Monday at nine, in the time zone of the person who began the watch, and shown
at any time by the command. A week is counted once and stored, so that a kill neither repeats its card nor loses it.

A week without a call has no card. Of several weeks in which the bot was off, only the last one has a card.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from bot.cards.common.blocks import Message
from bot.cards.monitoring import weeks as views
from bot.cards.monitoring.weeks import ModelEnding, WeekSummary
from bot.context import AppContext
from bot.rules import units
from bot.rules.models.promotion import alias_for
from bot.rules.monitoring.repetitions import month_of_card
from bot.rules.units import Period
from bot.services.common import authorization
from bot.services.models import sunsets
from bot.services.monitoring import (
    live_accuracy,
    live_tests,
    monthly_scores,
    proposals,
    repetitions,
    week_worker,
)
from bot.services.monitoring.week_worker import WeekOfCalls
from bot.services.serving import week_counts
from bot.services.serving.call_samples import first_weeks_folder
from bot.values.monitoring import WeekFacts, WeekShift
from bot.values.runs import Refusal
from bot.values.sunsets import ending_soon
from bot.worker_pool import WorkerStopped
from storage.monitoring.monthly_measurements import MonthlyMeasurement
from storage.monitoring.watches import Watch, WatchedWeek
from storage.promotions import Promotion
from trainers.encoders import EncoderError
from trainers.monitoring.shift import MOST_TESTS, alarm_level
from trainers.recipes.folder import RecipeFolder

HOUR = time(9)
AGAIN_S = 600.0

log = logging.getLogger(__name__)


def show_now(context: AppContext, dataset: str, person: str, channel: str) -> Message | Refusal | None:
    """Answers the command with the week so far. Returns None if the dataset isn't watched."""
    refusal = authorization.dataset_refusal(context, dataset, person, channel)
    if refusal:
        return refusal
    return week_so_far(context, dataset)


def week_so_far(context: AppContext, dataset: str) -> Message | None:
    """Returns the card of the current week without asking who reads it. None if the dataset isn't watched."""
    watch = context.store.watches.current(dataset)
    facts = facts_so_far(context, dataset)
    if watch is None or facts is None:
        return None
    if not facts.calls:
        return views.no_calls_yet(watch)
    summary = _summary(context, watch, facts, is_over=False)
    return views.week_card(summary)


def facts_so_far(context: AppContext, dataset: str) -> WeekFacts | None:
    """Counts the current week. Returns None if the dataset isn't watched."""
    watch = context.store.watches.current(dataset)
    if watch is None:
        return None
    this_week = units.week_period(context.today())
    return count_week(context, watch, this_week)


def last_weeks(context: AppContext, names: Collection[str]) -> list[WeekSummary]:
    """Returns the last week that was counted of each of these datasets that is watched, ordered by their names."""
    summaries = []
    for watch in context.store.watches.all_current():
        if watch.dataset not in names:
            continue
        stored = context.store.watched_weeks.of(watch.dataset)
        if stored:
            facts = WeekFacts.from_json(stored[-1].facts)
            summaries.append(_summary(context, watch, facts, is_over=True))
    return summaries


def step(context: AppContext, watch: Watch) -> None:
    """Counts a dataset's last week once its Monday has come, and posts its card. A worker compares the sampled calls
    first, which takes some ticks."""
    now = context.clock()
    week = due_week(watch, now)
    if week is None or context.store.watched_weeks.get(watch.dataset, week.name) is not None:
        return
    failed_at = context.checked_at.get(_failure_of(watch), 0.0)
    if now < failed_at + AGAIN_S:
        return
    facts = count_week(context, watch, week)
    # There is nothing to compare.
    if not watch.samples or not facts.calls:
        _post(context, watch, facts)
        return
    try:
        shift = _compare(context, watch, week)
    except (WorkerStopped, EncoderError, OSError) as trouble:
        log.warning("comparing the calls of %s: %s", watch.dataset, trouble)
        # The counts don't depend on the comparison, so the card doesn't wait for another try.
        _post(context, watch, replace(facts, is_uncompared=True))
        return
    if shift is not None:
        _post(context, watch, replace(facts, shift=shift))


def handle_step_failure(context: AppContext, watch: Watch) -> None:
    """Has the next step wait."""
    context.checked_at[_failure_of(watch)] = context.clock()


def _failure_of(watch: Watch) -> str:
    return f"failed week of {watch.dataset}"


def due_week(watch: Watch, now: float) -> Period | None:
    """Returns the week whose card was due last, None if the watch is younger than that."""
    zone = ZoneInfo(watch.time_zone)
    here = datetime.fromtimestamp(now, zone)
    monday = here.date() - timedelta(days=here.weekday())
    due = datetime.combine(monday, HOUR, zone)
    if here < due:
        monday -= timedelta(days=7)
        due = datetime.combine(monday, HOUR, zone)
    if watch.at > due.timestamp():
        return None
    sunday = monday - timedelta(days=1)
    return units.week_period(sunday)


def update_card(context: AppContext, dataset: str) -> None:
    """Shows new labels on the card of the last week."""
    watch = context.store.watches.current(dataset)
    stored = context.store.watched_weeks.of(dataset)
    if watch is None or not stored:
        return
    facts = WeekFacts.from_json(stored[-1].facts)
    _show(context, watch, facts)


def count_week(context: AppContext, watch: Watch, week: Period) -> WeekFacts:
    rated = week_counts.feedback_of_week(context, watch.dataset, week)
    return WeekFacts(
        week=week.name,
        uses=week_counts.uses_of_week(context, watch.dataset, week),
        planned_micros=week_counts.planned_micros(context, watch.dataset),
        sampled=week_counts.samples_of_week(context, watch.dataset, week),
        thumbs_up=rated.up,
        thumbs_down=rated.down,
    )


def _compare(context: AppContext, watch: Watch, week: Period) -> WeekShift | None:
    """Returns None while the worker compares. Raises WorkerStopped, EncoderError and OSError."""
    sampled = [other for other in context.store.watches.all_current() if other.samples]
    # Of more datasets, the promise of docs/watching.md holds for so many at a time.
    datasets = min(len(sampled), MOST_TESTS // week_worker.TESTS)
    promotion = context.store.promotions.current(watch.dataset)
    calls = WeekOfCalls(
        recipes=context.settings.recipes,
        name=alias_for(watch.dataset),
        week=week.name,
        until=week.end_s,
        labels=_recipe_of_labels(context, promotion),
        first_weeks=first_weeks_folder(context, watch.dataset),
        encoder=context.settings.encoder,
        level=alarm_level(datasets, week_worker.TESTS),
    )
    work = f"week {watch.id} {week.name}"
    return context.workers.poll(work, week_worker.compare, calls)


def _recipe_of_labels(context: AppContext, promotion: Promotion | None) -> str | None:
    """Returns the hash of the recipe in use if its answers are labels."""
    if promotion is None or promotion.recipe is None:
        return None
    recipe = RecipeFolder(context.settings.recipes).read(promotion.recipe)
    if recipe is None or recipe.scoring != "label":
        return None
    return promotion.recipe


def _post(context: AppContext, watch: Watch, facts: WeekFacts) -> None:
    stored = WatchedWeek(watch.dataset, facts.week, facts.to_json(), context.clock())
    chosen = None
    if facts.calls:
        chosen = proposals.choose(context, watch.dataset)
    with context.store.transaction():
        # It may have been counted already; then its card is posted.
        is_new = context.store.watched_weeks.add(stored)
        if not is_new or not facts.calls:
            return
        if chosen is not None:
            context.store.proposals.show(chosen.proposal, facts.week, chosen.offer)
        _note_month(context, watch, facts.week)
        _show(context, watch, facts)


def _note_month(context: AppContext, watch: Watch, week: str) -> None:
    """Has what is in use measured again, with the first card of a month. A model that was trained stays as it is."""
    promotion = context.store.promotions.current(watch.dataset)
    if watch.every != "month":
        return
    if promotion is None or promotion.model is not None:
        return
    month = month_of_card(date.fromisoformat(week))
    due = MonthlyMeasurement(watch.dataset, month, week, promotion.id, context.clock())
    context.store.monthly_measurements.add(due)


def _show(context: AppContext, watch: Watch, facts: WeekFacts) -> None:
    if not facts.calls:
        return
    summary = _summary(context, watch, facts, is_over=True)
    card = views.week_card(summary)
    name = views.card_name(watch.dataset, facts.week)
    context.show(name, watch.channel, card, concerns=watch.person, topic="weekly")


def _summary(context: AppContext, watch: Watch, facts: WeekFacts, *, is_over: bool) -> WeekSummary:
    dataset = watch.dataset
    live = live_accuracy.live_answers(context, watch)
    to_label = live_accuracy.open_calls(context, watch)
    card_of = _last_card(context, watch, facts.week, is_over=is_over)
    return WeekSummary(
        watch=watch,
        facts=facts,
        is_over=is_over,
        live=live,
        to_label=len(to_label),
        ending=_ending(context, dataset),
        new=proposals.shown(context, dataset, card_of),
        month=monthly_scores.shown(context, dataset, card_of),
        again=repetitions.repetition_of(context, dataset, live, facts.shift),
        tried=live_tests.current_summary(context, dataset),
    )


def _last_card(context: AppContext, watch: Watch, week: str, *, is_over: bool) -> str:
    """Returns the week whose proposal and measurement are shown: before a week is over, that of the last card."""
    stored = context.store.watched_weeks.of(watch.dataset)
    if is_over or not stored:
        return week
    return stored[-1].week


def _ending(context: AppContext, dataset: str) -> ModelEnding | None:
    """Returns the model in use that ends first, None if none ends soon."""
    today = context.today()
    uses = sunsets.list_uses(context.store, context.settings, today, [dataset])
    for use in ending_soon(uses, today):
        if use.kind == "in use" and use.ends is not None:
            days_left = (use.ends - today).days
            return ModelEnding(use.model, use.ends, days_left)
    return None
