"""Counts the calls to models in use, month by month, as their trainers report them, with their cost and saving.

The counts of this month and the last are read every few minutes. A month's dollars are computed again if its calls or
the day have changed, with the prices and the evidence of that moment.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import date, timedelta
from functools import partial

from bot.cards.common.candidates import alternative_name
from bot.context import AppContext
from bot.rules import units
from bot.rules.bills import Rates, Traffic
from bot.rules.estimates import EstimateResult
from bot.rules.models.promotion import alias_for
from bot.rules.plans import plan_from_json
from bot.rules.prices import MissingPrice, rates_from_row
from bot.rules.training import calibration as rules
from bot.rules.training.calibration import CallTotals
from bot.rules.units import Volume
from bot.services.datasets import datasets
from bot.services.decisions import estimate_requests, estimates
from bot.services.evidence import evidence
from bot.values.runs import ModelEnded, Refusal
from storage.actuals import ActualMonth
from storage.promotions import Promotion
from storage.records import Model
from trainers.client.client import Trainer
from trainers.money import to_micros

# For plans without a volume; it doesn't matter, since the counted calls replace it.
ANY_VOLUME = Volume(1_000_000, "tokens")


def update(context: AppContext, trainer: Trainer, promotion: Promotion, model: Model) -> None:
    """Updates the months of a dataset. `promotion` is current, and its `model` is at this trainer. Raises
    TrainerError."""
    today = context.today()
    last_month = today.replace(day=1) - timedelta(days=1)
    uses = _count_calls(context, trainer, promotion.dataset, last_month.replace(day=1))
    if uses is None:
        return
    # This month's row exists from the first day on, so that the card says "no calls" rather than nothing.
    this_month = (model.name, units.month_of(context.clock()))
    uses.setdefault(this_month, CallTotals())
    for (name, month), use in uses.items():
        before = context.store.actuals.get(promotion.dataset, name, month)
        if before is None or not _is_current(before, use, today):
            actual = _actual_month(context, promotion.dataset, name, month, use)
            context.store.actuals.keep(actual)


def _is_current(stored: ActualMonth, use: CallTotals, today: date) -> bool:
    counted = CallTotals(stored.calls, stored.prompt_tokens, stored.completion_tokens)
    return counted == use and units.day_of(stored.at) == today


def _count_calls(
    context: AppContext, trainer: Trainer, dataset: str, since: date
) -> dict[tuple[str, str], CallTotals] | None:
    """Returns the calls by our model's name and month; None if the trainer doesn't count them."""
    days = trainer.alias_usage(alias_for(dataset), since)
    if days is None:
        return None
    called = {day.model for day in days}
    names = {
        model.provider_model: model.name
        for name in called
        for model in context.store.models_at_provider(name)
        if model.provider == trainer.provider.name
    }
    uses: defaultdict[tuple[str, str], CallTotals] = defaultdict(CallTotals)
    for day in days:
        if day.model in names:
            place = names[day.model], day.day[:7]
            uses[place] = uses[place].plus(day.calls, day.prompt_tokens, day.completion_tokens)
    return uses


def _actual_month(context: AppContext, dataset: str, name: str, month: str, use: CallTotals) -> ActualMonth:
    now = context.clock()
    counted = ActualMonth(
        dataset=dataset,
        model=name,
        month=month,
        calls=use.calls,
        prompt_tokens=use.prompt_tokens,
        completion_tokens=use.completion_tokens,
        micros=None,
        alternative=None,
        alternative_micros=None,
        at=now,
    )
    result = _estimate_again(context, name)
    if isinstance(result, Refusal):
        return counted
    spans = [(each.at, each.ended_at or now) for each in context.store.promotions.of(dataset, name)]
    share = rules.share_of_month(month, spans)
    inputs = result.inputs
    if inputs:
        tuned: Rates | MissingPrice = inputs.tuned
        traffic = inputs.traffic
    else:
        tuned = rates_from_row(result.prices[0])
        traffic = Traffic()
    if isinstance(tuned, Rates):
        usd = rules.tuned_calls_usd(use, tuned, traffic, share)
        counted = replace(counted, micros=to_micros(usd))
    if inputs and result.alternative:
        usd = rules.alternative_usd(use, inputs, share)
        other = alternative_name(result.alternative)
        counted = replace(counted, alternative=other, alternative_micros=to_micros(usd))
    return counted


def _estimate_again(context: AppContext, name: str) -> EstimateResult | Refusal:
    """Estimates the model's plan again, with the dataset's current evidence and prices."""
    model = context.store.model(name)
    if model is None:
        return Refusal("It was deleted.")
    run = context.store.runs.of_model(model)
    version = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(version)
    if report is None:
        return Refusal("Its dataset was deleted.")
    question = estimate_requests.question_of(plan_from_json(run.plan))
    measured = evidence.load_evidence(context, version, report, None)
    estimate = partial(
        estimates.make_estimate,
        context.settings,
        version.name,
        report,
        today=context.today(),
        is_trained=True,
    )
    if question.volume is None or not question.volume.amount:
        question = replace(question, volume=ANY_VOLUME)
    result = estimate(question, evidence=measured)
    best = measured.measured_alternatives.cheapest
    if isinstance(result, ModelEnded) and best and best.model:
        # The model that was in use at the time of the plan has ended, so the best living alternative replaces it.
        return estimate(replace(question, current=best.model), evidence=measured)
    return result
