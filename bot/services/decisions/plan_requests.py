"""A plan that waits for approval: its card, which is kept true while it waits, and who can approve it. Making plans is
in plans.py, deciding on them in approvals.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bot.cards.common.blocks import Message
from bot.cards.common.permissions import too_few_approvers
from bot.cards.decisions import plans as plan_views
from bot.cards.decisions.plan_training import EarlierRun, PlanBeside
from bot.cards.decisions.plans import Pending, UseInstead
from bot.context import AppContext
from bot.rules.permissions import Request
from bot.rules.plan_settings import plan_changes
from bot.rules.plans import Plan, begins_alike, plan_from_json
from bot.services.common import authorization, budgets
from bot.services.evidence import checked_judges, evidence, notifications, promotion_evidence
from bot.services.evidence.measured_candidates import load_measured
from bot.values.runs import Progress, Refusal
from storage.records import Draft, Run, RunState

WAITING: tuple[RunState, ...] = ("awaiting_approval",)
GOOD_ENOUGH = "cheaper rung"  # the rule by which a verdict says to use what was measured


def approval_request(plan: Plan) -> Request:
    return Request(plan.requester, plan.uploaded_by, plan.asked_at, plan.maximum_micros)


def approvals_needed(context: AppContext, plan: Plan) -> int:
    """Returns how many people have to approve the plan."""
    tier = context.settings.policy.tier(plan.maximum_micros)
    return tier.approvers if tier else 0


def show_request(context: AppContext, run: Run, plan: Plan) -> None:
    """Shows the plan's card with the approvals so far, asking for the missing ones."""
    notifications.show_plan(context, run, request_card(context, run, plan))


def refresh_requests(context: AppContext) -> None:
    """Updates the cards of all plans that wait for approval. Call this in the transaction of what has changed."""
    for run in context.store.runs.in_states(WAITING):
        show_request(context, run, plan_from_json(run.plan))


def refresh_requests_of(context: AppContext, dataset: str) -> None:
    """Updates the cards of a dataset's waiting plans, once something else is in use for it. Call it in the transaction
    of that change."""
    for run in context.store.runs.in_states(WAITING):
        if context.store.datasets.get(run.dataset_id).name == dataset:
            show_request(context, run, plan_from_json(run.plan))


def show_beside(context: AppContext, run: Run, plan: Plan) -> None:
    """Updates the cards of the other waiting plans of this dataset, which name this one. Call it in the transaction
    that adds the run, or that ends its waiting."""
    for other, other_plan in _waiting_beside(context, run.id, plan):
        show_request(context, other, other_plan)


def _waiting_beside(context: AppContext, run_id: int, plan: Plan) -> list[tuple[Run, Plan]]:
    """Returns the other plans of this dataset that wait for approval, oldest first."""
    beside = []
    for run in context.store.runs.in_states(WAITING):
        # By the version's row, as reading a plan takes longer.
        version = context.store.datasets.get(run.dataset_id)
        if run.id != run_id and version.name == plan.dataset:
            beside.append((run, plan_from_json(run.plan)))
    return beside


def request_card(context: AppContext, run: Run, plan: Plan) -> Message:
    card = plan_views.approval_card(
        run,
        plan,
        budgets.tightest(context, run.channel, run.requester),
        pending(context, run, plan),
        context.store.runs.valid_approvals(run.id),
        context.settings.policy.expires_s / 3600,
        instead=_find_instead(context, plan),
    )
    return plan_views.add_replacement_note(card, context.store.replacements.of(run.id))


def _find_instead(context: AppContext, plan: Plan) -> UseInstead | None:
    """Returns what the plan's verdict says to use instead of training, None if it says something else."""
    advised = plan.advised
    if advised is None or (advised.kind, advised.rule) != ("no_go", GOOD_ENOUGH):
        return None
    files = context.settings.files
    measured = load_measured(context.store, files, plan.dataset, plan.holdout_sha256, advised.bar)
    candidate = measured.comparison.cheapest if measured else None
    if candidate is None:
        return None
    offered = promotion_evidence.find_offered(context, plan.dataset, plan.holdout_sha256, candidate)
    return UseInstead(candidate, offered)


def pending(context: AppContext, run: Run, plan: Plan) -> Pending:
    """Returns what stands between a waiting plan and its training."""
    over_budget = budgets.refusal(context, run.channel, run.requester, plan.maximum_micros)
    approvals = context.store.runs.valid_approvals(run.id)
    waiting_beside = _waiting_beside(context, run.id, plan)
    beside = []
    for other, other_plan in waiting_beside:
        name = notifications.link_to(context, other)
        beside.append(PlanBeside(name, plan_changes(other_plan, plan), other_plan))
    away = Progress.from_json(run.progress).away
    return Pending(
        quorum=approvals_needed(context, plan),
        approved=len(approvals),
        others=mention_approvers(context, run, plan),
        away=away,
        is_stuck=_is_stuck(context, run, plan, away),
        over_budget=over_budget or "",
        freeze=context.store.freezes.current(),
        before=find_earlier_run(context, plan, run.id),
        judge=checked_judges.judge_of_plan(context, plan),
        beside=beside,
        is_too_much_together=_is_too_much_together(context, run, plan, waiting_beside),
    )


def _is_too_much_together(
    context: AppContext, run: Run, plan: Plan, beside: Sequence[tuple[Run, Plan]]
) -> bool:
    """True if a budget of the plan doesn't hold it with the others that are paid from the same budget."""
    for budget in budgets.all_budgets(context, run.channel, run.requester):
        paid_from_it = [
            other_plan.maximum_micros
            for other, other_plan in beside
            if budget.covers(other.channel, other.requester)
        ]
        if paid_from_it and not budget.fits(plan.maximum_micros + sum(paid_from_it)):
            return True
    return False


def mention_approvers(context: AppContext, run: Run, plan: Plan) -> tuple[str, ...]:
    """Returns mentions of the people and groups who may still approve the plan. Empty if everybody may."""
    people = _people_left(context, run, plan)
    groups = context.settings.policy.named("approve").groups
    return (
        *(f"<@{user}>" for user in sorted(people)),
        *(f"<!subteam^{group}>" for group in sorted(groups)),
    )


def _people_left(context: AppContext, run: Run, plan: Plan) -> frozenset[str]:
    """Returns those who are named by id and may still approve the plan."""
    named = context.settings.policy.named("approve")
    approvals = context.store.runs.valid_approvals(run.id)
    decided = {approval.person for approval in approvals}
    away = Progress.from_json(run.progress).away
    return named.users - {run.requester, plan.uploaded_by} - decided - set(away)


def _is_stuck(context: AppContext, run: Run, plan: Plan, away: Sequence[str]) -> bool:
    """True if people have left and too few remain. With groups it is unknown, since nobody is looked up here."""
    named = context.settings.policy.named("approve")
    if not away or named.anyone or named.groups:
        return False
    approved = len(context.store.runs.valid_approvals(run.id))
    missing = approvals_needed(context, plan) - approved
    return len(_people_left(context, run, plan)) < missing


def find_away(context: AppContext, plan: Plan) -> tuple[str, ...]:
    """Returns the people who are named as approvers of the plan and are no active members any more. This looks them up,
    so call it outside a transaction."""
    people = context.settings.policy.named("approve").users - {plan.requester, plan.uploaded_by}
    away = []
    for person in sorted(people):
        account = context.directory.person(person)
        if account is not None and not account.is_member:
            away.append(person)
    return tuple(away)


def note_away(context: AppContext, run: Run, away: tuple[str, ...]) -> Run:
    """Stores who can't approve any more, for the plan's card and its messages. Call it in a transaction."""
    progress = Progress.from_json(run.progress)
    if progress.away == away:
        return run
    noted = replace(progress, away=away).to_json()
    return context.store.runs.move(run, run.state, now=context.clock(), progress=noted) or run


def ping_approvers(context: AppContext, run: Run, plan: Plan) -> None:
    """Names the approvers in the card's thread, once: the card itself names nobody until somebody has approved, and
    Slack notifies nobody of an edit."""
    waiting = pending(context, run, plan)
    if not waiting.others:
        return
    name = notifications.link_to(context, run)
    message = plan_views.ping(name, run, plan, waiting, context.settings.policy.expires_s / 3600)
    once = f"approvers of run {run.id}"
    card = notifications.card_of(context, run)
    context.send(Draft("post", run.channel, message.letter(), dedupe=once, thread=card))


def find_earlier_run(context: AppContext, plan: Plan, before: int | None = None) -> EarlierRun | None:
    """Returns the newest finished run on the plan's dataset and target, None if there is none. With `before`, only runs
    with a lower number count."""
    versions = tuple(version.id for version in context.store.datasets.versions(plan.dataset))
    for run in context.store.runs.done(versions):
        if before is not None and run.id >= before:
            continue
        other = plan_from_json(run.plan)
        if not begins_alike(other, plan):
            continue
        name = context.link(notifications.result_card_of(run), f"run {run.id}")
        candidate = evidence.tuned_candidate(context.store, run)
        # A score on other held-out rows can't stand beside this plan's prediction.
        if candidate is None or other.holdout_sha256 != plan.holdout_sha256:
            return EarlierRun(name, other)
        return EarlierRun(name, other, candidate)
    return None


def approver_refusal(context: AppContext, plan: Plan) -> Refusal | None:
    """Refuses a plan that too few people could approve. If Slack doesn't return a group's members or doesn't know a
    person, the plan is allowed. This looks people up, so call it outside a transaction."""
    rules = authorization.current_rules(context, "approve")
    tier = rules.policy.tier(plan.maximum_micros)
    if tier is None or rules.unknown("approve") or rules.policy.named("approve").anyone:
        return None
    excluded = {plan.requester, plan.uploaded_by}
    others = rules.named("approve") - excluded
    if not others:
        return Refusal(
            "Only you or the person who uploaded the data could approve this, and nobody may approve their own: the "
            "bot's operator has to name approvers in finetune.toml, [people]."
        )
    left = list[str]()
    gone = list[str]()
    for person in sorted(others):
        # No more people are looked up than needed, since somebody waits for the answer.
        if len(left) == tier.approvers:
            return None
        account = context.directory.person(person)
        if account is None or account.is_member:
            left.append(person)
        else:
            gone.append(person)
    if len(left) >= tier.approvers:
        return None
    return Refusal(too_few_approvers(tier.approvers, left, gone))
