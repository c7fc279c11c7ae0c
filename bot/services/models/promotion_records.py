"""Records what is in use for a dataset from now on, or that nothing is: in one transaction with the audit log and the
cards. alias_sync.py then has programs get it."""

from __future__ import annotations

from dataclasses import dataclass

from bot.cards.common import freeze as freeze_cards
from bot.cards.common.candidates import promotable_name
from bot.cards.models import promotion_requests as request_views
from bot.cards.models import promotions as views
from bot.cards.models.promotions import PromotionSummary
from bot.context import AppContext
from bot.rules.models.promotion import PromotionEvidence
from bot.services.common import finished_measurements
from bot.services.decisions import plan_requests
from bot.services.evidence import notifications
from bot.services.measurement import measurements
from bot.services.models import models
from bot.services.models.promotables import Origin, origin_of
from bot.values.evaluations import promoted_candidate
from bot.values.runs import Refusal
from storage.promotions import NewPromotion, Promotion, PromotionRequest
from storage.records import Measurement, Promotable

OVERTAKEN = (
    "Something else was deployed just now; `/finetune models` shows what. Try again if you still want this."
)
NOT_IN_USE = "This is not in use any more, so there is nothing to roll back."


@dataclass(frozen=True)
class DecidedPromotion:
    """A promotion that may be recorded. `instead_of` is the promotion that it replaces, `ended` the evidence for that
    one. `request` is the approved request for it, None if the evidence was enough."""

    what: Promotable
    origin: Origin
    person: str
    because: str | None
    proof: PromotionEvidence
    instead_of: Promotion | None
    ended: PromotionEvidence | None
    request: PromotionRequest | None = None


def record(context: AppContext, decided: DecidedPromotion) -> PromotionSummary | Refusal:
    standing = decided.instead_of
    request = decided.request
    new = NewPromotion(
        dataset=decided.origin.name,
        what=decided.what,
        person=decided.person,
        channel=decided.origin.channel,
        instead_of=standing,
        returns_to=standing.id if standing else None,
        reason=on_one_line(decided.because),
        request=request.id if request else None,
    )
    with context.store.transaction():
        freeze = context.store.freezes.current()
        if freeze:
            return Refusal(freeze_cards.refusal(freeze, "Nothing else is deployed now"))
        promotion = context.store.promotions.add(new, now=context.clock())
        if promotion is None:
            return Refusal(OVERTAKEN)
        return _announce(context, promotion, decided.proof, decided.ended)


def record_rollback(
    context: AppContext,
    standing: Promotion,
    target: Promotion,
    person: str,
    because: str | None,
    proof: PromotionEvidence,
) -> PromotionSummary | Refusal:
    """`proof` compares the `target`, which was in use before, with what is in use now."""
    new = NewPromotion(
        dataset=standing.dataset,
        what=target.what,
        person=person,
        channel=target.channel,
        instead_of=standing,
        returns_to=target.returns_to,  # so that the next rollback goes one further back, not to and fro
        reason=on_one_line(because),
        request=target.request,
        is_rollback=True,
    )
    ended = models.proof_of(context, standing)
    with context.store.transaction():
        promotion = context.store.promotions.add(new, now=context.clock())
        if promotion is None:
            return Refusal(OVERTAKEN)
        return _announce(context, promotion, proof, ended)


def record_end(
    context: AppContext, standing: Promotion, person: str, because: str | None
) -> PromotionSummary | Refusal:
    """Takes out of use what is in use, with nothing in its place."""
    proof = models.proof_of(context, standing)
    reason = on_one_line(because)
    with context.store.transaction():
        over = context.store.promotions.take_out_of_use(standing, person, reason, now=context.clock())
        if over is None:
            return Refusal(NOT_IN_USE)
        context.store.fallbacks.end(over.dataset, person, now=context.clock())
        origin = origin_of(context, over.what)
        detail = f"{promotable_name(over.what)} for {over.dataset}"
        if reason:
            detail += f". Because: {reason}"
        context.audit(person, "take out of use", origin.subject, detail)
        update_cards_after_end(context, over)
        models.show_card(context, over, proof)
        # The edited card may be far up in the channel, and programs get no answer from now on.
        message = views.taken_out_message(over)
        context.post(over.channel, message.letter(), topic="cards")
        return models.card_values(context, over, proof)


def update_cards_after_end(context: AppContext, over: Promotion) -> None:
    """Has the other cards of the dataset say that nothing is in use any more. Call it in a transaction."""
    close_requests(context, over.dataset)
    update_results(context, over.dataset, over.what)
    plan_requests.refresh_requests_of(context, over.dataset)


def on_one_line(reason: str | None) -> str | None:
    return " ".join(reason.split()) if reason else None


def close_requests(context: AppContext, dataset: str) -> None:
    """Closes the requests that compare something with what is in use no more. Call it in the transaction of that
    change."""
    for request in context.store.promotion_requests.open():
        if request.dataset == dataset:
            ended = context.store.promotion_requests.end(request, "outdated", now=context.clock())
            if ended:
                show_ended(context, ended, None)


def show_ended(
    context: AppContext, request: PromotionRequest, person: str | None, reason: str | None = None
) -> None:
    """Replaces the request's card by its outcome. `person` decided it, None if nobody did."""
    outcome = request_views.outcome_text(request, person, reason)
    card = request_views.ended_card(request, outcome)
    context.show(request_card_name(request), request.channel, card, concerns=request.person)


def update_results(context: AppContext, dataset: str, what: Promotable) -> None:
    """Has the cards that offer to use it say that it is in use, or offer it again."""
    model = context.store.model(what.model or "")
    if model is not None:
        run = context.store.runs.of_model(model)
        notifications.update_result(context, run)
    candidate = promoted_candidate(what)
    if candidate is not None and what.measurement is not None:
        _update_measurements(context, what.measurement)
        notifications.update_results_about(context, dataset, candidate)


def request_card_name(request: PromotionRequest) -> str:
    return f"promotion request {request.id}"


def _announce(
    context: AppContext, promotion: Promotion, proof: PromotionEvidence, ended: PromotionEvidence | None
) -> PromotionSummary:
    """Audits and posts the promotion. The card of the one before, whose evidence is `ended`, then says that it is
    over."""
    _end_needless_fallback(context, promotion)
    seen = models.card_values(context, promotion, proof)
    before = _promotion(context, promotion.instead_of)
    _audit(context, seen, before)
    update_results(context, promotion.dataset, promotion.what)
    if before and ended:
        models.show_card(context, before, ended)
        update_results(context, before.dataset, before.what)
    close_requests(context, promotion.dataset)
    plan_requests.refresh_requests_of(context, promotion.dataset)
    name = models.card_name(promotion)
    card = views.promotion_card(seen)
    context.show(name, promotion.channel, card, concerns=promotion.person)
    return seen


def _end_needless_fallback(context: AppContext, promotion: Promotion) -> None:
    """Nothing can stand in for itself."""
    fallback = context.store.fallbacks.current(promotion.dataset)
    if fallback is not None and fallback.candidate == promotion.candidate:
        context.store.fallbacks.end(promotion.dataset, promotion.person, now=context.clock())


def _update_measurements(context: AppContext, number: int) -> None:
    """Edits the results of this measurement and of later ones on the same rows: theirs know its candidates, too."""
    measurement = context.store.measurements.get(number)
    if measurement is None:
        return
    first = finished_measurements.read_evaluation(measurement)
    if first is None:
        return
    holdout = first.plan.holdout_sha256
    dataset = context.store.datasets.get(measurement.dataset_id)
    versions = tuple(version.id for version in context.store.datasets.versions(dataset.name))
    for each in finished_measurements.evaluations(context.store, versions):
        if each.measurement.id >= number and each.plan.holdout_sha256 == holdout:
            _show_again(context, each.measurement)


def _show_again(context: AppContext, measurement: Measurement) -> None:
    card = measurements.result_card_of(context, measurement)
    if context.store.outbox.card(card):
        message = measurements.result_card(context, measurement, str(measurement.result))
        context.show(card, measurement.channel, message, concerns=measurement.requested_by)


def _audit(context: AppContext, seen: PromotionSummary, before: Promotion | None) -> None:
    """Audits the promotion on the run or measurement that it comes from, and on that of what it replaces."""
    promotion = seen.promotion
    name = promotable_name(promotion.what)
    detail = f"{name} for {promotion.dataset}"
    if before:
        detail += f" instead of {promotable_name(before.what)}"
    detail += f": {views.proof_in_numbers(seen.proof)}"
    if seen.sealed:
        detail += f"; sealed rows: {views.sealed_text(seen.sealed)}"
    if promotion.request:
        detail += f"; request {promotion.request}, approved by {', '.join(seen.approved_by)}"
    reason = ""
    if promotion.reason:
        reason = f". Because: {promotion.reason}"
    action = "rolled back to" if promotion.is_rollback else "promote"
    subject = origin_of(context, promotion.what).subject
    context.audit(promotion.person, action, subject, f"{detail}{reason}")
    if before:
        action = "roll back" if promotion.is_rollback else "replaced"
        detail = f"{promotable_name(before.what)} for {promotion.dataset}: {name} is in use{reason}"
        subject = origin_of(context, before.what).subject
        context.audit(promotion.person, action, subject, detail)


def _promotion(context: AppContext, number: int | None) -> Promotion | None:
    if number is None:
        return None
    return context.store.promotions.get(number)
