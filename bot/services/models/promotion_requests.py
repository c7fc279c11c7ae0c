"""Requests to deploy something against the evidence. Like a plan, one has a reason, is approved by other people,
expires, and is bound to what its card shows."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common import freeze as freeze_cards
from bot.cards.common.permissions import who_may
from bot.cards.models import promotion_requests as views
from bot.cards.models.promotion_requests import RequestSummary
from bot.cards.models.promotions import PromotionSummary
from bot.context import AppContext
from bot.rules.models.promotion import PromotionEvidence, evidence_hash, find_objections
from bot.rules.permissions import Caller, Request, explain_not_named, has_quorum, is_expired
from bot.services.common import authorization
from bot.services.evidence.promotion_evidence import promotion_proof
from bot.services.models import models, promotables, sealed_tests
from bot.services.models.promotables import origin_of
from bot.services.models.promotion_records import (
    DecidedPromotion,
    on_one_line,
    record,
    request_card_name,
    show_ended,
)
from bot.values.runs import Refusal
from storage.promotions import (
    NewPromotionRequest,
    Promotion,
    PromotionDecision,
    PromotionRequest,
    RequestState,
)
from storage.records import Draft

NO_REQUEST = "There is no such request any more."


def ask(context: AppContext, decided: DecidedPromotion) -> RequestSummary | Refusal:
    """Asks other people to approve a promotion that the evidence doesn't support."""
    channel = decided.origin.channel
    refusal = authorization.channel_refusal(context, channel, by_others=True)
    if refusal:
        return refusal
    standing = decided.instead_of
    replaces = None
    if standing is not None:
        replaces = standing.id
    new = NewPromotionRequest(
        dataset=decided.origin.name,
        what=decided.what,
        person=decided.person,
        reason=on_one_line(decided.because) or "",
        channel=channel,
        hash=evidence_hash(decided.what, replaces, decided.proof),
    )
    with context.store.transaction():
        freeze = context.store.freezes.current()
        if freeze:
            return Refusal(freeze_cards.refusal(freeze, "Nothing else is deployed now"))
        request = context.store.promotion_requests.add(new, now=context.clock())
        if request is None:
            return Refusal(
                "Somebody has asked for the same already; the card of that request waits for approval."
            )
        summary = _summary(context, request, decided.proof, standing)
        detail = f"request {request.id}: {views.request_detail(summary)}. Because: {request.reason}"
        context.audit(request.person, "ask to promote", decided.origin.subject, detail)
        _show(context, summary)
        return summary


def approve(context: AppContext, number: int, person: str) -> PromotionSummary | RequestSummary | Refusal:
    """Records a person's approval. The last one needed also deploys it, in the same transaction."""
    request = context.store.promotion_requests.get(number)
    if request is None:
        return Refusal(NO_REQUEST)
    caller = authorization.look_up(context, person, "approve", request.channel)
    refusal = _approval_refusal(context, request, caller)
    if refusal:
        return refusal
    # Files are read and people looked up before the transaction.
    standing = context.store.promotions.current(request.dataset)
    used = None
    ended = None
    if standing is not None:
        used = standing.what
        ended = models.proof_of(context, standing)
    measured = promotion_proof(context, request.what, used)
    proof = sealed_tests.without_test(context, request.what, measured)
    with context.store.transaction():
        current = context.store.promotion_requests.get(number)
        if current is None or current.state != "asked":
            return _too_late(current)
        if _is_outdated(context, request, standing, proof):
            _end(context, request, "outdated", None)
            return Refusal(f"{views.OUTDATED} Nothing was deployed. Ask again if it should still be used.")
        freeze = context.store.freezes.current()
        if freeze:
            return Refusal(freeze_cards.refusal(freeze, "Nothing else is deployed now"))
        decision = PromotionDecision(number, request.hash, person, "approve", None, context.clock())
        if not context.store.promotion_requests.decide(decision):
            return Refusal("You have already approved this; it waits for somebody else.")
        subject = origin_of(context, request.what).subject
        context.audit(person, "approve", subject, f"request {number} {request.hash}")
        # A promotion itself costs nothing, so the quorum is that of the cheapest tier.
        if not has_quorum(_approvers(context, number), caller.rules, 0):
            summary = _summary(context, request, proof, standing)
            _show(context, summary)
            return summary
        return _deploy(context, request, person, proof, standing, ended)


def may_decline(context: AppContext, number: int, person: str) -> PromotionRequest | Refusal:
    """Returns the request if this person may decline it, which needs a reason. The person who asked withdraws it
    without one."""
    request = context.store.promotion_requests.get(number)
    if request is None or request.state != "asked":
        return _too_late(request)
    hidden = authorization.button_refusal(context, request.dataset, person, Refusal(NO_REQUEST))
    if hidden:
        return hidden
    if person != request.person:
        refusal = authorization.refusal(context, person, "reject", request.channel)
        if refusal:
            return refusal
    return request


def decline(context: AppContext, number: int, person: str, reason: str) -> PromotionRequest | Refusal:
    request = may_decline(context, number, person)
    if isinstance(request, Refusal):
        return request
    why = " ".join(reason.split())
    state: RequestState = "declined"
    if person == request.person:
        state = "withdrawn"
    with context.store.transaction():
        ended = _end(context, request, state, person, why)
        if ended is None:
            return _too_late(context.store.promotion_requests.get(number))
        decision = PromotionDecision(number, request.hash, person, "decline", why or None, context.clock())
        context.store.promotion_requests.decide(decision)
        subject = origin_of(context, request.what).subject
        context.audit(person, "decline", subject, f"request {number}: {why}")
        return ended


def withdraw(context: AppContext, number: int, person: str) -> PromotionRequest | Refusal:
    """Takes a request back. Only the person who made it can; others decline it, with a reason."""
    request = may_decline(context, number, person)
    if isinstance(request, Refusal):
        return request
    if person != request.person:
        return Refusal("Say why it is declined.")
    return decline(context, number, person, "")


def expire(context: AppContext) -> None:
    """Closes the requests that nobody decided in time."""
    for request in context.store.promotion_requests.open():
        as_request = _as_request(context, request)
        if is_expired(as_request, context.clock(), context.settings.policy):
            with context.store.transaction():
                _end(context, request, "expired", None)


def _approval_refusal(context: AppContext, request: PromotionRequest, caller: Caller) -> Refusal | None:
    """Returns why this person can't approve the request now. Asks Slack, so call it before a transaction."""
    if request.state != "asked":
        return _too_late(request)
    person = caller.person.id if caller.person else ""
    as_request = _as_request(context, request)
    refusal = authorization.refusal_for(caller, "approve", as_request)
    if refusal:
        return refusal
    refusal = authorization.button_refusal(context, request.dataset, person, Refusal(NO_REQUEST))
    if refusal:
        return refusal
    if is_expired(as_request, context.clock(), context.settings.policy):
        return Refusal("This request has expired. Ask again if it should still be used.")
    # The person who asked is who deploys it, so they need the right until the end.
    if authorization.refusal(context, request.person, "promote", request.channel):
        return Refusal(
            f"<@{request.person}> may not deploy anything any more, so this request can't be approved. Somebody who "
            "may has to ask again."
        )
    if caller.rules.unknown("approve") and _approvers(context, request.id):
        # Slack didn't return a group's members, so the earlier approvers may not be approvers any more.
        return Refusal(who_may(explain_not_named("approve", caller.rules)))
    return promotables.refusal(context, request.what, request.reason)


def _is_outdated(
    context: AppContext, request: PromotionRequest, standing: Promotion | None, proof: PromotionEvidence
) -> bool:
    """True if something else is in use than the card says, or the evidence has changed since."""
    current = context.store.promotions.current(request.dataset)
    # By their ids, as the promotion itself changes when programs get it.
    current_id = current.id if current else None
    standing_id = standing.id if standing else None
    if current_id != standing_id:
        return True
    return evidence_hash(request.what, standing_id, proof) != request.hash


def _deploy(
    context: AppContext,
    request: PromotionRequest,
    person: str,
    proof: PromotionEvidence,
    standing: Promotion | None,
    ended: PromotionEvidence | None,
) -> PromotionSummary:
    approved = _end(context, request, "approved", person)
    decided = DecidedPromotion(
        what=request.what,
        origin=origin_of(context, request.what),
        person=request.person,
        because=request.reason,
        proof=proof,
        instead_of=standing,
        ended=ended,
        request=approved,
    )
    result = record(context, decided)
    if isinstance(result, Refusal):
        # Everything that it refuses was checked in this transaction, which this ends.
        raise RuntimeError(f"deploying by request {request.id}: {result.text}")
    return result


def _end(
    context: AppContext, request: PromotionRequest, state: RequestState, person: str | None, reason: str = ""
) -> PromotionRequest | None:
    """Ends a request, shows how on its card, and tells the person who asked. Call it in a transaction."""
    ended = context.store.promotion_requests.end(request, state, now=context.clock())
    if ended is None:
        return None
    show_ended(context, ended, person, reason)
    if person != request.person:
        once = f"end of {request_card_name(request)}"
        message = views.outcome_notice(ended, person, reason)
        draft = Draft(
            "direct",
            request.channel,
            message.letter(),
            dedupe=once,
            person=request.person,
            topic="approvals",
        )
        context.send(draft)
    return ended


def _show(context: AppContext, summary: RequestSummary) -> None:
    request = summary.request
    name = request_card_name(request)
    card = views.request_card(summary)
    context.show(name, request.channel, card, concerns=request.person)


def _summary(
    context: AppContext, request: PromotionRequest, proof: PromotionEvidence, standing: Promotion | None
) -> RequestSummary:
    approved_by = _approvers(context, request.id)
    policy = context.settings.policy
    tier = policy.tier(0)
    as_request = _as_request(context, request)
    named = policy.named("approve")
    left = named.users - {as_request.requester, as_request.uploader, *approved_by}
    people = [f"<@{user}>" for user in sorted(left)]
    groups = [f"<!subteam^{group}>" for group in sorted(named.groups)]
    used = None
    if standing is not None:
        used = standing.what
    return RequestSummary(
        request,
        proof,
        find_objections(proof),
        used,
        quorum=tier.approvers if tier else 1,
        approved_by=approved_by,
        others=(*people, *groups),
        hours=policy.expires_s / 3600,
    )


def _approvers(context: AppContext, number: int) -> tuple[str, ...]:
    decisions: Sequence[PromotionDecision] = context.store.promotion_requests.decisions(number)
    return tuple(decision.person for decision in decisions if decision.decision == "approve")


def _as_request(context: AppContext, request: PromotionRequest) -> Request:
    """Returns what the rules decide about: as for a run, neither the person who asked nor the one who uploaded the data
    may approve. A promotion itself costs nothing."""
    uploader = origin_of(context, request.what).dataset.uploaded_by
    return Request(request.person, uploader, request.at)


def _too_late(request: PromotionRequest | None) -> Refusal:
    if request is None:
        return Refusal(NO_REQUEST)
    return Refusal(f"This request is already decided: {views.STATES[request.state]}.")
