"""Tells a trainer which model its alias stands for, until it has been told; looks now and then whether it still does.

What is in use stands in our own database first (promoting.py). An alias is set by one PUT that may be sent twice, so a
kill before or after it is made good by the next tick.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bot.decisions.promoting import alias_of
from bot.views import promoting as views
from bot.views.blocks import Message
from bot.workflows import in_use
from bot.workflows.desk import Desk
from storage.promotions import Promotion
from storage.records import Model
from trainers.client import Trainer
from trainers.errors import Refused, TrainerError

REFUSED_S = 600.0
MAX_PAUSE_S = 120.0

log = logging.getLogger(__name__)


def step(desk: Desk, promotion: Promotion) -> None:
    """One try for a promotion that its trainer does not know of."""
    model = _model(desk, promotion)
    trainer = desk.trainers.get(model.provider)
    if trainer is None:
        _put_off(desk, promotion, MAX_PAUSE_S, f"there is no key for {model.provider} where the bot runs.")
        return
    try:
        trainer.point(alias_of(promotion.dataset), model.provider_model)
    except Refused as refused:
        _put_off(desk, promotion, REFUSED_S, str(refused))
    except TrainerError as trouble:
        _put_off(desk, promotion, min(2.0 ** min(promotion.tries + 1, 7), MAX_PAUSE_S), str(trouble))
    else:
        _carried(desk, promotion, model)


def provider_of(desk: Desk, promotion: Promotion) -> str:
    return _model(desk, promotion).provider


def after_trouble(desk: Desk, promotion: Promotion) -> None:
    desk.store.promotions.put_off(promotion, desk.clock() + MAX_PAUSE_S, "something in the bot went wrong.")


def sweep(desk: Desk) -> None:
    """Which models are gone from their providers, and whether each alias stands for what is in use."""
    for name, trainer in desk.trainers.items():
        models = [one for one in desk.store.models() if one.provider == name]
        if not models:
            continue
        try:
            _look_for_gone(desk, trainer, models)
            if trainer.provider.can("aliases"):
                _look_at_aliases(desk, trainer, models)
        except TrainerError as trouble:
            log.info("looking after models in use: %s", trouble)


def _model(desk: Desk, promotion: Promotion) -> Model:
    model = desk.store.model(promotion.model)
    if model is None:
        raise KeyError(promotion.model)
    return model


def _carried(desk: Desk, promotion: Promotion, model: Model) -> None:
    now, proof = desk.clock(), in_use.proof_of(desk, promotion)
    with desk.store.transaction():
        noted = desk.store.promotions.carried(promotion, now=now)
        if noted:
            detail = f"{alias_of(promotion.dataset)} stands for {model.provider_model} at {model.provider}"
            subject = f"run {model.run_id}"
            desk.store.audit.add(at=now, who="finetune", action="alias", subject=subject, detail=detail)
            in_use.show(desk, noted, proof)


def _put_off(desk: Desk, promotion: Promotion, seconds: float, trouble: str) -> None:
    """Its card says why, once for each trouble."""
    proof = in_use.proof_of(desk, promotion)
    with desk.store.transaction():
        noted = desk.store.promotions.put_off(promotion, desk.clock() + seconds, trouble)
        if noted and trouble != promotion.trouble:
            in_use.show(desk, noted, proof)


def _look_for_gone(desk: Desk, trainer: Trainer, models: Sequence[Model]) -> None:
    """One list; a model that is not in it is asked for by its name, since a list may leave some out."""
    listed = {one.id for one in trainer.models()}
    for model in models:
        is_there = model.provider_model in listed or trainer.has_model(model.provider_model)
        if is_there == (model.gone_at is not None):
            _note(desk, model, None if is_there else desk.clock())


def _note(desk: Desk, model: Model, gone_at: float | None) -> None:
    with desk.store.transaction():
        if not desk.store.model_gone(model, gone_at):
            return
        action = "back" if gone_at is None else "gone"
        desk.store.audit.add(at=desk.clock(), who="finetune", action=action, subject=f"run {model.run_id}")
        for promotion in desk.store.promotions.all_standing():
            if promotion.model == model.name and gone_at is not None:
                said = views.lost(model, promotion.dataset, in_use.title(desk, model))
                _say(desk, promotion, said, f"gone {model.name} {gone_at:.0f}")


def _look_at_aliases(desk: Desk, trainer: Trainer, models: Sequence[Model]) -> None:
    there, ours = trainer.aliases(), {one.name: one for one in models}
    for promotion in desk.store.promotions.all_standing():
        model = ours.get(promotion.model)
        if model is None or promotion.carried_at is None or model.gone_at is not None:
            continue
        found = there.get(alias_of(promotion.dataset))
        if found != model.provider_model:
            _set_again(desk, promotion, model, found)


def _set_again(desk: Desk, promotion: Promotion, model: Model, found: str | None) -> None:
    proof = in_use.proof_of(desk, promotion)
    with desk.store.transaction():
        noted = desk.store.promotions.carry_again(promotion)
        if noted is None:
            return
        subject = f"run {model.run_id}"
        detail = f"{alias_of(promotion.dataset)} stood for {found or 'nothing'}"
        desk.store.audit.add(
            at=desk.clock(), who="finetune", action="strayed", subject=subject, detail=detail
        )
        said = views.strayed(promotion.dataset, model, found, in_use.title(desk, model))
        _say(desk, promotion, said, f"strayed {promotion.id} {desk.clock():.0f}")
        in_use.show(desk, noted, proof)


def _say(desk: Desk, promotion: Promotion, message: Message, once: str) -> None:
    desk.say(promotion.channel, message.letter(), dedupe=once)
