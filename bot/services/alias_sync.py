"""Points the alias that programs call to the model in use, at its trainer, and checks every few minutes that it still
does. Also counts the calls to models in use, month by month, with their cost and saving.

Our database is changed first (promotions.py). An alias is set by one PUT, which is safe to repeat, so the next tick
makes up for a kill before or after it.

The calls of this month and the last are read from the trainers every few minutes. A month's dollars are computed again
if its calls or the day have changed, with the prices and the evidence of that moment.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from functools import partial

from bot.cards import models as views
from bot.cards.candidates import alternative_name
from bot.context import AppContext
from bot.rules import calibration as rules
from bot.rules import units
from bot.rules.bills import Rates, Traffic
from bot.rules.calibration import CallTotals
from bot.rules.plans import plan_from_json
from bot.rules.prices import rates_from_row
from bot.rules.promotion import alias_for
from bot.services import datasets, estimate_requests, estimates, evidence, models
from bot.services.estimate_inputs import measured_alternatives
from bot.services.estimates import EstimateResult
from bot.values.runs import ModelEnded, Refusal
from storage.actuals import ActualMonth
from storage.promotions import Promotion
from storage.records import Model
from trainers.client import Trainer
from trainers.errors import Refused, TrainerError
from trainers.money import to_micros

REFUSED_S = 600.0
MAX_PAUSE_S = 120.0

log = logging.getLogger(__name__)


def step(context: AppContext, promotion: Promotion) -> None:
    """Tries once to set the alias for a promotion."""
    model = models.model_of(context, promotion)
    trainer = context.trainers.get(model.provider)
    if trainer is None:
        _put_off(context, promotion, MAX_PAUSE_S, f"there is no key for {model.provider} where the bot runs.")
        return
    try:
        trainer.set_alias(alias_for(promotion.dataset), model.provider_model)
    except Refused as refused:
        _put_off(context, promotion, REFUSED_S, str(refused))
    except TrainerError as trouble:
        _put_off(context, promotion, min(2.0 ** min(promotion.tries + 1, 7), MAX_PAUSE_S), str(trouble))
    else:
        now, proof = context.clock(), models.proof_of(context, promotion)
        with context.store.transaction():
            noted = context.store.promotions.mark_synced(promotion, now=now)
            if noted:
                alias, subject = alias_for(promotion.dataset), f"run {model.run_id}"
                detail = f"{alias} stands for {model.provider_model} at {model.provider}"
                context.audit("finetune", "alias", subject, detail)
                models.show_card(context, noted, proof)


def provider_of(context: AppContext, promotion: Promotion) -> str:
    return models.model_of(context, promotion).provider


def handle_step_failure(context: AppContext, promotion: Promotion) -> None:
    context.store.promotions.postpone(
        promotion, context.clock() + MAX_PAUSE_S, "something went wrong in the bot."
    )


def sweep(context: AppContext) -> None:
    """Checks which models are gone from their providers and whether each alias points to the model in use, and counts
    the calls to it."""
    for name, trainer in context.trainers.items():
        ours = {model.name: model for model in context.store.models() if model.provider == name}
        if not ours:
            continue
        try:
            _check_models(context, trainer, ours.values())
            if trainer.provider.can("aliases"):
                _check_aliases(context, trainer, ours)
                _count_calls(context, trainer, ours)
        except TrainerError as trouble:
            log.info("checking models in use: %s", trouble)


def _check_models(context: AppContext, trainer: Trainer, ours: Iterable[Model]) -> None:
    listed = {model.id for model in trainer.models()}
    for model in ours:
        # A list may be incomplete, so a model that is not in it is looked up by its name.
        is_there = model.provider_model in listed or trainer.has_model(model.provider_model)
        if is_there == (model.gone_at is not None):
            _record_presence(context, model, None if is_there else context.clock())


def _check_aliases(context: AppContext, trainer: Trainer, ours: Mapping[str, Model]) -> None:
    there = trainer.aliases()
    for promotion in context.store.promotions.all_current():
        used = ours.get(promotion.model)
        if used is None or promotion.carried_at is None or used.gone_at is not None:
            continue
        target = there.get(alias_for(promotion.dataset))
        if target != used.provider_model:
            _set_again(context, promotion, used, target)


def _count_calls(context: AppContext, trainer: Trainer, ours: Mapping[str, Model]) -> None:
    for promotion in context.store.promotions.all_current():
        if promotion.model in ours and promotion.carried_at is not None:
            update_actuals(context, trainer, promotion, ours[promotion.model])


def _put_off(context: AppContext, promotion: Promotion, seconds: float, trouble: str) -> None:
    """Postpones setting the alias. The promotion's card shows the reason."""
    proof = models.proof_of(context, promotion)
    with context.store.transaction():
        noted = context.store.promotions.postpone(promotion, context.clock() + seconds, trouble)
        if noted and trouble != promotion.trouble:
            models.show_card(context, noted, proof)


def _record_presence(context: AppContext, model: Model, gone_at: float | None) -> None:
    with context.store.transaction():
        if not context.store.mark_model_gone(model, gone_at):
            return
        action = "back" if gone_at is None else "gone"
        context.audit("finetune", action, f"run {model.run_id}")
        for promotion in context.store.promotions.all_current():
            if promotion.model == model.name and gone_at is not None:
                message = views.model_lost(
                    model, promotion.dataset, context.settings.title_of(model.provider)
                )
                once = f"gone {model.name} {gone_at:.0f}"
                context.post(promotion.channel, message.letter(), dedupe=once)


def _set_again(context: AppContext, promotion: Promotion, model: Model, target: str | None) -> None:
    proof = models.proof_of(context, promotion)
    with context.store.transaction():
        noted = context.store.promotions.mark_unsynced(promotion)
        if noted is None:
            return
        detail = f"{alias_for(promotion.dataset)} stood for {target or 'nothing'}"
        context.audit("finetune", "strayed", f"run {model.run_id}", detail)
        message = views.alias_mismatch(
            promotion.dataset, model, target, context.settings.title_of(model.provider)
        )
        once = f"strayed {promotion.id} {context.clock():.0f}"
        context.post(promotion.channel, message.letter(), dedupe=once)
        models.show_card(context, noted, proof)


ANY_VOLUME = 1_000_000  # for plans without a volume; it doesn't matter, since the counted calls replace it


def update_actuals(context: AppContext, trainer: Trainer, promotion: Promotion, model: Model) -> None:
    """Updates the months of a dataset. `promotion` is current, and its `model` is at this trainer. Raises
    TrainerError."""
    today = context.today()
    since = (today.replace(day=1) - timedelta(days=1)).replace(day=1)
    uses = _calls_by_month(context, trainer, promotion.dataset, since)
    if uses is None:
        return
    this_month = (model.name, units.month_of(context.clock()))
    for (name, month), use in {this_month: CallTotals(), **uses}.items():
        before = context.store.actuals.get(promotion.dataset, name, month)
        counted = (before.calls, before.prompt_tokens, before.completion_tokens) if before else None
        is_of_today = before is not None and units.day_of(before.at) == today
        if counted != (use.calls, use.prompt_tokens, use.completion_tokens) or not is_of_today:
            context.store.actuals.keep(_actual_month(context, promotion.dataset, name, month, use))


def _calls_by_month(
    context: AppContext, trainer: Trainer, dataset: str, since: date
) -> Mapping[tuple[str, str], CallTotals] | None:
    """Returns the calls by our model's name and month; None if the trainer doesn't count them."""
    days = trainer.alias_usage(alias_for(dataset), since)
    if days is None:
        return None
    names = {
        model.provider_model: model.name
        for model in context.store.models()
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
    share, inputs = rules.share_of_month(month, spans), result.inputs
    tuned: Rates | object = inputs.tuned if inputs else rates_from_row(result.prices[0])
    if isinstance(tuned, Rates):
        usd = rules.tuned_calls_usd(use, tuned, inputs.traffic if inputs else Traffic(), share)
        counted = replace(counted, micros=to_micros(usd))
    if inputs and result.alternative:
        usd = rules.alternative_usd(use, inputs, share)
        other = alternative_name(result.alternative)
        counted = replace(counted, alternative=other, alternative_micros=to_micros(usd))
    return counted


def _estimate_again(context: AppContext, name: str) -> EstimateResult | Refusal:
    """Estimates the model's plan again, with the dataset's current evidence and prices."""
    model = context.store.model(name)
    run = context.store.runs.get(model.run_id) if model else None
    version = context.store.datasets.get(run.dataset_id) if run else None
    report = datasets.report_of(version) if version else None
    if run is None or version is None or report is None:
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
    question = replace(question, volume=question.volume or ANY_VOLUME)
    result, best = estimate(question, evidence=measured), measured_alternatives(measured).cheapest
    if isinstance(result, ModelEnded) and best and best.arm.model:
        # The model that was in use at the time of the plan has ended, so the best living alternative replaces it.
        return estimate(replace(question, current=best.arm.model), evidence=measured)
    return result
