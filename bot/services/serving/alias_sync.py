"""Has programs get what is in use under team/NAME: builds its recipe, publishes it for the door, and points our own
trainer's alias to a tuned model. Checks every few minutes that each alias still does.

Our database is changed first (promotions.py). A recipe is the same each time it is built, it is published by a rename,
and an alias is set by one PUT. Each is safe to repeat, so the next tick makes up for a kill before or after it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from bot.cards.models import promotions as views
from bot.context import AppContext
from bot.rules.models.promotion import alias_for
from bot.services.models import models
from bot.services.models.promotables import origin_of
from bot.services.serving import actuals, publications, recipes
from bot.values.runs import Refusal
from storage.promotions import Promotion
from storage.records import Model
from trainers.client.client import Trainer
from trainers.errors import Refused, TrainerError

REFUSED_S = 600.0
MAX_PAUSE_S = 120.0

log = logging.getLogger(__name__)


def publish_step(context: AppContext, promotion: Promotion) -> None:
    """Builds the recipe of a promotion, or publishes it once it is built. A promotion with an alias is then left to
    `alias_step`."""
    recipe = recipes.recipe_of(context, promotion)
    if recipe is None:
        return
    if isinstance(recipe, Refusal):
        _put_off(context, promotion, REFUSED_S, recipe.text)
        return
    had_trouble = False
    if promotion.recipe != recipe:
        had_trouble = promotion.trouble is not None
        noted = context.store.promotions.set_recipe(promotion, recipe)
        if noted is None:  # something else was put in its place meanwhile
            return
        promotion = noted
    publications.publish(context, promotion)
    needs_no_alias = provider_with_alias(context, promotion) is None
    if promotion.carried_at is None and needs_no_alias:
        name = alias_for(promotion.dataset)
        detail = f"{name} answers by the recipe {recipe[:12]}"
        _record_carried(context, promotion, "publish", detail)
    elif had_trouble:
        models.show_again(context, promotion)


def alias_step(context: AppContext, promotion: Promotion) -> None:
    """Tries once to set the alias for a promotion that is published."""
    model = models.model_of(context, promotion)
    trainer = context.trainers.get(model.provider)
    if trainer is None:
        trouble = f"there is no key for {model.provider} where the bot runs."
        _put_off(context, promotion, MAX_PAUSE_S, trouble)
        return
    alias = alias_for(promotion.dataset)
    try:
        trainer.set_alias(alias, model.provider_model)
    except Refused as refused:
        _put_off(context, promotion, REFUSED_S, str(refused))
    except TrainerError as error:
        doublings = min(promotion.tries + 1, 7)
        pause = min(2.0**doublings, MAX_PAUSE_S)
        _put_off(context, promotion, pause, str(error))
    else:
        detail = f"{alias} stands for {model.provider_model} at {model.provider}"
        _record_carried(context, promotion, "alias", detail)


def _record_carried(context: AppContext, promotion: Promotion, action: str, detail: str) -> None:
    now = context.clock()
    proof = models.proof_of(context, promotion)  # reads files, so before the transaction
    with context.store.transaction():
        noted = context.store.promotions.mark_synced(promotion, now=now)
        if noted is None:
            return
        origin = origin_of(context, promotion.what)
        context.audit("finetune", action, origin.subject, detail)
        models.show_card(context, noted, proof)


def provider_with_alias(context: AppContext, promotion: Promotion) -> str | None:
    """Returns the provider that has to set an alias for a promotion, None if there is none to set."""
    model = context.store.model(promotion.model or "")
    if model is None or not models.has_alias(context, model):
        return None
    return model.provider


def needs_alias(context: AppContext, promotion: Promotion) -> str | None:
    """Returns the provider whose alias has to be set now, None if the recipe comes first or there is no alias."""
    if promotion.recipe is None or promotion.carried_at is not None:
        return None
    return provider_with_alias(context, promotion)


def handle_step_failure(context: AppContext, promotion: Promotion) -> None:
    until = context.clock() + MAX_PAUSE_S
    context.store.promotions.postpone(promotion, until, "something went wrong in the bot.")


def sweep(context: AppContext) -> None:
    """Checks which models are gone from their providers and whether each alias points to the model in use, and counts
    the calls to it."""
    aliased: actuals.Uses = {}
    for name, trainer in context.trainers.items():
        ours = _models_at(context, name)
        if not ours:
            continue
        try:
            _check_models(context, trainer, ours.values())
            if trainer.provider.can("aliases"):
                _check_aliases(context, trainer, ours)
                for promotion, _ in _with_alias(context, ours):
                    aliased |= actuals.count_aliased(context, trainer, promotion)
        except TrainerError as trouble:
            # The next sweep tries again; the other providers are checked now.
            log.info("checking models in use: %s", trouble)
    actuals.update(context, aliased)


def _models_at(context: AppContext, provider: str) -> dict[str, Model]:
    """Returns our models at this provider by name."""
    ours = {}
    for model in context.store.models():
        if model.provider == provider:
            ours[model.name] = model
    return ours


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
        alias = alias_for(promotion.dataset)
        target = targets.get(alias)
        if target != model.provider_model:
            _set_again(context, promotion, model, target)
    _delete_unused(context, trainer, ours, targets)


def _delete_unused(
    context: AppContext, trainer: Trainer, ours: Mapping[str, Model], targets: Mapping[str, str]
) -> None:
    """Deletes the aliases of datasets whose model here was taken out of use, or was replaced by what needs no alias.
    Aliases that somebody else has set stay."""
    current = {promotion.dataset: promotion.model for promotion in context.store.promotions.all_current()}
    answering = {model.provider_model for model in ours.values()}
    for dataset in context.store.promotions.datasets():
        alias = alias_for(dataset)
        if current.get(dataset) in ours or targets.get(alias) not in answering:
            continue
        trainer.delete_alias(alias)
        detail = f"{alias} stands for nothing at {trainer.provider.name}"
        context.audit("finetune", "no_alias", f"dataset {dataset}", detail)


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
    now = context.clock()
    once = f"{action} {model.name} {now:.0f}"
    with context.store.transaction():
        if not context.store.mark_model_gone(model, gone_at):
            return
        context.audit("finetune", action, f"run {model.run_id}")
        for promotion in context.store.promotions.current_of(model.name):
            message = card(model, promotion.dataset, provider).letter()
            context.post(promotion.channel, message, topic="ends", dedupe=once)


def _set_again(context: AppContext, promotion: Promotion, model: Model, target: str | None) -> None:
    """Has the alias set again by the next step, and says in the channel where it pointed."""
    proof = models.proof_of(context, promotion)
    provider = context.settings.title_of(model.provider)
    with context.store.transaction():
        noted = context.store.promotions.mark_unsynced(promotion)
        if noted is None:
            return
        alias = alias_for(promotion.dataset)
        detail = f"{alias} stood for {target or 'nothing'}"
        context.audit("finetune", "strayed", f"run {model.run_id}", detail)
        message = views.alias_mismatch(promotion.dataset, model, target, provider).letter()
        now = context.clock()
        once = f"strayed {promotion.id} {now:.0f}"
        context.post(promotion.channel, message, topic="problems", dedupe=once)
        models.show_card(context, noted, proof)
