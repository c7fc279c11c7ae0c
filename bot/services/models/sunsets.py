"""Warns a team in time that a model which it relies on will be shut down: what that means in dollars, and the best
target to train the same dataset on instead, with a button that asks the team to approve a plan.

The models in use, planned or prompted are read from the store each time, and a sent warning is known by its key in the
outbox. So a kill, or a week without the bot, neither repeats a warning nor loses one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal

from bot.cards.common.blocks import code
from bot.cards.common.candidates import promotable_name
from bot.cards.models import sunsets as views
from bot.cards.models.sunsets import Sunset
from bot.context import AppContext
from bot.rules.estimate_inputs import Question
from bot.rules.estimates import EstimateResult, monthly_cost
from bot.rules.plans import Plan, Retraining, plan_from_json
from bot.rules.prices import MissingPrice
from bot.services.common import authorization, candidates
from bot.services.datasets import datasets
from bot.services.datasets.datasets import CheckedDataset
from bot.services.decisions import estimate_requests, plans
from bot.services.decisions.team_questions import last_question
from bot.settings import Settings, models_listed_before
from bot.values.evaluations import promoted_candidate
from bot.values.requests import Start
from bot.values.runs import Refusal
from bot.values.sunsets import ModelUse, UseKind, due_notice, ending_soon, is_lasting_target, notice_key
from bot.values.targets import Target
from storage.promotions import PromotedBase
from storage.records import Promotable, Run
from storage.store import Store
from trainers.client.client import Trainer
from trainers.models.model_list import find_listed_model
from trainers.providers.pricing import (
    PriceRow,
    UnknownPrice,
    dated_source,
    find_prompted_price,
    find_retirement,
)
from trainers.providers.providers import ProviderRow, model_verdict

VERDICTS = ("go", "unknown", "no_go")  # the best first


def list_uses(
    store: Store, settings: Settings, today: date, names: Collection[str] | None = None
) -> list[ModelUse]:
    """Returns every model that one of these datasets relies on; None means any dataset. If anything is in use, the
    model prompted before is left out."""
    if names is None:
        names = store.datasets.names()
    bases = [base for base in store.promotions.bases() if base.dataset in names]
    uses = [_promoted_use(settings, base) for base in bases]
    standing = [promotion for promotion in store.promotions.all_current() if promotion.dataset in names]
    fallbacks = [fallback for fallback in store.fallbacks.all_current() if fallback.dataset in names]
    for promotion in standing:
        prompted = _prompted_use("in use", promotion.dataset, promotion.what)
        if prompted is not None:
            uses.append(_with_answering_end(settings, prompted, today))
    for fallback in fallbacks:
        prompted = _prompted_use("fallback", fallback.dataset, fallback.what)
        if prompted is not None:
            uses.append(_with_answering_end(settings, prompted, today))
    for run in store.runs.open():
        planned = _planned_use(settings, run)
        if planned.dataset in names:
            uses.append(planned)
    promoted = {promotion.dataset for promotion in standing}
    for name in names:
        if name in promoted:
            continue
        question = last_question(store, name)
        if question and question.current:
            use = ModelUse("today's", name, question.current)
            uses.append(_with_answering_end(settings, use, today))
    return uses


def _prompted_use(kind: UseKind, dataset: str, what: Promotable) -> ModelUse | None:
    """Returns the use of the model that a promoted candidate asks, None if it asks none."""
    candidate = promoted_candidate(what)
    if candidate is None or candidate.model is None:
        return None
    return ModelUse(kind, dataset, candidate.model, promotable_name(what))


def list_configured(settings: Settings, today: date) -> list[ModelUse]:
    """Returns the models in the settings: the targets, and those with a price of their own."""
    uses = []
    for row in settings.providers:
        for model in row.models:
            verdict = model_verdict(row, model, today)
            kind: UseKind = "closed target"
            if verdict.may_train:
                kind = "target"
            use = ModelUse(kind, "", f"{row.name}/{model.name}")
            uses.append(_with_training_end(settings, use))
    for price in settings.prices:
        use = ModelUse("price", "", price.model)
        uses.append(_with_answering_end(settings, use, today))
    return uses


def find_due(context: AppContext) -> Iterator[tuple[ModelUse, str]]:
    """Yields the models whose end has to be announced now, each with the key of its message."""
    today = context.today()
    uses = list_uses(context.store, context.settings, today)
    for use in ending_soon(uses, today):
        notice = due_notice(use, today)
        if notice is None:
            continue
        once = notice_key(use, notice)
        if not context.store.outbox.was_put(once):
            yield use, once


def tell(context: AppContext, use: ModelUse, once: str, gone_from: str | None = None) -> None:
    """Posts the warning in the dataset's channel. `gone_from` is the provider that doesn't list the model any more."""
    dataset = context.store.datasets.newest(use.dataset)
    if dataset is None or context.store.deletions.of(use.dataset):
        return
    report = datasets.report_of(dataset)
    if report is None:
        return
    retuned = _best_retraining(context, CheckedDataset(dataset, report), use)
    sunset = Sunset(
        use=use,
        today=context.today(),
        version=dataset.version,
        n_holdout=report.n_holdout,
        gone_from=gone_from,
        costs_usd=_monthly_usd(context.store, use, retuned),
        successor_usd=_successor_monthly_usd(context, use, retuned),
        retuned=retuned,
        target=retuned.target.name if retuned else None,
    )
    card = views.card(sunset)
    context.post(dataset.channel, card.letter(), topic="ends", dedupe=once)


def tell_vanished(context: AppContext, row: ProviderRow, trainer: Trainer, listed: Collection[str]) -> None:
    """Warns about models that the provider listed last time and doesn't have any more. Models in use are left to
    alias_sync, which checks more often. Call this before `listed` is stored."""
    names = models_listed_before(context.settings.data, row.name) - set(listed)
    if not names:
        return
    today = context.today()
    for use in list_uses(context.store, context.settings, today):
        full_name = candidates.full_name(context.settings, use.model) or use.model
        seller, _, name = full_name.partition("/")
        # People may write the model with or without its provider.
        own_names = {name, use.model.removeprefix(f"{seller}/")}
        known_as = own_names & names
        if use.kind == "in use" or seller != row.name or not known_as:
            continue
        # A list may be incomplete, so the model is also looked up by each of its names.
        if not any(trainer.has_model(each) for each in known_as):
            once = f"vanished {use.kind} {use.dataset} {use.model} {today}"
            tell(context, use, once, gone_from=row.title)


def start(context: AppContext, value: str, person: str) -> Run | Refusal:
    """Handles a card's button, whose value is the dataset and the target: freezes a plan from the last question about
    the dataset. The plan says which model ends, if one that the dataset relies on does."""
    name, _, target = value.partition(" ")
    dataset = context.store.datasets.newest(name)
    gone = Refusal(f"There is no dataset {code(name)} any more.")
    if dataset is None:
        return gone
    refusal = authorization.button_refusal(context, name, person, gone)
    if refusal:
        return refusal
    question = _question_now(context, name)
    retrains = _find_retraining(context, name)
    request = Start(name, replace(question, target=target), retrains=retrains)
    return plans.start(context, request, person, dataset.channel)


def _find_retraining(context: AppContext, dataset: str) -> Retraining | None:
    """Returns the model that ends first of those that answer for the dataset today, None if none ends soon."""
    today = context.today()
    uses = list_uses(context.store, context.settings, today)
    for use in ending_soon(uses, today):
        if use.dataset == dataset and use.kind not in ("planned", "fallback"):
            return Retraining(use.model, f"{use.ends}")
    return None


def _promoted_use(settings: Settings, base: PromotedBase) -> ModelUse:
    name = f"{base.provider}/{base.base_model}"
    use = ModelUse("in use", base.dataset, name, base.name, is_tuned=True)
    use = _with_training_end(settings, use)
    row = settings.provider(base.provider)
    if row is None:
        return use
    # A provider may also shut down a tuned model before the model that it was tuned from.
    day = row.shutdowns.get(base.provider_model.lower())
    if day is None:
        return use
    return replace(use, ends=min(day, use.ends or day))


def _planned_use(settings: Settings, run: Run) -> ModelUse:
    plan = plan_from_json(run.plan)
    target = f"{plan.provider}/{plan.base_model}"
    use = ModelUse("planned", plan.dataset, target, f"run {run.id}")
    return _with_training_end(settings, use)


def _with_training_end(settings: Settings, use: ModelUse) -> ModelUse:
    provider, _, name = use.model.partition("/")
    row = settings.provider(provider)
    if row is None:
        return use
    model = row.model(name)
    if model is None:
        return use
    end = find_retirement(use.model, settings.providers)
    if end:
        return replace(use, ends=end.day, successor=end.successor, said_by=end.said_by)
    if row.is_started_by_us:
        return replace(use, said_by="the weights are on your own machine")
    if model.source:
        source = dated_source(model.source, model.as_of)
        return replace(use, said_by=f"{source}: none is announced")
    return use


def _with_answering_end(settings: Settings, use: ModelUse, today: date) -> ModelUse:
    price = find_prompted_price(use.model, settings.providers, settings.prices, today)
    if isinstance(price, PriceRow) and price.ends:
        return replace(use, ends=price.ends, successor=price.successor, said_by=price.ends_said_by)
    _, _, own_name = use.model.rpartition("/")
    listed = find_listed_model(own_name)
    if listed:
        return replace(use, said_by=f"{listed.said_by}: none is announced")
    return use


def _plan_of(store: Store, name: str) -> Plan | None:
    """Returns the plan of a tuned model, None if there is no model of this name."""
    model = store.model(name)
    if model is None:
        return None
    run = store.runs.of_model(model)
    return plan_from_json(run.plan)


def _question_now(context: AppContext, dataset: str) -> Question:
    """Returns the last question without the options that depend on its target. A model that has ended by now is
    replaced by its successor."""
    question = last_question(context.store, dataset) or Question()
    plain = replace(question, method="supervised", hyperparameters=(), sweep=(), patience=None)
    return replace(plain, current=_surviving_model(context, question.current))


def _surviving_model(context: AppContext, current: str | None) -> str | None:
    """Returns the first successor that hasn't ended; None if there is none, or if its price is unknown."""
    settings = context.settings
    today = context.today()
    seen: set[str] = set()  # the operator's prices may name successors in a circle
    while current and current not in seen:
        seen.add(current)
        price = find_prompted_price(current, settings.providers, settings.prices, today)
        if not isinstance(price, PriceRow):
            return None
        if not price.has_ended(today):
            return current
        current = price.successor
    return None


def _best_retraining(context: AppContext, checked: CheckedDataset, use: ModelUse) -> EstimateResult | None:
    """Returns the estimate for the best target that isn't going to be shut down: by its verdict, then by the saving,
    then by the cost of training."""
    question = _question_now(context, use.dataset)
    priced = []
    for target in _lasting_targets(context, use):
        about_target = replace(question, target=target.name)
        result = estimate_requests.estimate_for(context, checked, about_target)
        if isinstance(result, EstimateResult) and result.training:
            priced.append(result)
    return min(priced, key=_rank, default=None)


def _lasting_targets(context: AppContext, use: ModelUse) -> Iterator[Target]:
    """Yields the targets that can be trained now and aren't going to be shut down, except the model in use itself."""
    today = context.today()
    for row in context.settings.providers:
        if row.name not in context.trainers:
            continue
        for model in row.models:
            target = Target(row, model)
            if use.model == target.name or not is_lasting_target(row, model, today):
                continue
            if plans.untrainable_text(context.settings, target) is None:
                yield target


def _rank(result: EstimateResult) -> tuple[int, Decimal, Decimal]:
    """A sort key, the best first. What is unknown counts as nothing: the verdict comes first, and says so."""
    saving = Decimal(0)
    if result.estimate:
        saving = result.estimate.saving_month
    once = Decimal(0)
    if not isinstance(result.cost, MissingPrice):
        once = result.cost.training.usd.expected
    return VERDICTS.index(result.verdict.kind), -saving, once


def _monthly_usd(store: Store, use: ModelUse, retuned: EstimateResult | None) -> Decimal | None:
    """Returns what the model costs per month, according to the last estimate; None if unknown."""
    if use.kind == "today's":
        if retuned is None or retuned.estimate is None:
            return None
        return retuned.estimate.monthly_before.total
    plan = _plan_of(store, use.name or "")
    if plan is None or plan.monthly_after_micros is None:
        return None
    return Decimal(plan.monthly_after_micros) / 1_000_000


def _successor_monthly_usd(
    context: AppContext, use: ModelUse, retuned: EstimateResult | None
) -> Decimal | None:
    """Returns what today's requests would cost per month with the successor; None if unknown."""
    if retuned is None or retuned.inputs is None or use.successor is None:
        return None
    settings = context.settings
    row = find_prompted_price(use.successor, settings.providers, settings.prices, context.today())
    if isinstance(row, UnknownPrice):
        return None
    monthly = monthly_cost(retuned.inputs, row)
    if monthly is None:
        return None
    return monthly.total
