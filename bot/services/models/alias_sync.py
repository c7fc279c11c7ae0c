"""Points the alias that programs call to the model in use, at its trainer, and checks every few minutes that it still
does.

Our database is changed first (promotions.py). An alias is set by one PUT, which is safe to repeat, so the next tick
makes up for a kill before or after it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from bot.cards.models import models as views
from bot.context import AppContext
from bot.rules.models.promotion import alias_for
from bot.services.models import actuals, models
from storage.promotions import Promotion
from storage.records import Model
from trainers.client.client import Trainer
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
        pause = min(2.0 ** min(promotion.tries + 1, 7), MAX_PAUSE_S)
        _put_off(context, promotion, pause, str(trouble))
    else:
        _record_set(context, promotion, model)


def _record_set(context: AppContext, promotion: Promotion, model: Model) -> None:
    now = context.clock()
    proof = models.proof_of(context, promotion)  # reads files, so before the transaction
    with context.store.transaction():
        noted = context.store.promotions.mark_synced(promotion, now=now)
        if noted is None:
            return
        alias = alias_for(promotion.dataset)
        detail = f"{alias} stands for {model.provider_model} at {model.provider}"
        context.audit("finetune", "alias", f"run {model.run_id}", detail)
        models.show_card(context, noted, proof)


def provider_of(context: AppContext, promotion: Promotion) -> str:
    return models.model_of(context, promotion).provider


def handle_step_failure(context: AppContext, promotion: Promotion) -> None:
    until = context.clock() + MAX_PAUSE_S
    context.store.promotions.postpone(promotion, until, "something went wrong in the bot.")


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
        was_gone = model.gone_at is not None
        is_there = model.provider_model in listed
        # A list may be incomplete, so a model that is not in it is looked up by its name; but not again and again once
        # it was gone, as there may be thousands of deleted ones.
        if not is_there and not was_gone:
            is_there = trainer.has_model(model.provider_model)
        if is_there and was_gone:
            _record_presence(context, model, None)
        elif not is_there and not was_gone:
            _record_presence(context, model, context.clock())


def _check_aliases(context: AppContext, trainer: Trainer, ours: Mapping[str, Model]) -> None:
    targets = trainer.aliases()
    for promotion, model in _with_alias(context, ours):
        if model.gone_at is not None:
            continue  # no alias can be set to it
        target = targets.get(alias_for(promotion.dataset))
        if target != model.provider_model:
            _set_again(context, promotion, model, target)


def _count_calls(context: AppContext, trainer: Trainer, ours: Mapping[str, Model]) -> None:
    for promotion, model in _with_alias(context, ours):
        actuals.update(context, trainer, promotion, model)


def _with_alias(context: AppContext, ours: Mapping[str, Model]) -> Iterator[tuple[Promotion, Model]]:
    """Yields the models in use whose alias was set. Until then, setting it is the work of `step`."""
    for promotion in context.store.promotions.all_current():
        model = ours.get(promotion.model or "")
        if model and promotion.carried_at is not None:
            yield promotion, model


def _put_off(context: AppContext, promotion: Promotion, seconds: float, trouble: str) -> None:
    """Postpones setting the alias. The promotion's card shows the reason."""
    proof = models.proof_of(context, promotion)
    until = context.clock() + seconds
    with context.store.transaction():
        noted = context.store.promotions.postpone(promotion, until, trouble)
        if noted and trouble != promotion.trouble:
            models.show_card(context, noted, proof)


def _record_presence(context: AppContext, model: Model, gone_at: float | None) -> None:
    """Records that a model is gone, or is listed again if `gone_at` is None, and tells those who use it."""
    if gone_at is None:
        action = "back"
        card = views.model_back
    else:
        action = "gone"
        card = views.model_lost
    provider = context.settings.title_of(model.provider)
    once = f"{action} {model.name} {context.clock():.0f}"
    with context.store.transaction():
        if not context.store.mark_model_gone(model, gone_at):
            return
        context.audit("finetune", action, f"run {model.run_id}")
        for promotion in context.store.promotions.current_of(model.name):
            message = card(model, promotion.dataset, provider)
            context.post(promotion.channel, message.letter(), dedupe=once)


def _set_again(context: AppContext, promotion: Promotion, model: Model, target: str | None) -> None:
    """Has the alias set again by the next step, and says in the channel where it pointed."""
    proof = models.proof_of(context, promotion)
    provider = context.settings.title_of(model.provider)
    with context.store.transaction():
        noted = context.store.promotions.mark_unsynced(promotion)
        if noted is None:
            return
        detail = f"{alias_for(promotion.dataset)} stood for {target or 'nothing'}"
        context.audit("finetune", "strayed", f"run {model.run_id}", detail)
        message = views.alias_mismatch(promotion.dataset, model, target, provider)
        once = f"strayed {promotion.id} {context.clock():.0f}"
        context.post(promotion.channel, message.letter(), dedupe=once)
        models.show_card(context, noted, proof)
