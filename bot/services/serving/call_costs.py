"""What the calls of a month cost, at the prices of each day, and what the same calls would have cost with what was in
use before. Counts nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from bot.cards.common.candidates import promotable_name
from bot.context import AppContext, CoreContext
from bot.rules import units
from bot.rules.bills import Rates, Traffic
from bot.rules.plans import plan_from_json
from bot.rules.prices import rates_from_row
from bot.rules.training import calibration as rules
from bot.rules.training.calibration import CallTotals
from bot.rules.units import Period
from bot.services.common import token_serving
from bot.services.datasets import datasets
from bot.services.decisions.team_questions import last_question
from bot.services.evidence import evidence, promotion_evidence
from bot.services.models import models
from bot.services.serving import recipes
from bot.values.evaluations import promoted_candidate
from bot.values.runs import Refusal
from storage.actuals import ActualMonth, CostUnknown
from storage.promotions import Promotion
from storage.records import Promotable
from trainers.evaluation.results import Candidate
from trainers.money import to_micros
from trainers.providers.pricing import PriceRow, base_price_at, find_prompted_price
from trainers.recipes.usage import Usage

MILLION = 1_000_000


@dataclass(frozen=True)
class Before:
    """What was in use before, as people call it, and the USD of 1,000 requests to it, None if unknown."""

    name: str
    usd_per_1000: Decimal | None


def candidate_usd(
    context: AppContext, candidate: Candidate, days: Mapping[str, Usage], share: Decimal
) -> Decimal | CostUnknown:
    """Returns what the calls of these days to a measured candidate cost, or why that is unknown. `share` (0 to 1) is
    the part of the month in which it was in use, which a machine of our own costs by the hour."""
    if candidate.model is None:
        return Decimal(0)
    total = sum(days.values(), Usage())
    if total.unknown:
        return "no_tokens"
    usd = Decimal(0)
    settings = context.settings
    for day_text, use in days.items():
        day = date.fromisoformat(day_text)
        row = find_prompted_price(candidate.model, settings.providers, settings.prices, day)
        if not isinstance(row, PriceRow):
            return "no_price"
        rates = rates_from_row(row)
        if not isinstance(rates, Rates):
            return "no_price"
        if rates.usd_per_hour:
            # A machine is paid by the hour, however many calls come on which day.
            return rules.tuned_calls_usd(totals_of(total), rates, Traffic(), share)
        usd += tokens_usd(use, rates)
    return usd


def stand_in_usd(context: AppContext, what: Promotable, days: Mapping[str, Usage]) -> Decimal | CostUnknown:
    """Returns what the calls of these days to a fallback or a canary cost, or why that is unknown. A machine
    runs for its own sake."""
    candidate = promoted_candidate(what)
    if candidate is not None:
        return candidate_usd(context, candidate, days, Decimal(0))
    usd = Decimal(0)
    for day, use in days.items():
        if use.unknown:
            return "no_tokens"
        rates = rates_of(context, what, date.fromisoformat(day))
        if rates is None:
            return "no_price"
        if not rates.usd_per_hour:
            usd += tokens_usd(use, rates)
    return usd


def rates_of(context: CoreContext, what: Promotable, day: date) -> Rates | None:
    """Returns the prices of what is asked on a day, None if they are unknown or nobody is asked."""
    model = context.store.model(what.model or "")
    candidate = promoted_candidate(what)
    row: object = None
    if model is not None:
        row = models.price_of(context, model)
    elif candidate is not None and candidate.model is not None:
        settings = context.settings
        row = find_prompted_price(candidate.model, settings.providers, settings.prices, day)
    if not isinstance(row, PriceRow):
        return None
    rates = rates_from_row(row)
    if not isinstance(rates, Rates):
        return None
    return rates


def totals_of(use: Usage) -> CallTotals:
    return CallTotals(use.calls, use.prompt_tokens, use.completion_tokens, use.cached_tokens)


def with_saving(context: AppContext, month: ActualMonth, before: Before | None) -> ActualMonth:
    """Adds what the month's calls would have cost with what was in use before."""
    if before is None:
        return replace(month, saving_unknown="nothing_before")
    if before.usd_per_1000 is None:
        return replace(month, alternative=before.name, saving_unknown="no_price_before")
    usd = before.usd_per_1000 * month.calls / 1_000
    month = replace(
        month,
        alternative=before.name,
        alternative_micros=to_micros(usd),
        saving_unknown=None,
    )
    if month.micros is None:
        return replace(month, saving_unknown="cost")
    return month


def before_of(context: AppContext, promotion: Promotion) -> Before | None:
    """Returns what was in use before this was put to work for the first time: another promotion, or else the model that
    the team named as today's. Returns None if nobody named any."""
    replaced = replaced_by(context, promotion)
    if replaced is not None:
        name = promotable_name(replaced.what)
        return Before(name, measured_usd(context, replaced))
    return _todays_model(context, promotion.dataset)


def replaced_by(context: AppContext, promotion: Promotion) -> Promotion | None:
    """Returns the promotion that this one replaced when it was put to work first: going back to it later doesn't make
    it compete with what came after it."""
    of_dataset = context.store.promotions.for_dataset(promotion.dataset)
    same = [other for other in of_dataset if other.what == promotion.what]
    first = same[0]
    return context.store.promotions.get(first.instead_of or 0)


def tokens_usd(use: Usage, rates: Rates) -> Decimal:
    """Returns what these calls cost by the token."""
    cached_input = rates.input
    if rates.cached_input is not None:
        cached_input = rates.cached_input
    fresh = use.prompt_tokens - use.cached_tokens
    answered = use.calls - use.failed
    asked_usd = fresh * rates.input + use.cached_tokens * cached_input
    written_usd = use.completion_tokens * rates.output
    return (asked_usd + written_usd) / MILLION + answered * rates.usd_per_request


def measured_usd(context: AppContext, promotion: Promotion) -> Decimal | None:
    """Returns the USD of 1,000 requests to what was promoted, by its measurement."""
    candidate = promoted_candidate(promotion.what)
    if candidate is not None:
        measured = recipes.measured_of(context, promotion)
        if measured is None:
            return None
        provider, _, name = (candidate.model or "").partition("/")
        return evidence.request_usd(context.settings, provider, name, measured.usd_per_1000)
    model = models.model_of(context, promotion)
    plan, tuned = promotion_evidence.measured_score(context, model)
    # The hours of a machine are shared by as many calls as come.
    if tuned is None or (plan.hosting is not None and plan.hosting.by_token is None):
        return None
    return evidence.request_usd_of(context.settings, plan, tuned.usd_per_1000)


def _todays_model(context: AppContext, dataset: str) -> Before | None:
    """Returns the model that the team named as today's, priced for a prompt as long as the dataset's rows."""
    question = last_question(context.store, dataset)
    newest = context.store.datasets.newest(dataset)
    report = None
    if newest is not None:
        report = datasets.report_of(newest)
    if question is None or question.current is None or report is None:
        return None
    name = f"today's model, {question.current}"
    settings = context.settings
    row = find_prompted_price(question.current, settings.providers, settings.prices, context.today())
    if not isinstance(row, PriceRow):
        return Before(name, None)
    rates = rates_from_row(row)
    if not isinstance(rates, Rates) or rates.usd_per_hour:
        return Before(name, None)
    prompt = Decimal(str(report.tokens.prompted_mean))
    answer = Decimal(str(report.tokens.answer_mean))
    tokens_usd_a_request = (prompt * rates.input + answer * rates.output) / MILLION
    usd = tokens_usd_a_request + rates.usd_per_request
    return Before(name, 1_000 * usd)


def served_days(context: AppContext, promotion: Promotion, days: Collection[str]) -> frozenset[str]:
    """Returns those of the days (ISO) on which a tuned model was served by the token although its plan has it answer at
    its trainer or on a machine. The day of a change counts, so that costs are rather overstated."""
    model = models.model_of(context, promotion)
    hosting = models.plan_of(context, model).hosting
    if hosting is not None and hosting.by_token is not None:
        return frozenset()
    served = set[str]()
    for record in context.store.deployments.of_run(model.run_id):
        if not record.by_token or record.ready_at is None:
            continue
        first = units.day_of(record.ready_at).isoformat()
        last = units.day_of(record.ended_at or context.clock()).isoformat()
        served |= {day for day in days if first <= day <= last}
    return frozenset(served)


def served_rates(context: AppContext, promotion: Promotion) -> Rates | None:
    """Returns the prices of the vendor that served a tuned model by the token last, None if they are unknown."""
    model = models.model_of(context, promotion)
    for record in context.store.deployments.of_run(model.run_id):
        if not record.by_token:
            continue
        plan = models.plan_of(context, model)
        server = token_serving.server_for(context.settings, record.provider, plan)
        if isinstance(server, Refusal):
            return None
        rates = rates_from_row(base_price_at(server.row, server.base))
        return rates if isinstance(rates, Rates) else None
    return None


def machine_micros(context: AppContext, promotion: Promotion, period: Period) -> int | None:
    """Returns what the hours of a tuned model's machine cost in a period; None if it needs none."""
    model = models.model_of(context, promotion)
    run = context.store.runs.of_model(model)
    hosting = plan_from_json(run.plan).hosting
    if hosting is None or hosting.by_token is not None:
        return None
    deployments = context.store.deployments
    return deployments.micros_between(model.run_id, f"{period.first}", f"{period.end}")
