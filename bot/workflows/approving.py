"""The team's decision about a plan: yes, no, or nothing until it expires; and the reminder before that."""

from __future__ import annotations

import logging
from dataclasses import replace

from bot.decisions.approval import Request, is_expired, is_no_reason, reminder_due
from bot.decisions.permission import Asking, Rules, has_quorum, who_may
from bot.decisions.planning import Plan, plan_from_json, plan_hash
from bot.results import Refusal
from bot.views import plans as views
from bot.views import replacing as replacing_views
from bot.views.blocks import Message, escape
from bot.views.runs import SAID
from bot.views.words import counted
from bot.workflows import (
    datasets,
    destination,
    eligibility,
    estimates,
    leaving,
    money,
    permits,
    plans,
    replacing,
    telling,
)
from bot.workflows.datasets import Checked
from bot.workflows.desk import Desk
from storage.records import Approval, Run
from trainers.errors import TrainerError

LOOK_FOR_EXPIRY_S = 60.0

log = logging.getLogger(__name__)


def approve(desk: Desk, hash_in_button: str, person: str, reason: str = "") -> Run | Refusal:
    """Record a person's yes; at quorum reserve the money and hand the run over, all in one transaction."""
    asked = _asking(desk, hash_in_button, person)
    with desk.store.transaction():
        waiting = _waiting(desk, hash_in_button, asked)
        if isinstance(waiting, Refusal):
            return waiting
        run, plan = waiting
        why = " ".join(reason.split())
        nothing_said = None if plan.is_advised else is_no_reason(why)
        if nothing_said:
            return Refusal(nothing_said.reason)
        return _record_yes(desk, run, plan, person, asked.rules, why)


def to_be_explained(desk: Desk, hash_in_button: str, person: str) -> tuple[Run, Plan] | Refusal | None:
    """The plan that this person may approve by saying why; None where its verdict is go, so that a click is enough."""
    asked = _asking(desk, hash_in_button, person)
    waiting = _waiting(desk, hash_in_button, asked)
    if isinstance(waiting, Refusal):
        return waiting
    run, plan = waiting
    if plan.is_advised:
        return None
    return _not_counted(desk, run, plan, person, asked.rules) or waiting


def _asking(desk: Desk, hash_in_button: str, person: str) -> Asking:
    """Asks Slack, so it stands before a transaction."""
    known = desk.store.runs.by_plan(hash_in_button)
    return permits.asking(desk, person, "approve", known.channel if known else None)


def _waiting(desk: Desk, hash_in_button: str, asked: Asking) -> tuple[Run, Plan] | Refusal:
    """The plan, where it may be approved by who asks, as things are now."""
    now, run = desk.clock(), desk.store.runs.by_plan(hash_in_button)
    if run is None or run.state != "awaiting_approval":
        return Refusal(_too_late(desk, run))
    plan = plan_from_json(run.plan)
    request = _request(run, plan)
    refused = permits.refused(asked, "approve", request)
    if refused:
        return refused
    if is_expired(request, now, desk.settings.policy):
        return Refusal("This plan has expired. `/finetune start` makes a new one.")
    if plan_hash(plan) != hash_in_button:
        return Refusal("This plan was changed after it was posted, so it can't be approved.")
    forbidden = leaving.still(desk, plan)
    if forbidden:
        return Refusal(forbidden)
    other = destination.changed(desk, plan)
    if other:
        return Refusal(f"{other} `/finetune cancel {run.id}` and `/finetune start` make a new plan.")
    return run, plan


def may_reject(desk: Desk, hash_in_button: str, person: str) -> Refusal | None:
    run = desk.store.runs.by_plan(hash_in_button)
    if run is None or run.state != "awaiting_approval":
        return Refusal(_too_late(desk, run))
    return permits.may(desk, person, "reject", request=_request(run, plan_from_json(run.plan)))


def reject(desk: Desk, hash_in_button: str, person: str, reason: str) -> Run | Refusal:
    refusal = may_reject(desk, hash_in_button, person)
    run = desk.store.runs.by_plan(hash_in_button)
    if refusal or run is None:
        return refusal or Refusal(_too_late(desk, run))
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.runs.move(run, "rejected", now=now, error=reason)
        if moved is None:
            return Refusal(_too_late(desk, desk.store.runs.get(run.id)))
        desk.store.runs.decide(moved, person, "reject", reason=reason, now=now)
        desk.store.audit.add(at=now, who=person, action="reject", subject=f"run {run.id}", detail=reason)
        show_decision(desk, moved, views.rejected_by(person, reason))
    return moved


def expire_or_wait(desk: Desk, run: Run) -> None:
    """A plan that nobody decided on is over after a day; a cancelled or impossible one at once."""
    now = desk.clock()
    plan = plan_from_json(run.plan)
    if run.cancel_asked_by:
        _close(desk, run, "cancelled", f"Withdrawn by <@{run.cancel_asked_by}>.")
    elif is_expired(_request(run, plan), now, desk.settings.policy):
        hours = counted(round(desk.settings.policy.expires_s / 3600), "hour")
        _close(desk, run, "expired", f"Nobody decided within {hours}, so the plan has expired.")
    elif run.tries == 0 and (refused := _refused_by_trainer(desk, run)):
        _close(desk, run, "cancelled", f"Withdrawn before anybody spent time on it: {escape(refused)}")
    elif run.tries == 0:
        desk.store.runs.move(run, run.state, now=now, tries=1)
    elif _is_enough_by_now(desk, run, plan):
        _carry_on(desk, run, plan)
    else:
        _remind(desk, run, plan)
        if run.tries > 1 or _has_plots(desk, run, plan):
            desk.store.runs.move(run, run.state, now=now, tries=2, next_at=now + LOOK_FOR_EXPIRY_S)


def _is_enough_by_now(desk: Desk, run: Run, plan: Plan) -> bool:
    """The rules may ask for fewer approvers than when the last one approved, and nobody can approve twice."""
    approvers = [one.person for one in _approvals(desk, run)]
    return bool(approvers) and has_quorum(approvers, permits.rules(desk, "approve"), plan.maximum_micros)


def _carry_on(desk: Desk, run: Run, plan: Plan) -> None:
    """As with the last approver's click. Where the money or the data's rules say no, it waits until it expires."""
    with desk.store.transaction():
        refused = leaving.still(desk, plan)
        if not refused and not money.refusal(desk, run.channel, run.requester, plan.maximum_micros):
            _hand_over(desk, run, plan)


def _request(run: Run, plan: Plan) -> Request:
    """Its time to be approved begins anew where its approvals were voided."""
    return replace(plans.request_of(plan), asked_at=run.state_since)


def _remind(desk: Desk, run: Run, plan: Plan) -> None:
    """In the channel, some hours before it expires; each reminder once, whatever is restarted meanwhile."""
    request, policy = _request(run, plan), desk.settings.policy
    due = reminder_due(request, desk.clock(), policy)
    if due is None or desk.store.outbox.was_put(f"reminder {run.id} {due:.0f}"):
        return
    named, said = policy.named("approve"), {one.person for one in _approvals(desk, run)}
    whom = [f"<@{one}>" for one in sorted(named.users - {run.requester, plan.uploaded_by} - said)]
    whom += [f"<!subteam^{one}>" for one in sorted(named.groups)]
    left = request.asked_at + policy.expires_s - desk.clock()
    message = views.reminder(run, plan, plans.needed(desk, plan) - len(said), left, whom)
    desk.say(run.channel, message.letter(), dedupe=f"reminder {run.id} {due:.0f}")


def _has_plots(desk: Desk, run: Run, plan: Plan) -> bool:
    """What the estimate looks ahead to, in the card's thread; False while a worker draws it."""
    dataset = desk.store.datasets.get(run.dataset_id)
    checked = Checked(dataset, datasets.report_of(dataset))
    made = estimates.of_question(desk, checked, estimates.question_of(plan))
    outlook = None if isinstance(made, Refusal) else made.outlook
    plots = estimates.drawn(desk, f"plan {run.id}", outlook, desk.settings.data / "plots" / f"plan-{run.id}")
    if plots is None:
        return False
    estimates.put_plots(desk, run.channel, f"plan {run.id}", plots, plan.dataset)
    return True


def _refused_by_trainer(desk: Desk, run: Run) -> str | None:
    """A no that can be had for free, asked once. A trainer that is down now may be up when it is needed."""
    row, trainer = desk.settings.provider(run.provider), desk.trainers.get(run.provider)
    if trainer is None:  # its key has gone since: said once the plan is approved
        return None
    try:
        refused = trainer.probe()
    except TrainerError as trouble:
        log.warning("run %s: %s", run.id, trouble)
        return None
    if refused or row is None:
        return str(refused) if refused else None
    return eligibility.closed_to_us(desk, row)


def _record_yes(desk: Desk, run: Run, plan: Plan, person: str, rules: Rules, why: str) -> Run | Refusal:
    now = desk.clock()
    decided = [one.person for one in _approvals(desk, run)]
    is_last = has_quorum([*decided, person], rules, plan.maximum_micros)
    refusal = _not_counted(desk, run, plan, person, rules)
    if refusal:
        return refusal
    desk.store.runs.decide(run, person, "approve", reason=why or None, now=now)
    detail = f"{run.plan_hash} {why}".strip()
    desk.store.audit.add(at=now, who=person, action="approve", subject=f"run {run.id}", detail=detail)
    if not is_last:
        telling.decided(desk, run, so_far(desk, run, plan))
        return run
    return _hand_over(desk, run, plan) or Refusal(_too_late(desk, desk.store.runs.get(run.id)))


def _not_counted(desk: Desk, run: Run, plan: Plan, person: str, rules: Rules) -> Refusal | None:
    """Why this person's yes would not count, or not start it."""
    decided = [one.person for one in _approvals(desk, run)]
    is_last = has_quorum([*decided, person], rules, plan.maximum_micros)
    if not is_last and len({*decided, person}) >= plans.needed(desk, plan) and rules.unknown("approve"):
        return Refusal(who_may("approve", rules))  # whether the others still may is not known
    most = plan.maximum_micros
    refusal = money.refusal(desk, run.channel, run.requester, most) if is_last else None
    if refusal:
        return Refusal(refusal)
    if person in decided:
        return Refusal("You have approved this plan already; it waits for somebody else.")
    if person in [one.person for one in desk.store.runs.decisions(run.id)]:
        return Refusal(
            "Your approval of this plan was voided, for good: somebody else approves it, or "
            f"`/finetune cancel {run.id}` and `/finetune start` make a new plan."
        )
    return None


def _hand_over(desk: Desk, run: Run, plan: Plan) -> Run | None:
    """Approved, and its money reserved. None where it has moved on."""
    now = desk.clock()
    moved = desk.store.runs.move(run, "approved", now=now, reserved_micros=plan.maximum_micros)
    if moved:
        desk.store.runs.book(moved, "reserve", plan.maximum_micros, month=telling.month(now), now=now)
        show_decision(desk, moved, views.approved_by(_approvals(desk, run)))
        telling.progress(desk, moved)
    return moved


def so_far(desk: Desk, run: Run, plan: Plan) -> Message:
    """The plan's card with the approvals that count, asking for those that are missing."""
    card = views.partly_approved(
        run,
        plan,
        money.tightest(desk, run.channel, run.requester),
        _approvals(desk, run),
        plans.needed(desk, plan),
        desk.settings.policy.expires_s / 3600,
    )
    return replacing.noted(desk, run, card)


def show_decision(desk: Desk, run: Run, said: str) -> None:
    plan = plan_from_json(run.plan)
    telling.decided(
        desk, run, views.decided_card(run, plan, money.tightest(desk, run.channel, run.requester), said)
    )
    text = f"Your run {run.id} ({escape(views.what(plan))}) {SAID[run.state]}. {said}"
    telling.to_requester(desk, run, text, once=f"decision {run.id}")


def _close(desk: Desk, run: Run, state: telling.ClosedState, said: str) -> None:
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.runs.move(run, state, now=now, error=said)
        if moved:
            desk.store.audit.add(at=now, who="finetune", action=state, subject=f"run {run.id}")
            show_decision(desk, moved, said)


def _approvals(desk: Desk, run: Run) -> list[Approval]:
    return desk.store.runs.standing(run.id)


def _too_late(desk: Desk, run: Run | None) -> str:
    if run is None:
        return "There is no such plan any more. `/finetune start` makes a new one."
    by = desk.store.replacements.by(run.id)
    if by is not None:
        return replacing_views.too_late(run.id, by)
    return f"Run {run.id} has moved on: it {SAID[run.state]}."
