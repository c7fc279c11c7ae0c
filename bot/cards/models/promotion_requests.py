"""What speaks against deploying something, and the card on which other people approve or decline it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from bot.cards.common.blocks import Block, Message, button, code, confirm, escape
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import (
    bar_share,
    fact_name,
    promotable_name,
    promotable_text,
    promotable_title,
    promote_command,
    quality,
    read_rows_sentence,
    score_text,
)
from bot.cards.common.forms import modal, required_text_input
from bot.cards.common.general import text_message
from bot.cards.common.judge_agreement import untrusted_text
from bot.cards.common.words import about_rows, capitalize, listed, pluralize, shorten
from bot.cards.models.promotions import gain_text, live_text, other_judge, proof_in_numbers
from bot.rules.models.promotion import (
    ModelComparison,
    Objection,
    PromotionEvidence,
    alias_for,
    exceeds_holdout,
)
from storage.promotions import PromotionRequest, RequestState
from storage.records import Promotable
from trainers.dataset.splits import HOLDOUT_MOST
from trainers.evaluation.results import MeasuredCandidate

APPROVE = "approve_promotion"
DECLINE = "decline_promotion"
DECLINE_FORM = "decline_promotion_form"
SHOWN_LABELS = 5
SHOWN_PEOPLE = 5
OUTDATED = "Since it was asked, something else was deployed or the evidence has changed."
STATES: Mapping[RequestState, str] = {
    "asked": "waiting",
    "approved": "approved",
    "declined": "declined",
    "withdrawn": "withdrawn",
    "expired": "expired",
    "outdated": "out of date",
}


@dataclass(frozen=True)
class RequestSummary:
    """A request with what its card shows. `used` is what it would replace, None if nothing is in use. It takes `quorum`
    approvers; `approved_by` are those who have approved, and `others` mentions the people who still may, empty if
    everybody may. It expires after `hours`."""

    request: PromotionRequest
    proof: PromotionEvidence
    objections: Sequence[Objection]
    used: Promotable | None
    quorum: int
    approved_by: tuple[str, ...] = ()
    others: Sequence[str] = ()
    hours: float = 24


def promotion_refusal(
    what: Promotable, dataset: str, proof: PromotionEvidence, doubts: Sequence[Objection]
) -> str:
    """The objections, a line for each, and how to deploy it anyway."""
    against = _listed(proof, doubts)
    command = code(f"{promote_command(dataset, what)} because=…")
    return (
        f"{capitalize(promotable_text(what))} was not deployed:\n{against}\nTo deploy it anyway, say why: {command}. "
        "Another person has to approve that; the reason is kept in the audit log and shown to the team."
    )


def fallback_refusal(
    what: Promotable, dataset: str, proof: PromotionEvidence, doubts: Sequence[Objection]
) -> str:
    """The objections to letting it stand in for what is in use, a line for each."""
    against = _listed(proof, doubts)
    return (
        f"{capitalize(promotable_text(what))} can't stand in for what is in use for {code(dataset)}, because nobody "
        f"looks at it again when it begins to answer:\n{against}"
    )


def canary_refusal(
    what: Promotable, dataset: str, proof: PromotionEvidence, doubts: Sequence[Objection]
) -> str:
    """The objections to letting it answer programs, a line for each."""
    against = _listed(proof, doubts)
    return (
        f"{capitalize(promotable_text(what))} can't answer programs of {code(dataset)}, not even some:\n{against}\n"
        "Without `canary=` it is tried all the same: sampled calls are put to it, and no program sees its answers."
    )


def _listed(proof: PromotionEvidence, doubts: Sequence[Objection]) -> str:
    """The objections, a line for each."""
    return "\n".join(f"• {objection_text(proof, doubt)}" for doubt in doubts)


def request_card(summary: RequestSummary) -> Message:
    """Waits for other people: what would be deployed, what speaks against it, who asks and why."""
    request = summary.request
    asks = f"<@{request.person}> asks to deploy it against the evidence"
    if summary.used:
        asks += f", in place of {promotable_text(summary.used)}"
    parts = Parts()
    parts.text(f"{asks}. *Why*: {escape(request.reason)}")
    parts.facts(_facts(summary.proof))
    parts.bullets(objection_text(summary.proof, doubt) for doubt in summary.objections)
    parts.text(_waits_for(summary))
    parts.buttons(
        button("Approve", APPROVE, str(request.id), style="danger", confirm=_sure(summary)),
        button("Decline", DECLINE, str(request.id)),
    )
    title = f"{_warning(summary)}: deploy {promotable_name(request.what)} for {request.dataset}?"
    return parts.titled(title, notice=f"{asks}.")


def request_sent(summary: RequestSummary) -> str:
    """For the person who asked."""
    what = promotable_text(summary.request.what)
    missing = pluralize(summary.quorum, "other person has", "other people have")
    return f"Your request is in <#{summary.request.channel}>: {missing} to approve that {what} is deployed."


def request_detail(summary: RequestSummary) -> str:
    """For the audit log: what is asked for, instead of what, and on which evidence."""
    request = summary.request
    detail = f"{promotable_name(request.what)} for {request.dataset}"
    if summary.used:
        detail += f" instead of {promotable_name(summary.used)}"
    return f"{detail}: {proof_in_numbers(summary.proof)}; {request.hash}"


def outcome_notice(request: PromotionRequest, person: str | None, reason: str) -> Message:
    """For the person who asked, since an edit of the card notifies nobody."""
    what = promotable_text(request.what)
    sentence = f"You asked to deploy {what} for {code(request.dataset)}."
    return text_message(f"{sentence} {outcome_text(request, person, reason)}")


def ended_card(request: PromotionRequest, outcome: str) -> Message:
    """After the decision. `outcome` is a sentence in mrkdwn."""
    parts = Parts()
    parts.text(f"{outcome} <@{request.person}> had asked: {escape(request.reason)}")
    title = f"{promotable_title(request.what)} for {request.dataset}: {STATES[request.state]}"
    return parts.titled(title, notice=outcome)


def outcome_text(request: PromotionRequest, person: str | None, reason: str | None = None) -> str:
    """How the request ended. `person` decided it, None if nobody did."""
    match request.state:
        case "asked":
            return "It waits for a decision."
        case "approved":
            return f"<@{person}> approved it, so it was deployed."
        case "declined":
            return f"<@{person}> declined it: {escape(reason or '').rstrip('.')}."
        case "withdrawn":
            return f"<@{person}> withdrew it."
        case "expired":
            return "Nobody decided in time, so nothing was deployed."
        case "outdated":
            return f"{OUTDATED} Nothing was deployed by it."
    assert_never(request.state)


def decline_modal(request: PromotionRequest) -> Block:
    reason = required_text_input("reason", "What speaks against it?", most=500)
    return modal("Decline", DECLINE_FORM, [reason], submit="Decline", private=str(request.id))


def _warning(summary: RequestSummary) -> str:
    """What weighs most against it, for the title."""
    if "below_bar" in summary.objections:
        return "Below the bar"
    if "unmeasured" in summary.objections:
        return "Not measured"
    if "bar_undecided" in summary.objections:
        return "Not shown to meet the bar"
    return "Against the evidence"


def _facts(proof: PromotionEvidence) -> list[tuple[str, str]]:
    candidate = proof.candidate
    if candidate is None:
        return [("Score", "*not measured*")]
    score = f"{quality(candidate)} on {pluralize(candidate.n, 'held-out row')}"
    facts = [(fact_name(candidate), score), ("The bar", f"{bar_share(proof.bar)}, {_standing(candidate)}")]
    if proof.live is not None:
        facts.append(("On live calls", live_text(proof.live)))
    return facts


def _standing(candidate: MeasuredCandidate) -> str:
    match candidate.standing:
        case "meets":
            return "which it meets"
        case "misses":
            return "*which it misses*"
        case "undecided":
            return "*which it is not shown to meet*"


def _waits_for(summary: RequestSummary) -> str:
    """Who can decide, and until when."""
    missing = summary.quorum - len(summary.approved_by)
    approvers = pluralize(missing, "approver")
    if summary.others:
        approvers += f" ({listed(summary.others, SHOWN_PEOPLE)})"
    text = f"*Waits for* {approvers} other than the person who asked or uploaded the data."
    if summary.approved_by:
        text = f"Approved by {' and '.join(f'<@{person}>' for person in summary.approved_by)}. {text}"
    return f"{text} It expires after {pluralize(round(summary.hours), 'hour')}."


def _sure(summary: RequestSummary) -> Block:
    name = shorten(promotable_name(summary.request.what), 60)
    return confirm(
        "Deploy it against the evidence?",
        f"Programs that call {alias_for(summary.request.dataset)} get {name}. Your approval is kept in the audit log.",
        "Approve",
        "Not yet",
    )


def objection_text(proof: PromotionEvidence, doubt: Objection) -> str:
    match doubt:
        case "gone":
            return "Its provider no longer has it."
        case "unmeasured":
            return "It has not been measured on held-out rows."
        case "no_go":
            return f"The verdict on its run was against it: {escape(proof.no_go or '').rstrip('.')}."
        case "judge":
            if proof.judge is None:
                return ""
            return f"{untrusted_text(proof.judge)}."
        case "other_judge":
            return f"{other_judge(proof)} Start its training again to have it judged by the new one."
        case "nothing_beside":
            return "Nothing else answered the same held-out rows, so there is nothing to compare it with."
        case "not_better":
            return f"{_not_better(proof.best, proof.limits.margin)}{_read_rows(proof)}"
        case "other_rows":
            return (
                f"{capitalize(escape(shorten(proof.used or '', 60)))}, which is in use, answered other rows or was "
                "judged by another model, so they can't be compared."
            )
        case "not_better_than_used":
            return f"{_not_better(proof.against_used, proof.limits.margin)}{_read_rows(proof)}"
        case "sealed":
            return "*The sealed rows were not opened*, which would decide whether it is better."
        case "below_bar":
            return f"*Below the bar of {bar_share(proof.bar)}*{_score_in_brackets(proof)}."
        case "bar_undecided":
            return f"*Not shown to meet the bar of {bar_share(proof.bar)}*{_score_in_brackets(proof)}."
        case "below_floor":
            labels = []
            for low in proof.low[:SHOWN_LABELS]:
                labels.append(f"{escape(shorten(low.label))} {low.right:,} of {low.rows:,}")
            floor = f"{100 * (proof.limits.floor or 0):g}%"
            return f"Labels clearly below the minimum of {floor}: {', '.join(labels)}."


def _score_in_brackets(proof: PromotionEvidence) -> str:
    if proof.candidate is None:
        return ""
    return f": {score_text(proof.candidate)}{_read_rows(proof).rstrip('.')}"


def _read_rows(proof: PromotionEvidence) -> str:
    if proof.candidate is None or not proof.candidate.read:
        return ""
    return f" {read_rows_sentence(proof.candidate)}"


def _not_better(comparison: ModelComparison | None, margin: float) -> str:
    if comparison is None:
        return ""
    what = "It is worse than" if comparison.is_worse else "It is not clearly better than"
    text = f"{what} {escape(shorten(comparison.other, 60))}: {gain_text(comparison)}."
    # Only a cheaper model may win without being better, and only if a margin is allowed.
    if not comparison.is_cheaper or not margin:
        return text

    is_one_point = margin == 0.01
    needed = comparison.rows_for_margin(margin)
    if needed is None or comparison.is_worse:
        allowed = "1 point that is" if is_one_point else f"{100 * margin:g} points that are"
        return f"{text} It costs less, but may be worse by more than the {allowed} allowed."

    most = "1 point" if is_one_point else f"{100 * margin:g} points"
    takes = about_rows(needed)
    if exceeds_holdout(needed):
        takes += f", more than the {HOLDOUT_MOST:,} that a dataset holds out"
    return (
        f"{text} It costs less, but {pluralize(comparison.rows, 'row')} can't show that it is at most {most} "
        f"worse: even for an equally good model that takes {takes}."
    )
