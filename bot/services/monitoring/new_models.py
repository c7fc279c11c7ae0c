"""Finds models that providers have begun to offer, and that would answer a watched dataset's calls for less than what
is in use. Each is remembered once as a proposal for the card of a week (proposals.py); nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from bot.context import AppContext
from bot.rules.bills import Rates
from bot.rules.monitoring import proposals as rules
from bot.rules.prices import rates_from_row
from bot.services.common import candidates
from bot.services.datasets import datasets
from bot.services.datasets.datasets import CheckedDataset
from bot.services.evidence.measured_candidates import load_measured
from bot.services.measurement import evaluations
from bot.services.serving import call_costs, recipes
from bot.settings import listed_models_of
from bot.values.evaluations import ComparisonPlan, promoted_candidate
from bot.values.requests import Baseline
from storage import backup
from storage.monitoring.proposals import NewProposal, Proposal
from storage.promotions import Promotion
from trainers.money import to_micros
from trainers.providers.pricing import PriceRow
from trainers.recipes import usage
from trainers.recipes.usage import Usage

COUNTED_FOR = timedelta(days=28)


@dataclass(frozen=True)
class CallPrice:
    """What is in use costs `usd` per 1,000 calls. Another model that is asked in the same way takes the tokens of
    `calls`."""

    usd: Decimal
    calls: Usage


def propose(context: AppContext) -> None:
    """Remembers new models that are cheaper, each night and when the bot starts, and ends the proposals that are
    outdated."""
    now = context.clock()
    checked_at = context.checked_at.get("new models", 0.0)
    if not backup.is_night_over(checked_at, now):
        return
    stored = context.store.proposals
    for watch in context.store.watches.all_current():
        for proposal in stored.open(watch.dataset):
            is_gone = _is_gone(context, proposal)
            if is_gone or _is_measured(context, proposal.dataset, proposal.model):
                stored.end(proposal, now=now)
        for offer in find_offers(context, watch.dataset):
            stored.add(offer, now=now)
    context.checked_at["new models"] = now


def find_offers(context: AppContext, dataset: str) -> list[NewProposal]:
    """Returns the new models that are worth proposing now, the cheapest first."""
    promotion = context.store.promotions.current(dataset)
    checked = _checked(context, dataset)
    if promotion is None or checked is None:
        return []
    price = _price_in_use(context, promotion, checked)
    if price is None:
        return []
    offers = []
    for model in _new_models(context):
        offer = _offer(context, promotion, price, model)
        if offer is not None and _may_be_measured(context, checked, offer):
            offers.append(offer)
    return sorted(offers, key=lambda offer: offer.micros)


def measurement_of(context: AppContext, dataset: str, model: str) -> Baseline | None:
    """Returns the measurement that asks this model as what is in use is asked: with as many examples, and scored by the
    same judge. A tuned model is compared with the prompt alone. None if nothing is in use."""
    promotion = context.store.promotions.current(dataset)
    if promotion is None:
        return None
    candidate = promoted_candidate(promotion.what)
    if candidate is None:
        return Baseline(dataset, (model,), ("zero",))
    measurement = context.store.measurements.get(promotion.measurement or 0)
    judge = ComparisonPlan.from_json(measurement.plan).judge if measurement else None
    return Baseline(dataset, (model,), (candidate.kind,), shots=candidate.shots, judge=judge)


def usd_per_1000_in_use(context: AppContext, dataset: str) -> Decimal | None:
    """Returns the USD of 1,000 calls to what is in use, None if that is unknown."""
    promotion = context.store.promotions.current(dataset)
    checked = _checked(context, dataset)
    if promotion is None or checked is None:
        return None
    candidate = promoted_candidate(promotion.what)
    # It asks no provider, so a call costs nothing.
    if candidate is not None and candidate.model is None:
        return Decimal(0)
    price = _price_in_use(context, promotion, checked)
    if price is None:
        return None
    return price.usd


def _checked(context: AppContext, dataset: str) -> CheckedDataset | None:
    newest = context.store.datasets.newest(dataset)
    report = datasets.report_of(newest) if newest else None
    if newest is None or report is None or context.store.deletions.of(dataset):
        return None
    return CheckedDataset(newest, report)


def _new_models(context: AppContext) -> Iterator[PriceRow]:
    """Yields the prices of the capable models that a provider has listed lately for the first time."""
    today = context.today()
    settings = context.settings
    for row in settings.providers:
        models = listed_models_of(settings.data, row.name)
        if models is None or row.name not in context.trainers:
            continue
        for price in candidates.capable_models(settings, (row.name,), today):
            name = price.model.partition("/")[2]
            first_listed = models.first_day(name)
            if not rules.is_new(first_listed, models.since, today):
                continue
            # It may have been taken off the list again.
            if models.find_listed(name) and rules.lives_long(price.ends, today):
                yield price


def _is_gone(context: AppContext, proposal: Proposal) -> bool:
    """True if its provider doesn't list it any more."""
    provider, _, name = proposal.model.partition("/")
    models = listed_models_of(context.settings.data, provider)
    return models is None or not models.find_listed(name)


def _is_measured(context: AppContext, dataset: str, model: str) -> bool:
    """True if the model was measured on the held-out rows, however it was asked."""
    checked = _checked(context, dataset)
    if checked is None:
        return False
    holdout = str(checked.report.holdout_sha256)
    measured = load_measured(context.store, context.settings.files, dataset, holdout)
    if measured is None:
        return False
    full_name = candidates.full_name(context.settings, model)
    return any(each.model == full_name for each in measured.measured_by)


def _offer(
    context: AppContext, promotion: Promotion, in_use: CallPrice, price: PriceRow
) -> NewProposal | None:
    """Returns the proposal of a model, None if it isn't cheaper, or if its tokens can't be compared: a model that
    thinks before its answer writes more of them than one that doesn't."""
    settings = context.settings
    candidate = promoted_candidate(promotion.what)
    thinks_now = candidate is not None and settings.thinks(candidate.model or "")
    if settings.thinks(price.model) and not thinks_now:
        return None
    rates = rates_from_row(price)
    if not isinstance(rates, Rates):
        return None
    usd = _usd_per_1000(in_use.calls, rates)
    if not rules.is_cheaper(usd, in_use.usd):
        return None
    if _is_measured(context, promotion.dataset, price.model):
        return None
    return NewProposal(
        dataset=promotion.dataset,
        model=price.model,
        micros=to_micros(usd),
        in_use_micros=to_micros(in_use.usd),
    )


def _may_be_measured(context: AppContext, checked: CheckedDataset, offer: NewProposal) -> bool:
    """True if the dataset's rows may go to its provider, and nothing else speaks against asking it."""
    command = measurement_of(context, offer.dataset, offer.model)
    return command is not None and evaluations.find_refusal(context, checked, command) is None


def _price_in_use(context: AppContext, promotion: Promotion, checked: CheckedDataset) -> CallPrice | None:
    """Returns None if what is in use is free, or if its price or its tokens are unknown."""
    candidate = promoted_candidate(promotion.what)
    measured_usd = call_costs.measured_usd(context, promotion)
    if candidate is None:
        # A prompted model needs the longer prompt.
        tokens = checked.report.tokens
        calls = Usage(
            calls=1_000,
            prompt_tokens=round(1_000 * tokens.prompted_mean),
            completion_tokens=round(1_000 * tokens.answer_mean),
        )
        return _measured_price(measured_usd, calls)
    counted = _calls_of(context, promotion)
    rates = call_costs.rates_of(context, promotion.what, context.today())
    if counted is None or rates is None:
        return None
    # A machine by the hour has no price per token, only what the measurement found.
    if rates.usd_per_hour:
        return _measured_price(measured_usd, counted)
    return CallPrice(_usd_per_1000(counted, rates), counted)


def _measured_price(usd: Decimal | None, calls: Usage) -> CallPrice | None:
    if not usd:
        return None
    return CallPrice(usd, calls)


def _calls_of(context: AppContext, promotion: Promotion) -> Usage | None:
    """Returns the calls that the door has counted lately, else those of the measurement; None if it has none."""
    since = context.today() - COUNTED_FOR
    total = Usage()
    for key, use in usage.read(context.settings.recipes, since=f"{since}").items():
        if (key.promotion, key.recipe) == (promotion.id, promotion.recipe):
            total += use
    if _answered(total):
        return total
    measured = recipes.measured_of(context, promotion)
    if measured is None or not measured.n:
        return None
    return Usage(measured.n, 0, measured.prompt_tokens, 0, measured.completion_tokens)


def _usd_per_1000(calls: Usage, rates: Rates) -> Decimal:
    return 1_000 * call_costs.tokens_usd(calls, rates) / _answered(calls)


def _answered(calls: Usage) -> int:
    """The number of calls whose tokens are known."""
    return calls.calls - calls.failed - calls.unknown
