"""What answers programs for a dataset when what is in use can't: a candidate that somebody chose for that.

It has to be as good as what may be deployed without asking anybody, since nobody looks at it again when it begins to
answer. It stays whatever is deployed or rolled back to, until somebody ends it, nothing is in use any more, or what it
was measured with is deleted.
"""

from __future__ import annotations

from bot.cards.common import freeze as freeze_cards
from bot.cards.common.blocks import code
from bot.cards.common.candidates import fallback_command, promotable_name, promotable_text
from bot.cards.common.words import OPERATOR, capitalize
from bot.cards.models import promotion_requests as request_views
from bot.cards.models.fallbacks import FallbackSummary
from bot.context import AppContext, CoreContext
from bot.rules.models.promotion import find_objections
from bot.services.common import authorization
from bot.services.evidence.promotion_evidence import promotion_proof
from bot.services.models import models, promotables
from bot.services.models.fallback_summaries import fallback_summary
from bot.services.models.promotables import origin_of
from bot.services.serving import recipes
from bot.values.requests import ChooseFallback
from bot.values.runs import Refusal
from storage.promotions import Fallback, NewFallback, Promotion
from storage.records import Promotable

AGAIN_S = 600.0


def choose(
    context: AppContext, wanted: ChooseFallback, person: str, channel: str
) -> FallbackSummary | Refusal:
    """Has what a command names answer for its dataset when what is in use can't."""
    refusal = authorization.refusal(context, person, "promote", channel)
    refusal = refusal or authorization.dataset_refusal(context, wanted.candidate.name, person, channel)
    if refusal:
        return refusal
    return _choose(context, wanted, person)


def choose_as_operator(context: AppContext, wanted: ChooseFallback) -> FallbackSummary | Refusal:
    """For the terminal."""
    return _choose(context, wanted, OPERATOR)


def end(context: AppContext, dataset: str, person: str, channel: str) -> FallbackSummary | Refusal:
    refusal = authorization.refusal(context, person, "rollback")
    refusal = refusal or authorization.dataset_refusal(context, dataset, person, channel)
    if refusal:
        return refusal
    return _end(context, dataset, person)


def end_as_operator(context: AppContext, dataset: str) -> FallbackSummary | Refusal:
    """For the terminal."""
    return _end(context, dataset, OPERATOR)


def build_step(context: AppContext, fallback: Fallback) -> None:
    """Builds the recipe of a fallback; publications.py publishes it at each tick."""
    recipe = recipes.recipe_of_fallback(context, fallback)
    if recipe is None:
        return
    if isinstance(recipe, Refusal):
        until = context.clock() + AGAIN_S
        context.store.fallbacks.postpone(fallback, until, recipe.text)
        is_news = recipe.text != fallback.trouble
    else:
        context.store.fallbacks.set_recipe(fallback, recipe)
        is_news = fallback.trouble is not None
    standing = context.store.promotions.current(fallback.dataset)
    if is_news and standing:
        models.show_again(context, standing)


def handle_step_failure(context: CoreContext, fallback: Fallback) -> None:
    until = context.clock() + AGAIN_S
    context.store.fallbacks.postpone(fallback, until, "something went wrong in the bot.")


def _choose(context: AppContext, wanted: ChooseFallback, person: str) -> FallbackSummary | Refusal:
    name = wanted.candidate.name
    standing = context.store.promotions.current(name)
    if standing is None:
        command = code(f"/finetune promote {name} CANDIDATE")
        return Refusal(
            f"Nothing is in use for {code(name)}, so nothing can stand in for it. {command} deploys something."
        )
    what = promotables.find_candidate(context, wanted.candidate, fallback_command)
    if isinstance(what, Refusal):
        return what
    refusal = _unfit_refusal(context, name, what, wanted.after, standing)
    if refusal:
        return refusal
    origin = origin_of(context, what)
    new = NewFallback(
        dataset=name,
        candidate=str(what.candidate),
        measurement=what.measurement or 0,
        person=person,
        channel=origin.channel,
        after_s=wanted.after,
    )
    with context.store.transaction():
        freeze = context.store.freezes.current()
        if freeze:
            return Refusal(freeze_cards.refusal(freeze, "Nothing else is deployed now"))
        chosen = context.store.fallbacks.choose(new, now=context.clock())
        detail = f"{promotable_name(what)} for {name}"
        context.audit(person, "choose fallback", origin.subject, detail)
    return _shown(context, chosen, standing)


def _end(context: AppContext, dataset: str, person: str) -> FallbackSummary | Refusal:
    standing = context.store.promotions.current(dataset)
    with context.store.transaction():
        over = context.store.fallbacks.end(dataset, person, now=context.clock())
        if over is None:
            return Refusal(f"{code(dataset)} has no fallback.")
        detail = f"{promotable_name(over.what)} for {dataset}"
        context.audit(person, "end fallback", origin_of(context, over.what).subject, detail)
    return _shown(context, over, standing)


def _unfit_refusal(
    context: AppContext, dataset: str, what: Promotable, after: int | None, standing: Promotion
) -> Refusal | None:
    """Returns why something can't stand in for what is in use. Reads files."""
    name = capitalize(promotable_text(what))
    current = context.store.fallbacks.current(dataset)
    if what.candidate is None:
        return Refusal(
            "A fallback needs no training and no machine: choose something that was measured, such as "
            f"{code(f'/finetune fallback {dataset} encoder')}."
        )
    if what == standing.what:
        return Refusal(f"{name} is what is in use for {code(dataset)}; a fallback answers when that can't.")
    if current is not None and current.what == what and current.after_s == after:
        return Refusal(f"{name} is already the fallback for {code(dataset)}.")
    refusal = promotables.refusal(context, what)
    if refusal:
        return refusal
    proof = promotion_proof(context, what, None)
    objections = find_objections(proof)
    if objections:
        return Refusal(request_views.fallback_refusal(what, dataset, proof, objections))
    return None


def _shown(context: AppContext, fallback: Fallback, standing: Promotion | None) -> FallbackSummary:
    """Has the card of what is in use show the change. Returns the fallback with what is said of it."""
    if standing is not None:
        models.show_again(context, standing)
    return fallback_summary(context, fallback, standing)
