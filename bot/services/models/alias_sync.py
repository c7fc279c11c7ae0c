"""Points the alias that programs call to the model in use, at its trainer, and checks every few minutes that it still
does.

Our database is changed first (promotions.py). An alias is set by one PUT, which is safe to repeat, so the next tick
makes up for a kill before or after it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from bot.cards.models import models as views
from bot.context import AppContext
from bot.rules.promotion import alias_for
from bot.services.models import actuals, models
from storage.promotions import Promotion
from storage.records import Model
from trainers.client import Trainer
from trainers.errors import Refused, TrainerError

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
        # A list may be incomplete, so a model that is not in it is looked up by its name; but not again and again once
        # it was gone, as there may be thousands of deleted ones.
        is_there = model.provider_model in listed
        if not is_there and model.gone_at is None:
            is_there = trainer.has_model(model.provider_model)
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
            actuals.update(context, trainer, promotion, ours[promotion.model])


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
        card = views.model_back if gone_at is None else views.model_lost
        once = f"{action} {model.name} {context.clock():.0f}"
        for promotion in context.store.promotions.current_of(model.name):
            message = card(model, promotion.dataset, context.settings.title_of(model.provider))
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
