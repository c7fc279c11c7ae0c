"""Counts the calls to what is in use, month by month, with their cost and saving: those that the door has answered, and
those that our own trainer has answered under its alias. The door calls a tuned model by its own name, so no call is
counted twice.

The counts of this month and the last are read every few minutes. A month's dollars are computed again if its calls or
the day have changed, with the prices and the evidence of that moment.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import partial

from bot.cards.common.candidates import alternative_name, promotable_name
from bot.cards.models.fallbacks import fallback_name
from bot.cards.monitoring.live_tests import canary_name
from bot.context import AppContext
from bot.rules import units
from bot.rules.bills import Rates, Traffic
from bot.rules.estimates import EstimateResult
from bot.rules.models.promotion import alias_for
from bot.rules.plans import plan_from_json
from bot.rules.prices import MissingPrice, rates_from_row
from bot.rules.training import calibration as rules
from bot.rules.training.calibration import CallTotals
from bot.rules.units import Period, Volume, month_period
from bot.services.datasets import datasets
from bot.services.decisions import estimate_requests, estimates
from bot.services.evidence import evidence
from bot.services.serving import call_costs
from bot.values.evaluations import promoted_candidate
from bot.values.runs import ModelEnded, Refusal
from storage.actuals import ActualMonth, CostUnknown
from storage.monitoring.live_tests import LiveTest
from storage.promotions import Fallback, Promotion
from trainers.client.client import Trainer
from trainers.money import to_micros
from trainers.recipes import usage
from trainers.recipes.usage import Usage

# For plans without a volume; it doesn't matter, since the counted calls replace it.
ANY_VOLUME = Volume(1_000_000, "tokens")

StandIn = Fallback | LiveTest


@dataclass(frozen=True)
class MonthKey:
    """`name` is that of what was in use, as people call it."""

    dataset: str
    name: str
    month: str


@dataclass
class MonthUse:
    """A month's calls: by `day` those that the door has answered for this `promotion`, and `aliased` those that our own
    trainer has answered under its alias. `stand_in` is what answered instead of what was promoted, if it was that."""

    promotion: Promotion
    stand_in: StandIn | None = None
    days: defaultdict[str, Usage] = field(default_factory=lambda: defaultdict(Usage))
    aliased: CallTotals = field(default_factory=CallTotals)

    @property
    def total(self) -> Usage:
        through_door = sum(self.days.values(), Usage())
        aliased = Usage(
            self.aliased.calls,
            0,
            self.aliased.prompt_tokens,
            0,
            self.aliased.completion_tokens,
        )
        return through_door + aliased


Uses = dict[MonthKey, MonthUse]


def update(context: AppContext, aliased: Uses) -> None:
    """Updates the months in which something was called. `aliased` are the calls under aliases, as `count_aliased` has
    counted them."""
    today = context.today()
    uses = _count_at_door(context)
    for key, use in aliased.items():
        month = uses.setdefault(key, MonthUse(use.promotion))
        month.aliased = use.aliased
    # This month's row exists from the first day on, so that the card says "no calls" rather than nothing.
    this_month = units.month_of(context.clock())
    for promotion in context.store.promotions.all_current():
        key = MonthKey(promotion.dataset, promotable_name(promotion.what), this_month)
        uses.setdefault(key, MonthUse(promotion))
    for key, use in uses.items():
        total = use.total
        before = context.store.actuals.get(key.dataset, key.name, key.month)
        if before is not None:
            # Calls never become fewer: a trainer that doesn't answer now has counted its own.
            is_incomplete = total.calls < before.calls
            if is_incomplete or _is_current(before, total, today):
                continue
            if before.calls < total.calls:
                _keep_machine_running(context, use.promotion)
        counted = cost_of(context, key.dataset, key.name, use, month_period(key.month))
        context.store.actuals.keep(counted)


def count_aliased(context: AppContext, trainer: Trainer, promotion: Promotion) -> Uses:
    """Returns the calls of this month and the last under a dataset's alias. `promotion` is current, and its model is at
    this trainer. Empty if the trainer doesn't count them. Raises TrainerError."""
    days = trainer.alias_usage(alias_for(promotion.dataset), _first_day(context))
    uses: Uses = {}
    for day in days or ():
        promoted = _promotion_of(context, trainer, promotion.dataset, day.model)
        if promoted is None:
            continue
        month = day.day[:7]
        key = MonthKey(promotion.dataset, str(promoted.model), month)
        use = uses.setdefault(key, MonthUse(promoted))
        use.aliased = use.aliased.plus(day.calls, day.prompt_tokens, day.completion_tokens)
    return uses


def _promotion_of(
    context: AppContext, trainer: Trainer, dataset: str, provider_model: str
) -> Promotion | None:
    """Returns the newest promotion of the model that the trainer knows by this name."""
    for model in context.store.models_at_provider(provider_model):
        if model.provider != trainer.provider.name:
            continue
        promotions = context.store.promotions.of(model.name)
        of_dataset = [promotion for promotion in promotions if promotion.dataset == dataset]
        # The oldest come first.
        return of_dataset[-1] if of_dataset else None
    return None


def _count_at_door(context: AppContext) -> Uses:
    uses: Uses = {}
    since = _first_day(context).isoformat()
    counts = usage.read(context.settings.recipes, since=since)
    for counted, use in counts.items():
        promotion = context.store.promotions.get(counted.promotion)
        if promotion is None:  # of a database that a backup has replaced
            continue
        stand_in = stand_in_of(context, promotion, counted.recipe)
        month = counted.day[:7]
        key = MonthKey(promotion.dataset, name_of(promotion, stand_in), month)
        of_month = uses.setdefault(key, MonthUse(promotion, stand_in))
        of_month.days[counted.day] += use
    return uses


def name_of(promotion: Promotion, stand_in: StandIn | None) -> str:
    """Returns what people call it that has answered: the fallback or the canary, if there is one here."""
    if isinstance(stand_in, Fallback):
        return fallback_name(stand_in.what)
    if stand_in is not None:
        return canary_name(stand_in.what)
    return promotable_name(promotion.what)


def stand_in_of(context: AppContext, promotion: Promotion, recipe: str) -> StandIn | None:
    """Returns the fallback or the canary that answered by this recipe while something else was in use, None if what is
    in use did."""
    if promotion.recipe == recipe:
        return None
    # Both may have answered by the same recipe; then its calls are the fallback's.
    fallback = context.store.fallbacks.by_recipe(promotion.dataset, recipe)
    if fallback is not None:
        return fallback
    return context.store.live_tests.by_recipe(promotion.dataset, recipe)


def _first_day(context: AppContext) -> date:
    """The first day of the month before this one."""
    this_month = context.today().replace(day=1)
    last_month = this_month - timedelta(days=1)
    return last_month.replace(day=1)


def _is_current(stored: ActualMonth, use: Usage, today: date) -> bool:
    counted = Usage(
        stored.calls,
        stored.failed,
        stored.prompt_tokens,
        stored.cached_tokens,
        stored.completion_tokens,
    )
    # The row has no column for calls whose tokens are unknown.
    if counted != replace(use, unknown=0):
        return False
    return units.day_of(stored.at) == today


def _keep_machine_running(context: AppContext, promotion: Promotion) -> None:
    """Notes that programs use a model, whose machine by the hour would be stopped as idle."""
    model = context.store.model(promotion.model or "")
    if model is not None:
        name = f"{model.provider}/{model.provider_model}"
        context.store.deployments.record_use(name, now=context.clock())


def cost_of(context: AppContext, dataset: str, name: str, use: MonthUse, period: Period) -> ActualMonth:
    """Returns a period's calls with their cost, and what they would have cost otherwise."""
    total = use.total
    counted = ActualMonth(
        dataset=dataset,
        model=name,
        month=period.name,
        calls=total.calls,
        prompt_tokens=total.prompt_tokens,
        completion_tokens=total.completion_tokens,
        micros=None,
        alternative=None,
        alternative_micros=None,
        at=context.clock(),
        failed=total.failed,
        cached_tokens=total.cached_tokens,
    )
    usd: Decimal | CostUnknown
    if use.stand_in is None:
        candidate = promoted_candidate(use.promotion.what)
        if candidate is None:
            return _cost_of_model(context, counted, use, period)
        share = _share_of_month(context, use.promotion, period)
        usd = call_costs.candidate_usd(context, candidate, use.days, share)
    else:
        usd = call_costs.stand_in_usd(context, use.stand_in.what, use.days)
    if isinstance(usd, str):
        counted = replace(counted, cost_unknown=usd)
    else:
        counted = replace(counted, micros=to_micros(usd))
    before = call_costs.before_of(context, use.promotion)
    return call_costs.with_saving(context, counted, before)


def _share_of_month(context: AppContext, promotion: Promotion, period: Period) -> Decimal:
    """Returns the share (0 to 1) of a month in which this was in use during the period."""
    now = context.clock()
    of_dataset = context.store.promotions.for_dataset(promotion.dataset)
    spans = []
    for other in of_dataset:
        if other.what == promotion.what:
            spans.append((other.at, other.ended_at or now))
    return rules.share_of_month(period, spans)


def _cost_of_model(
    context: AppContext, counted: ActualMonth, of_month: MonthUse, period: Period
) -> ActualMonth:
    """Adds the cost of the calls to a tuned model, and what the alternative would have cost."""
    promotion = of_month.promotion
    total = of_month.total
    use = call_costs.totals_of(total)
    result = _estimate_again(context, str(promotion.model))
    if isinstance(result, Refusal):
        return replace(counted, cost_unknown="estimate", saving_unknown="cost")
    machine = call_costs.machine_micros(context, promotion, period)
    share = _share_of_month(context, promotion, period)
    inputs = result.inputs
    if inputs:
        tuned: Rates | MissingPrice = inputs.tuned
        traffic = inputs.traffic
    else:
        # Without today's model and a volume, the estimate has no inputs, but the prices are there.
        tuned = rates_from_row(result.prices[0])
        traffic = Traffic()
    if machine is not None:
        counted = _with_machine(context, counted, of_month, machine)
    elif total.unknown:
        counted = replace(counted, cost_unknown="no_tokens")
    elif isinstance(tuned, Rates):
        counted = _with_calls(context, counted, of_month, tuned, traffic, share)
    else:
        counted = replace(counted, cost_unknown="no_price")
    has_replaced = call_costs.replaced_by(context, promotion) is not None
    if has_replaced or inputs is None or result.alternative is None:
        before = call_costs.before_of(context, promotion)
        return call_costs.with_saving(context, counted, before)
    usd = rules.alternative_usd(use, inputs, share)
    other = alternative_name(result.alternative)
    return replace(counted, alternative=other, alternative_micros=to_micros(usd))


def _with_machine(context: AppContext, counted: ActualMonth, of_month: MonthUse, micros: int) -> ActualMonth:
    """Adds the hours of a machine, and the calls of the days on which the model was served by the token instead."""
    served = call_costs.served_days(context, of_month.promotion, of_month.days)
    if not served:
        return replace(counted, micros=micros)
    by_token = sum((of_month.days[day] for day in served), Usage())
    if by_token.unknown:
        return replace(counted, cost_unknown="no_tokens")
    rates = call_costs.served_rates(context, of_month.promotion)
    if rates is None:
        return replace(counted, cost_unknown="no_price")
    usd = call_costs.tokens_usd(by_token, rates)
    return replace(counted, micros=micros + to_micros(usd))


def _with_calls(
    context: AppContext,
    counted: ActualMonth,
    of_month: MonthUse,
    tuned: Rates,
    traffic: Traffic,
    share: Decimal,
) -> ActualMonth:
    """Adds what the calls cost: by the token on days on which somebody served the model so, else as planned."""
    served = call_costs.served_days(context, of_month.promotion, of_month.days)
    by_token = sum((of_month.days[day] for day in served), Usage())
    rates = call_costs.served_rates(context, of_month.promotion) if served else None
    if served and rates is None:
        return replace(counted, cost_unknown="no_price")
    rest = {day: use for day, use in of_month.days.items() if day not in served}
    others = call_costs.totals_of(replace(of_month, days=defaultdict(Usage, rest)).total)
    usd = rules.tuned_calls_usd(others, tuned, traffic, share)
    if rates is not None:
        usd += call_costs.tokens_usd(by_token, rates)
    return replace(counted, micros=to_micros(usd))


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
    plan = plan_from_json(run.plan)
    question = estimate_requests.question_of(plan)
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
        question = replace(question, current=best.model)
        return estimate(question, evidence=measured)
    return result
