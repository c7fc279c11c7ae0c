"""The team's decision about a plan: approvals, a rejection, or expiry. Also checks that the approvals still count
before a job is created."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from bot.cards.common.blocks import escape
from bot.cards.common.permissions import too_few_words, who_may
from bot.cards.common.words import pluralize
from bot.cards.decisions import plan_refusals
from bot.cards.decisions import plans as plan_views
from bot.cards.decisions.plans import Pending
from bot.cards.training.runs import STATE_TEXTS
from bot.context import AppContext
from bot.rules import units
from bot.rules.forecast import Outlook
from bot.rules.permissions import (
    BUILT_IN,
    Caller,
    Request,
    Rules,
    explain_not_named,
    has_enough_words,
    has_quorum,
    is_expired,
    reminder_due,
)
from bot.rules.plans import Plan, plan_from_json, plan_hash
from bot.services.common import authorization, budgets
from bot.services.datasets import data_policy, datasets
from bot.services.datasets.data_policy import Forbidden, Unsure
from bot.services.datasets.datasets import CheckedDataset
from bot.services.decisions import estimate_requests, plan_requests, plans, vendor_estimates
from bot.services.evidence import notifications
from bot.values.runs import Progress, Refusal
from storage.records import Run
from trainers.errors import TrainerError
from trainers.money import usd_micros

LOOK_FOR_EXPIRY_S = 60.0

log = logging.getLogger(__name__)


def approve(context: AppContext, hash_in_button: str, person: str, reason: str = "") -> Run | Refusal:
    """Records a person's approval. The last one needed also reserves the money and moves the run on, in the same
    transaction."""
    caller = _look_up_approver(context, hash_in_button, person)
    # The check and the reservation in one transaction: two last approvals can't both have the money.
    with context.store.transaction():
        waiting = _find_approvable(context, hash_in_button, caller)
        if isinstance(waiting, Refusal):
            return waiting
        run, plan = waiting
        why = " ".join(reason.split())
        if not plan.is_advised and not has_enough_words(why):
            says = too_few_words("it should be trained all the same", "quality counts here, not cost")
            return Refusal(f"The plan's verdict is not go. {says}")
        refusal = _uncounted_refusal(context, run, plan, person, caller.rules)
        if refusal:
            return refusal

        approvers = [*_approvers_of(context, run), person]
        is_last = has_quorum(approvers, caller.rules, plan.maximum_micros)
        runs = context.store.runs
        runs.decide(run, person, "approve", reason=why or None, now=context.clock())
        detail = f"{run.plan_hash} {why}".strip()
        context.audit(person, "approve", f"run {run.id}", detail)
        if not is_last:
            plan_requests.show_request(context, run, plan)
            return run
        approved = _hand_over(context, run, plan)
        if approved is None:
            return Refusal(_too_late_text(context, runs.get(run.id)))
        return approved


def needs_reason(
    context: AppContext, hash_in_button: str, person: str
) -> tuple[Run, Plan, Pending] | Refusal | None:
    """Returns the run, its plan and what it still needs if this person may approve it but has to give a reason, and
    None if the verdict is go, so that a click is enough."""
    caller = _look_up_approver(context, hash_in_button, person)
    waiting = _find_approvable(context, hash_in_button, caller)
    if isinstance(waiting, Refusal):
        return waiting
    run, plan = waiting
    if plan.is_advised:
        return None
    refusal = _uncounted_refusal(context, run, plan, person, caller.rules)
    if refusal:
        return refusal
    pending = plan_requests.pending(context, run, plan)
    return run, plan, pending


def _look_up_approver(context: AppContext, hash_in_button: str, person: str) -> Caller:
    """Looks the person up in Slack. Call this before a transaction."""
    run = context.store.runs.by_plan(hash_in_button)
    channel = None
    if run:
        channel = run.channel
    return authorization.look_up(context, person, "approve", channel)


def _find_approvable(context: AppContext, hash_in_button: str, caller: Caller) -> tuple[Run, Plan] | Refusal:
    """Returns the run and plan if the caller may approve it now."""
    run = context.store.runs.by_plan(hash_in_button)
    if run is None or run.state != "awaiting_approval":
        return Refusal(_too_late_text(context, run))
    plan = plan_from_json(run.plan)
    request = _approval_request(run, plan)
    refusal = authorization.refusal_for(caller, "approve", request)
    if refusal:
        return refusal
    if is_expired(request, context.clock(), context.settings.policy):
        return Refusal("This plan has expired. `/finetune start` makes a new one.")
    # The stored plan may have been edited; an approval is for what the card showed.
    if plan_hash(plan) != hash_in_button:
        return Refusal(
            "This plan was changed after it was posted, so it can't be approved. `/finetune start` makes a new one."
        )
    forbidden = data_policy.plan_refusal(context, plan)
    if forbidden:
        return Refusal(forbidden)
    # Checked at each click, although it is checked again before the job: nobody should approve in vain.
    change = plans.destination_change(context, plan) or plans.listed_price_rise(context, plan)
    if change:
        return Refusal(
            f"{change} So it can't be approved: `/finetune cancel {run.id}`, then `/finetune start` makes a new plan."
        )
    return run, plan


def _approvers_of(context: AppContext, run: Run) -> tuple[str, ...]:
    """Returns the people whose approvals of the run's plan count, as far as nobody is looked up again."""
    approvals = context.store.runs.valid_approvals(run.id)
    return tuple(approval.person for approval in approvals)


def may_reject(context: AppContext, hash_in_button: str, person: str) -> Refusal | None:
    run = context.store.runs.by_plan(hash_in_button)
    if run is None or run.state != "awaiting_approval":
        return Refusal(_too_late_text(context, run))
    plan = plan_from_json(run.plan)
    request = _approval_request(run, plan)
    return authorization.refusal(context, person, "reject", request=request)


def reject(context: AppContext, hash_in_button: str, person: str, reason: str) -> Run | Refusal:
    refusal = may_reject(context, hash_in_button, person)
    if refusal:
        return refusal
    runs = context.store.runs
    run = runs.by_plan(hash_in_button)
    if run is None:
        return Refusal(_too_late_text(context, run))
    now = context.clock()
    with context.store.transaction():
        moved = runs.move(run, "rejected", now=now, error=reason)
        if moved is None:
            return Refusal(_too_late_text(context, runs.get(run.id)))
        runs.decide(moved, person, "reject", reason=reason, now=now)
        context.audit(person, "reject", f"run {run.id}", reason)
        sentence = plan_views.rejected_by(person, reason)
        _show_decision(context, moved, sentence)
        plan = plan_from_json(moved.plan)
        plan_requests.show_beside(context, moved, plan)
    return moved


def expire_or_wait(context: AppContext, run: Run) -> None:
    """Expires a plan that was not decided on in time, and closes a withdrawn or impossible one at once."""
    plan = plan_from_json(run.plan)
    policy = context.settings.policy
    # `tries` is 0 until the trainer and the vendor were asked, 1 until the plots are posted, then 2.
    if run.cancel_asked_by:
        _close(context, run, "cancelled", f"Withdrawn by <@{run.cancel_asked_by}>.")
    elif is_expired(_approval_request(run, plan), context.clock(), policy):
        hours = pluralize(round(policy.expires_s / 3600), "hour")
        _close(context, run, "expired", f"It was not approved within {hours}.")
    elif run.tries == 0:
        _ask_trainer_and_vendor(context, run, plan)
    elif _has_enough_approvals(context, run, plan):
        _hand_over_if_allowed(context, run, plan)
    else:
        _wait(context, run, plan)


def _hand_over_if_allowed(context: AppContext, run: Run, plan: Plan) -> None:
    """Does what the last approver's click does. If the budget or the data rules refuse it, the plan waits until it
    expires."""
    with context.store.transaction():
        # In one transaction with the reservation, so that no other run takes the money in between.
        forbidden = data_policy.plan_refusal(context, plan)
        over_budget = _budget_refusal(context, run, plan)
        if not forbidden and not over_budget:
            _hand_over(context, run, plan)


def _wait(context: AppContext, run: Run, plan: Plan) -> None:
    """Waits for approvals, with reminders. The card shows the budget as it is then."""
    now = context.clock()
    run = _remind(context, run, plan)
    has_plots = run.tries > 1
    if not has_plots and not _put_plots(context, run, plan):
        return
    next_at = now + LOOK_FOR_EXPIRY_S
    with context.store.transaction():
        moved = context.store.runs.move(run, run.state, now=now, tries=2, next_at=next_at)
        if moved:
            plan_requests.show_request(context, moved, plan)


def _ask_trainer_and_vendor(context: AppContext, run: Run, plan: Plan) -> None:
    """Adds the vendor's own estimate to the card. A plan that the trainer or the vendor would refuse is withdrawn."""
    refusal = _trainer_refusal(context, run, plan)
    if refusal:
        _withdraw(context, run, refusal)
        return
    now = context.clock()
    runs = context.store.runs
    answer = vendor_estimates.ask(context, run, plan)
    if isinstance(answer, str):
        _withdraw(context, run, answer)
    elif answer is None:
        next_at = now + vendor_estimates.AGAIN_S
        runs.move(run, run.state, now=now, next_at=next_at)
    elif answer.micros is None and not answer.why:
        # This vendor gives no estimates, so the card would stay the same.
        runs.move(run, run.state, now=now, tries=1)
    else:
        progress = replace(Progress.from_json(run.progress), vendor=answer)
        with context.store.transaction():
            moved = runs.move(run, run.state, now=now, tries=1, progress=progress.to_json())
            if moved:
                plan_requests.show_request(context, moved, plan)


def _withdraw(context: AppContext, run: Run, why: str) -> None:
    """Closes a plan that would be refused, before anybody has to decide about it."""
    _close(context, run, "cancelled", f"Withdrawn before anybody spent time on it: {escape(why)}")


def _has_enough_approvals(context: AppContext, run: Run, plan: Plan) -> bool:
    """True if the approvals suffice by now: the rules may ask for fewer people than at the last approval, and nobody
    can approve again."""
    approvers = _approvers_of(context, run)
    if not approvers:
        return False
    rules = authorization.current_rules(context, "approve")
    return has_quorum(approvers, rules, plan.maximum_micros)


def _approval_request(run: Run, plan: Plan) -> Request:
    """Returns the request that the rules decide about. Its time to approve restarts when approvals are voided."""
    request = plan_requests.approval_request(plan)
    return replace(request, asked_at=run.state_since)


def _remind(context: AppContext, run: Run, plan: Plan) -> Run:
    """Reminds the approvers in the channel some hours before the plan expires, once for each time in the policy. Active
    people are named only. Returns the run as it is then."""
    now = context.clock()
    request = _approval_request(run, plan)
    policy = context.settings.policy
    due = reminder_due(request, now, policy)
    if due is None:
        return run
    # A plan whose approvals were voided waits again, with reminders of its own.
    once = f"reminder {run.id} {run.state_since:.0f} {due:.0f}"
    if context.store.outbox.was_put(once):
        return run
    away = plan_requests.find_away(context, plan)
    with context.store.transaction():
        run = plan_requests.note_away(context, run, away)
    waiting = plan_requests.pending(context, run, plan)
    left = request.asked_at + policy.expires_s - now
    name = notifications.link_to(context, run)
    message = plan_views.reminder(name, plan, waiting, left)
    context.post(run.channel, message.letter(), topic="approvals", dedupe=once)
    return run


def _put_plots(context: AppContext, run: Run, plan: Plan) -> bool:
    """Posts the estimate's plots in the card's thread. Returns False while a worker still draws them."""
    card = f"plan {run.id}"
    folder = context.settings.data / "plots" / f"plan-{run.id}"
    outlook = _outlook_of(context, run, plan)
    plots = estimate_requests.draw_outlook(context, card, outlook, folder)
    if plots is None:
        return False
    estimate_requests.put_plots(context, run.channel, card, plots, plan.dataset, outlook)
    return True


def _outlook_of(context: AppContext, run: Run, plan: Plan) -> Outlook | None:
    """Returns the outlook of the plan's estimate, None if its dataset was deleted or it can't be estimated any more."""
    dataset = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        return None
    checked = CheckedDataset(dataset, report)
    question = estimate_requests.question_of(plan)
    result = estimate_requests.estimate_for(context, checked, question, start=plan.starts_from)
    if isinstance(result, Refusal):
        return None
    return result.outlook


def _trainer_refusal(context: AppContext, run: Run, plan: Plan) -> str | None:
    """Returns why the trainer would refuse the run, as far as can be checked for free. A trainer that is down now may
    be up again when it is needed."""
    trainer = context.trainers.get(run.provider)
    if trainer is None:  # its key has been removed: reported once the plan is approved
        return None
    try:
        refusal: object = trainer.probe()
        if refusal is None and trainer.provider.can("limits"):
            hyperparameters = dict(plan.hyperparameters)
            report = datasets.report_of(context.store.datasets.get(run.dataset_id))
            has_tools = report is not None and report.n_with_tools > 0
            refusal = trainer.describe_exceeded_limit(plan.base_model, hyperparameters, has_tools=has_tools)
    except TrainerError as trouble:
        log.warning("run %s: %s", run.id, trouble)
        return None
    if refusal:
        return str(refusal)
    row = context.settings.provider(run.provider)
    if row is None:
        return None
    return plans.closed_to_us_text(context, row)


def _uncounted_refusal(
    context: AppContext, run: Run, plan: Plan, person: str, rules: Rules
) -> Refusal | None:
    """Returns why this person's approval would not count or could not start the run."""
    approvers = _approvers_of(context, run)
    with_this_person = {*approvers, person}
    # Only the last approval reserves money, so earlier ones may be given while there is none left.
    if has_quorum(with_this_person, rules, plan.maximum_micros):
        over_budget = _budget_refusal(context, run, plan)
        if over_budget:
            return Refusal(over_budget)
    else:
        are_enough = len(with_this_person) >= plan_requests.approvals_needed(context, plan)
        if are_enough and rules.unknown("approve"):
            # Slack didn't return a group's members, so the earlier approvers may not be approvers any more.
            return Refusal(who_may(explain_not_named("approve", rules)))
    if person in approvers:
        return Refusal("You have already approved this plan; it waits for somebody else.")
    decisions = context.store.runs.decisions(run.id)
    if any(decision.person == person for decision in decisions):
        return Refusal(
            "Your approval of this plan was voided for good. Somebody else can approve it, or "
            f"`/finetune cancel {run.id}` and `/finetune start` make a new plan."
        )
    return None


def _budget_refusal(context: AppContext, run: Run, plan: Plan) -> str | None:
    return budgets.refusal(context, run.channel, run.requester, plan.maximum_micros)


def _hand_over(context: AppContext, run: Run, plan: Plan) -> Run | None:
    """Marks the run as approved and reserves its money. Returns None if the run has moved on."""
    now = context.clock()
    runs = context.store.runs
    most = plan.maximum_micros
    moved = runs.move(run, "approved", now=now, reserved_micros=most)
    if moved is None:
        return None
    # The month of the approval: a job that starts in a later one has to fit into that month's budget.
    runs.book(moved, "reserve", most, month=units.month_of(now), now=now)
    notifications.show_progress(context, moved)
    sentence = plan_views.approved_by(runs.valid_approvals(run.id))
    tell_decision(context, moved, sentence)
    plan_requests.show_beside(context, moved, plan)
    return moved


def _show_decision(context: AppContext, run: Run, sentence: str) -> None:
    plan = plan_from_json(run.plan)
    money = budgets.tightest(context, run.channel, run.requester)
    card = plan_views.decided_card(run, plan, money, sentence)
    notifications.show_plan(context, run, card)
    tell_decision(context, run, sentence)


def tell_decision(context: AppContext, run: Run, sentence: str) -> None:
    """Tells the requester directly, because editing the card notifies nobody."""
    plan = plan_from_json(run.plan)
    title = escape(plan_views.plan_title(plan))
    link = notifications.link_to(context, run)
    text = f"Your {link} ({title}) {STATE_TEXTS[run.state]}. {sentence}"
    if run.state == "expired":
        text = f"{text} `/finetune start` makes a new plan."
    # A plan whose approvals were voided is decided on again, and each decision is told.
    once = f"decision {run.id} {run.state_since:.0f}"
    notifications.tell_requester(context, run, text, topic="approvals", once=once)


def _close(context: AppContext, run: Run, state: notifications.ClosedState, text: str) -> None:
    now = context.clock()
    with context.store.transaction():
        moved = context.store.runs.move(run, state, now=now, error=text)
        if moved:
            context.audit("finetune", state, f"run {run.id}")
            _show_decision(context, moved, text)
            plan = plan_from_json(run.plan)
            plan_requests.show_beside(context, moved, plan)


def _too_late_text(context: AppContext, run: Run | None) -> str:
    if run is None:
        return "There is no such plan any more. `/finetune start` makes a new one."
    by = context.store.replacements.by(run.id)
    if by is not None:
        return plan_refusals.superseded_refusal(run.id, by)
    return f"Run {run.id} has moved on: it {STATE_TEXTS[run.state]}."


@dataclass(frozen=True)
class LapsedApprovals:
    """`people` may not approve any more; `reason` says why the remaining approvals are too few."""

    people: tuple[str, ...]
    reason: str


def revalidate(context: AppContext, run: Run) -> Unsure | LapsedApprovals | Forbidden | None:
    """Looks up people and rules again before a job is created. Returns why the approvals don't cover the run any more,
    None if they do."""
    plan = plan_from_json(run.plan)
    waits = data_policy.unscanned(context, plan.dataset_id, [plan.provider])
    if waits:
        return Unsure(waits)
    forbidden = data_policy.plan_refusal(context, plan)
    if forbidden:
        return Forbidden(f"{forbidden} Its approval is void, and nothing was started.")
    approvers = _approvers_of(context, run)
    rules = authorization.current_rules(context, "approve")
    tier = rules.policy.tier(plan.maximum_micros)
    if tier is not None:
        return _recount(context, approvers, rules, tier.approvers)
    highest = rules.policy.tiers[-1]
    most = usd_micros(highest.up_to_micros or 0)
    return LapsedApprovals(approvers, f"runs may now cost at most {most} ({highest.where})")


def _recount(
    context: AppContext, approvers: tuple[str, ...], rules: Rules, needed: int
) -> Unsure | LapsedApprovals | None:
    """Looks the approvers up in Slack. Returns why too few of them may still approve, None if there are enough."""
    members = set()
    unknown = set()
    for person in rules.filter_entitled("approve", approvers):
        account = context.directory.person(person)
        if account is None:
            unknown.add(person)
        elif account.is_member:
            members.add(person)

    # Enough approvals certainly count, so it does not matter whom Slack said nothing about.
    if len(members) >= needed:
        return None
    # Doubt comes before lapsed approvals, because those are voided for good.
    if rules.unknown("approve"):
        return Unsure(who_may(explain_not_named("approve", rules)))
    if unknown:
        return Unsure("Slack didn't say whether the approvers are still members, so nothing is created yet.")

    gone = tuple(approver for approver in approvers if approver not in members)
    if not gone:
        return LapsedApprovals((), f"it now takes {needed} approvers, and {len(members)} approved")
    mentions = ", ".join(f"<@{person}>" for person in gone)
    reason = f"{mentions} may not approve any more"
    where = rules.policy.named("approve").where
    if where != BUILT_IN:
        reason += f" ({where})"
    return LapsedApprovals(gone, reason)


def void_approvals(context: AppContext, run: Run, lapsed: LapsedApprovals) -> None:
    """Voids lapsed approvals for good, frees the money, and lets the run wait for approval again. Call this only if
    certainly no job was created."""
    now = context.clock()
    plan = plan_from_json(run.plan)
    runs = context.store.runs
    with context.store.transaction():
        # `tries=2`: the vendor was asked and the plots were posted the first time.
        moved = runs.move(run, "awaiting_approval", now=now, reserved_micros=0, tries=2)
        if moved is None:
            return
        for person in lapsed.people:
            runs.void_approval(moved, person, lapsed.reason, now=now)
        runs.delete_reservation(moved)
        context.audit("finetune", "void", f"run {run.id}", lapsed.reason)
        plan_requests.show_request(context, moved, plan)  # its card asks again
        name = notifications.link_to(context, moved)
        message = plan_views.voided_card(moved, plan, lapsed.reason, name)
        # One plan can have its approvals voided several times, so the key has the time.
        context.post(run.channel, message.letter(), topic="approvals", dedupe=f"void {run.id} {now}")
        once = f"void dm {run.id} {now}"
        notifications.tell_requester(context, moved, message.text, topic="approvals", once=once)
