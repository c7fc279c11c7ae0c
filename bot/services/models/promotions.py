"""Promotes a tuned model or a measured candidate to be what is in use for its dataset, rolls back to what was in use
before, or takes it out of use. alias_sync.py then has programs get it.

What the evidence supports takes one click. Anything else takes a reason and other people (promotion_requests.py). If
the dataset has a sealed part, the promotion of a tuned model waits for the test on it, and that decides
(sealed_tests.py).
"""

from __future__ import annotations

from dataclasses import replace

from bot.cards.common.blocks import code, escape
from bot.cards.common.candidates import promotable_text
from bot.cards.common.general import text_message
from bot.cards.common.permissions import too_few_words
from bot.cards.common.words import OPERATOR, by_whom, capitalize
from bot.cards.models import promotion_requests as request_views
from bot.cards.models.promotion_requests import RequestSummary
from bot.cards.models.promotions import PromotionSummary
from bot.cards.training.runs import no_such_run
from bot.context import AppContext
from bot.rules.models.promotion import PromotionEvidence, find_objections
from bot.rules.permissions import has_enough_words
from bot.services.common import authorization
from bot.services.evidence import promotion_evidence
from bot.services.measurement import measurements
from bot.services.measurement.evaluations import SealedConclusion
from bot.services.models import models, promotables, promotion_records, promotion_requests, sealed_tests
from bot.services.models.promotables import Origin, origin_of
from bot.services.models.promotion_records import NOT_IN_USE, DecidedPromotion
from bot.values.evaluations import ComparisonPlan, SealedOutcome
from bot.values.requests import Promote
from bot.values.runs import Refusal
from storage.promotions import Promotion
from storage.records import Measurement, Promotable
from trainers.evaluation.results import Comparison

Promoted = PromotionSummary | RequestSummary | Measurement | Refusal
"""What came of asking for a promotion: it is recorded, other people are asked, or a sealed test decides."""


def promote(context: AppContext, wanted: Promote, person: str, channel: str) -> Promoted:
    """Promotes what a command names."""
    refusal = authorization.refusal(context, person, "promote", channel)
    if refusal:
        return refusal
    what = promotables.find(context, wanted, person, channel)
    if isinstance(what, Refusal):
        return what
    return _promote(context, what, person, wanted.because)


def promote_run(context: AppContext, number: int, person: str) -> Promoted:
    """Handles the button on a result."""
    run = context.store.runs.get(number)
    model = None
    if run is not None:
        model = context.store.model(run.model or "")
    if run is None or model is None:
        return Refusal(f"Run {number} has no model. `/finetune models` lists all models.")
    refusal = _button_refusal(context, run.dataset_id, run.channel, person, Refusal(no_such_run(number)))
    if refusal:
        return refusal
    return _promote(context, Promotable(model.name), person, None)


def promote_candidate(context: AppContext, value: str, person: str) -> Promoted:
    """Handles *Use it*, whose value is a measurement and the key of a candidate that it knows."""
    number, _, key = value.partition(" ")
    hidden = Refusal("There is no such measurement any more.")
    measurement = context.store.measurements.get(int(number))
    if measurement is None:
        return hidden
    # First the rights, so that nobody learns from a refusal what was measured.
    refusal = _button_refusal(context, measurement.dataset_id, measurement.channel, person, hidden)
    if refusal:
        return refusal
    what = promotables.find_of_card(context, measurement.id, key)
    if isinstance(what, Refusal):
        return what
    return _promote(context, what, person, None)


def promote_tried(context: AppContext, what: Promotable, person: str) -> Promoted:
    """Promotes what was tried on live calls; what that has shown is part of the evidence."""
    origin = origin_of(context, what)
    refusal = authorization.refusal(context, person, "promote", origin.channel)
    if refusal:
        return refusal
    return _promote(context, what, person, None)


def promote_as_operator(context: AppContext, wanted: Promote) -> PromotionSummary | Refusal:
    """For the terminal. Anybody who has the machine may do what takes one person; nobody else is there to approve what
    takes two, or to open sealed rows."""
    what = promotables.find_without_rights(context, wanted)
    if isinstance(what, Refusal):
        return what
    result = _promote(context, what, OPERATOR, None)
    if isinstance(result, RequestSummary | Measurement):
        return Refusal("The sealed rows decide about this, so somebody has to ask for it in Slack.")
    return result


def roll_back_as_operator(
    context: AppContext, dataset: str, because: str | None, *, to_nothing: bool
) -> PromotionSummary | Refusal:
    """For the terminal."""
    standing = context.store.promotions.current(dataset)
    if standing is None:
        return _nothing_in_use(dataset)
    if to_nothing:
        return promotion_records.record_end(context, standing, OPERATOR, because)
    return _roll_back(context, standing, OPERATOR, because)


def roll_back(
    context: AppContext,
    dataset: str,
    because: str | None,
    person: str,
    channel: str,
    *,
    to_nothing: bool = False,
) -> PromotionSummary | Refusal:
    """Goes back to what was in use before. The first one is taken out of use, or with `to_nothing` any."""
    refusal = authorization.refusal(context, person, "rollback")
    refusal = refusal or authorization.dataset_refusal(context, dataset, person, channel)
    if refusal:
        return refusal
    standing = context.store.promotions.current(dataset)
    if standing is None:
        return _nothing_in_use(dataset)
    if to_nothing:
        return promotion_records.record_end(context, standing, person, because)
    return _roll_back(context, standing, person, because)


def _nothing_in_use(dataset: str) -> Refusal:
    return Refusal(
        f"Nothing is in use for {code(dataset)}, so there is nothing to roll back. `/finetune models` lists all models."
    )


def roll_back_from(context: AppContext, number: int, person: str) -> PromotionSummary | Refusal:
    """Handles the button on the card of the promotion with that number."""
    refusal = authorization.refusal(context, person, "rollback")
    if refusal:
        return refusal
    promotion = context.store.promotions.get(number)
    over = Refusal(NOT_IN_USE)
    if promotion is None or promotion.ended_at is not None:
        return over
    refusal = authorization.button_refusal(context, promotion.dataset, person, over)
    if refusal:
        return refusal
    return _roll_back(context, promotion, person, None)


def finish_sealed_test(context: AppContext, concluded: SealedConclusion) -> None:
    """Ends a test on sealed rows with its result, and decides the promotion in the same transaction."""
    measurement = concluded.measurement
    decided = decide_by_sealed(context, measurement, concluded.plan, concluded.comparison)
    with context.store.transaction():
        moved = measurements.close(
            context,
            measurement,
            concluded.comparison.to_json(),
            spent_micros=concluded.progress.booked_micros,
        )
        if moved is None:
            return
        outcome = _record_sealed(context, moved, decided)
        progress = replace(concluded.progress, outcome=outcome)
        closed = context.store.measurements.move(
            moved, "done", now=context.clock(), progress=progress.to_json()
        )
        measurements.show_result(context, closed or moved)


def decide_by_sealed(
    context: AppContext, measurement: Measurement, plan: ComparisonPlan, comparison: Comparison
) -> DecidedPromotion | Refusal:
    """Decides a promotion once its sealed rows are answered. This looks up rights and reads files, so call it before
    the transaction of `_record_sealed`."""
    person = measurement.requested_by
    # Whether the person still has the right is asked again: answering the sealed rows may have taken days.
    refusal = authorization.refusal(context, person, "promote", measurement.channel)
    if refusal:
        return refusal
    model = context.store.model(plan.promotes or "")
    if model is None:
        return Refusal(f"{plan.promotes} is gone.")
    what = Promotable(model.name)
    origin = origin_of(context, what)
    standing = context.store.promotions.current(origin.name)
    used = None
    ended = None
    if standing is not None:
        used = standing.what
        ended = models.proof_of(context, standing)
    if used == what:
        return Refusal(f"{code(model.name)} is already in use.")
    on_holdout = promotion_evidence.promotion_proof(context, what, used)
    proof = sealed_tests.sealed_proof_of(context, model, used, plan, comparison, on_holdout)
    objections = find_objections(proof)
    refusal = promotables.refusal(context, what)
    if refusal is None and objections:
        refusal = Refusal(request_views.promotion_refusal(what, origin.name, proof, objections))
    if refusal:
        return refusal
    return DecidedPromotion(what, origin, person, None, on_holdout, standing, ended)


def _record_sealed(
    context: AppContext, measurement: Measurement, decided: DecidedPromotion | Refusal
) -> SealedOutcome:
    """Records the promotion, or tells the requester why not. Call this in the transaction that ends the measurement."""
    if isinstance(decided, Refusal):
        refusal = decided
    else:
        result = promotion_records.record(context, decided)
        if not isinstance(result, Refusal):
            return SealedOutcome(is_deployed=True)
        refusal = result
    link = context.link(f"measurement {measurement.id}", f"m{measurement.id}")
    message = text_message(
        f"<@{measurement.requested_by}>: the sealed rows were opened ({link}). {refusal.text}"
    )
    once = f"sealed {measurement.id}"
    context.post(measurement.channel, message.letter(), topic="answers", dedupe=once)
    return SealedOutcome(is_deployed=False, why=refusal.text)


def _button_refusal(
    context: AppContext, dataset_id: int, channel: str, person: str, hidden: Refusal
) -> Refusal | None:
    not_allowed = authorization.refusal(context, person, "promote", channel)
    if not_allowed:
        return not_allowed
    dataset = context.store.datasets.get(dataset_id)
    return authorization.button_refusal(context, dataset.name, person, hidden)


def _promote(context: AppContext, what: Promotable, person: str, because: str | None) -> Promoted:
    origin = origin_of(context, what)
    standing = context.store.promotions.current(origin.name)
    if standing is not None and standing.what == what:
        name = capitalize(promotable_text(what))
        return Refusal(f"{name} is already in use for {code(origin.name)}, by {by_whom(standing.person)}.")
    refusal = promotables.refusal(context, what, because)
    if refusal:
        return refusal
    if because is not None and not has_enough_words(because):
        why = too_few_words("it should be used", "half the price at the same quality")
        return Refusal(f"`because=`: {why}", "because")

    used = None
    ended = None
    if standing is not None:
        used = standing.what
        ended = models.proof_of(context, standing)
    proof = promotion_evidence.promotion_proof(context, what, used)
    decided = DecidedPromotion(what, origin, person, because, proof, standing, ended)
    if because:
        return _promote_anyway(context, decided)
    return _promote_on_evidence(context, decided)


def _promote_anyway(context: AppContext, decided: DecidedPromotion) -> Promoted:
    """Promotes something for a reason. Unless the evidence supports it as well, other people have to approve that."""
    proof = sealed_tests.without_test(context, decided.what, decided.proof)
    decided = replace(decided, proof=proof)
    if find_objections(proof):
        return promotion_requests.ask(context, decided)
    return promotion_records.record(context, decided)


def _promote_on_evidence(context: AppContext, decided: DecidedPromotion) -> Promoted:
    model = context.store.model(decided.what.model or "")
    run = None
    if model is not None:
        run = context.store.runs.of_model(model)
    has_sealed = run is not None and sealed_tests.has_sealed_rows(context, run)
    refusal = _objections_refusal(decided.what, decided.origin, decided.proof, has_sealed=has_sealed)
    if refusal:
        return refusal
    if model is None or run is None or not has_sealed:
        return promotion_records.record(context, decided)
    used = None
    if decided.instead_of is not None:
        used = decided.instead_of.what
    return sealed_tests.ask_sealed_test(context, model, run, used, decided.person)


def _objections_refusal(
    what: Promotable, origin: Origin, proof: PromotionEvidence, *, has_sealed: bool
) -> Refusal | None:
    if has_sealed:
        # All that answers sealed rows is judged by one judge, so the test settles what two judges can't.
        proof = replace(proof, others_judge=None)
    objections = find_objections(proof)
    if not objections:
        return None
    return Refusal(request_views.promotion_refusal(what, origin.name, proof, objections))


def _roll_back(
    context: AppContext, standing: Promotion, person: str, because: str | None
) -> PromotionSummary | Refusal:
    target = context.store.promotions.get(standing.returns_to or 0)
    if target is None:
        return promotion_records.record_end(context, standing, person, because)
    refusal = _unusable_refusal(context, target, because)
    if refusal:
        return refusal
    proof = promotion_evidence.promotion_proof(context, target.what, standing.what)
    return promotion_records.record_rollback(context, standing, target, person, because, proof)


def _unusable_refusal(context: AppContext, target: Promotion, because: str | None) -> Refusal | None:
    """Returns why what was in use before can't be used again. `because` may be a reason to override a rule about
    data."""
    takes_out = code(f"/finetune rollback {target.dataset} to=nothing")
    other = f"`/finetune promote` deploys something else, and {takes_out} takes what is in use out of use."
    model = context.store.model(target.what.model or "")
    if model is not None and model.gone_at is not None:
        provider = escape(context.settings.title_of(model.provider))
        return Refusal(f"{code(model.name)}, which was in use before, is gone from {provider}. {other}")
    reason = _reason_before(context, target)
    if because and has_enough_words(because):
        reason = because
    refusal = promotables.refusal(context, target.what, reason)
    if refusal:
        name = capitalize(promotable_text(target.what))
        return Refusal(f"{name} was in use before. {refusal.text} {other}")
    return None


def _reason_before(context: AppContext, target: Promotion) -> str | None:
    """Returns the reason with which it was deployed, if any. It may override a rule about data, which still holds for a
    rollback to it. A rollback's own reason is about what it ended."""
    for each in reversed(context.store.promotions.for_dataset(target.dataset)):
        if each.what == target.what and not each.is_rollback:
            return each.reason
    return None
