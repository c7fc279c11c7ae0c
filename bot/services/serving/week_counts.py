"""Counts the calls of a week through the door to what is in use for a dataset, with their cost and saving, and those
that were sampled."""

from __future__ import annotations

from bot.context import AppContext
from bot.rules.models.promotion import alias_for
from bot.rules.plans import plan_from_json
from bot.rules.units import Period
from bot.services.serving import actuals
from bot.services.serving.actuals import MonthUse
from bot.values.monitoring import WeekUse
from storage.actuals import ActualMonth
from trainers.recipes import feedback, samples, usage
from trainers.recipes.feedback import Feedback
from trainers.recipes.samples import SampleCounts


def uses_of_week(context: AppContext, dataset: str, week: Period) -> tuple[WeekUse, ...]:
    """Returns what has answered programs in a week, most calls first. Costs are at the prices of each day."""
    costs = []
    for name, use in _count(context, dataset, week).items():
        costs.append(actuals.cost_of(context, dataset, name, use, week))
    costs.sort(key=lambda cost: cost.calls, reverse=True)
    return tuple(_week_use(cost) for cost in costs)


def planned_micros(context: AppContext, dataset: str) -> int | None:
    """Returns what the plan of the model in use expected to save in a month, None if it wasn't trained here."""
    promotion = context.store.promotions.current(dataset)
    if promotion is None or promotion.model is None:
        return None
    model = context.store.model(promotion.model)
    if model is None:
        return None
    run = context.store.runs.of_model(model)
    predicted = plan_from_json(run.plan).predicted
    if predicted is None:
        return None
    return predicted.saving_micros


def samples_of_week(context: AppContext, dataset: str, week: Period) -> SampleCounts:
    """Returns how many calls were drawn in a week, those that were left out included."""
    total = SampleCounts()
    name = alias_for(dataset)
    counts = samples.counts(context.settings.recipes, since=f"{week.first}")
    for key, counted in counts.items():
        if key.name == name and week.has(key.day):
            total += counted
    return total


def feedback_of_week(context: AppContext, dataset: str, week: Period) -> Feedback:
    """Returns how many answers of a week programs have rated good and bad."""
    up = 0
    down = 0
    name = alias_for(dataset)
    ratings = feedback.read(context.settings.recipes, since=f"{week.first}")
    for key, counted in ratings.items():
        if key.name == name and week.has(key.day):
            up += counted.up
            down += counted.down
    return Feedback(up, down)


def _count(context: AppContext, dataset: str, week: Period) -> dict[str, MonthUse]:
    """Returns the calls of each day in the week by the name of what has answered."""
    uses: dict[str, MonthUse] = {}
    counts = usage.read(context.settings.recipes, since=f"{week.first}")
    for counted, use in counts.items():
        promotion = context.store.promotions.get(counted.promotion)
        # None for a promotion of a database that a backup has replaced.
        if promotion is None or promotion.dataset != dataset:
            continue
        if not week.has(counted.day):
            continue
        stand_in = actuals.stand_in_of(context, promotion, counted.recipe)
        name = actuals.name_of(promotion, stand_in)
        month = uses.setdefault(name, MonthUse(promotion, stand_in))
        month.days[counted.day] += use
    return uses


def _week_use(cost: ActualMonth) -> WeekUse:
    return WeekUse(
        name=cost.model,
        calls=cost.calls,
        failed=cost.failed,
        micros=cost.micros,
        saving_micros=cost.saving_micros,
    )
