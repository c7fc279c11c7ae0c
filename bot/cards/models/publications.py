"""Why nothing answers under team/NAME: in lists of what is in use, and in the error that a program gets. Plain text, as
programs print it: no marks of Slack."""

from __future__ import annotations

from datetime import date

from bot.cards.common.candidates import promotable_name
from bot.rules import units
from bot.rules.models.promotion import alias_for
from storage.promotions import Promotion
from trainers.recipes.values import Published, Unavailable

NOT_IN_USE = "not_in_use"
DELETED = "deleted"
MODEL_GONE = "model_gone"
MODEL_ENDED = "model_ended"
MACHINE_STOPPED = "machine_stopped"
NOT_FOUND = 404
MAY_ANSWER_AGAIN = 503


def why_unanswered(published: Published | None, promotion: int, trouble: str | None) -> str | None:
    """Returns why programs get no answer from what is in use by the promotion of this number, None if they get one.
    `published` is what the folder of recipes has under its name, and `trouble` the promotion's."""
    if published is None or published.promotion != promotion:
        if trouble:
            return f"it can't be published yet: {trouble}"
        return "it is not published yet."
    if published.unavailable is not None and published.fallback is None:
        return published.unavailable.message
    return None


def why_on_fallback(published: Published | None) -> str | None:
    """Returns why programs get the fallback at each call, None if they get what is in use, or nothing at all."""
    if published is None or published.fallback is None or published.unavailable is None:
        return None
    return published.unavailable.message


def out_of_use(promotion: Promotion) -> Unavailable:
    """Nothing is in use any more. `promotion` was the last one."""
    when = units.day_of(promotion.ended_at or promotion.at)  # not as Slack would show it to each reader
    name = alias_for(promotion.dataset)
    if promotion.taken_out_by is None:
        text = f"Nothing answers as {name}: what was in use was deleted with its data on {when}."
        return Unavailable(NOT_FOUND, DELETED, text)
    text = (
        f"Nothing answers as {name}: {promotable_name(promotion.what)} was taken out of use on {when}. Your team "
        "can deploy something else in Slack, with /finetune promote."
    )
    return Unavailable(NOT_FOUND, NOT_IN_USE, text)


def model_gone(promotion: Promotion, provider: str) -> Unavailable:
    """`provider` is its title."""
    text = (
        f"{_who_answers(promotion)} no longer exists at {provider}. Your team can deploy something else in Slack: "
        f"/finetune rollback {promotion.dataset} restores what was in use before."
    )
    return Unavailable(MAY_ANSWER_AGAIN, MODEL_GONE, text)


def model_ended(promotion: Promotion, provider: str, ended: date) -> Unavailable:
    """`provider` is its title, and `ended` the first day on which the model doesn't answer."""
    text = (
        f"{_who_answers(promotion)} ended at {provider} on {ended}. Your team can deploy something else in "
        "Slack: /finetune models lists what there is."
    )
    return Unavailable(MAY_ANSWER_AGAIN, MODEL_ENDED, text)


def machine_stopped(promotion: Promotion, provider: str) -> Unavailable:
    """`provider` is its title."""
    text = (
        f"{_who_answers(promotion)} needs a machine at {provider} by the hour, and none runs now. Your team starts it "
        f"in Slack: /finetune try {promotion.dataset} links the card to do so."
    )
    return Unavailable(MAY_ANSWER_AGAIN, MACHINE_STOPPED, text)


def _who_answers(promotion: Promotion) -> str:
    return f"{promotable_name(promotion.what)}, which answers as {alias_for(promotion.dataset)},"
