"""A plan that waits for approval: its card, which is kept true while it waits, and who can approve it. Making plans is
in plans.py, deciding on them in approvals.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    return Request(
        requester=plan.requester,
        uploader=plan.uploaded_by,
        asked_at=plan.asked_at,
        maximum_micros=plan.maximum_micros,
    )


def approvals_needed(context: AppContext, plan: Plan) -> int:
    """Returns how many people have to approve the plan."""
    tier = context.settings.policy.tier(plan.maximum_micros)
    if tier is None:
        return 0
    return tier.approvers


def show_request(context: AppContext, run: Run, plan: Plan) -> None:
    """Shows the plan's card with the approvals so far, asking for the missing ones."""
    card = request_card(context, run, plan)
    notifications.show_plan(context, run, card)


def refresh_requests(context: AppContext) -> None:
    """Updates the cards of all plans that wait for approval. Call this in the transaction of what has changed."""
    for run in context.store.runs.in_states(WAITING):
        plan = plan_from_json(run.plan)
        show_request(context, run, plan)


def refresh_requests_of(context: AppContext, dataset: str) -> None:
    """Updates the cards of a dataset's waiting plans, once something else is in use for it. Call it in the transaction
    of that change."""
    for run in context.store.runs.in_states(WAITING):
        version = context.store.datasets.get(run.dataset_id)
        if version.name == dataset:
            plan = plan_from_json(run.plan)
            show_request(context, run, plan)


def show_beside(context: AppContext, run: Run, plan: Plan) -> None:
    """Updates the cards of the other waiting plans of this dataset, which name this one. Call it in the transaction
    that adds the run, or that ends its waiting."""
    for other, other_plan in _waiting_beside(context, run.id, plan):
        show_request(context, other, other_plan)


def _waiting_beside(context: AppContext, run_id: int, plan: Plan) -> list[tuple[Run, Plan]]:
    """Returns the other plans of this dataset that wait for approval, oldest first."""
    beside = []
    for run in context.store.runs.in_states(WAITING):
        if run.id == run_id:
            continue
        # By the version's row, as reading a plan takes longer.
        version = context.store.datasets.get(run.dataset_id)
        if version.name == plan.dataset:
            beside.append((run, plan_from_json(run.plan)))
    return beside


def request_card(context: AppContext, run: Run, plan: Plan) -> Message:
    hours = context.settings.policy.expires_s / 3600
    card = plan_views.approval_card(
        run,
        plan,
        budgets.tightest(context, run.channel, run.requester),
        pending(context, run, plan),
        context.store.runs.valid_approvals(run.id),
        hours,
        instead=_find_instead(context, plan),
    )
    replaced = context.store.replacements.of(run.id)
    return plan_views.add_replacement_note(card, replaced)


def _find_instead(context: AppContext, plan: Plan) -> UseInstead | None:
    """Returns what the plan's verdict says to use instead of training, None if it says something else."""
    advised = plan.advised
    if advised is None or (advised.kind, advised.rule) != ("no_go", GOOD_ENOUGH):
        return None
    files = context.settings.files
    measured = load_measured(context.store, files, plan.dataset, plan.holdout_sha256, advised.bar)
    if measured is None:
        return None
    candidate = measured.comparison.cheapest
    if candidate is None:
        return None
    offered = promotion_evidence.find_offered(context, plan.dataset, plan.holdout_sha256, candidate)
    return UseInstead(candidate, offered)


def pending(context: AppContext, run: Run, plan: Plan) -> Pending:
    """Returns what stands between a waiting plan and its training."""
    quorum = approvals_needed(context, plan)
    approvals = context.store.runs.valid_approvals(run.id)
    approvers = {approval.person for approval in approvals}
    away = Progress.from_json(run.progress).away
    named = context.settings.policy.named("approve")
    # Nobody approves a plan of their own, or one on data that they have uploaded.
    excluded = {run.requester, plan.uploaded_by}
    people_left = named.users - excluded - approvers - set(away)
    # With groups it is unknown whether too few are left, since nobody is looked up here.
    is_complete = not named.anyone and not named.groups
    are_too_few = len(people_left) < quorum - len(approvals)

    over_budget = budgets.refusal(context, run.channel, run.requester, plan.maximum_micros)
    waiting_beside = _waiting_beside(context, run.id, plan)
    beside = []
    for other, other_plan in waiting_beside:
        name = notifications.link_to(context, other)
        changes = plan_changes(other_plan, plan)
        beside.append(PlanBeside(name, changes, other_plan))
    return Pending(
        quorum=quorum,
        approved=len(approvals),
        others=_mentions(people_left, named.groups),
        away=away,
        is_stuck=bool(away) and is_complete and are_too_few,
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
        together = plan.maximum_micros + sum(paid_from_it)
        if paid_from_it and not budget.fits(together):
            return True
    return False


def _mentions(people: Collection[str], groups: Collection[str]) -> tuple[str, ...]:
    mentions = [f"<@{person}>" for person in sorted(people)]
    mentions += [f"<!subteam^{group}>" for group in sorted(groups)]
    return tuple(mentions)


def find_away(context: AppContext, plan: Plan) -> tuple[str, ...]:
    """Returns the people who are named as approvers of the plan and are no active members any more. This looks them up,
    so call it outside a transaction."""
    named = context.settings.policy.named("approve")
    excluded = {plan.requester, plan.uploaded_by}
    away = []
    for person in sorted(named.users - excluded):
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
    moved = context.store.runs.move(run, run.state, now=context.clock(), progress=noted)
    if moved is None:  # the run has moved on meanwhile
        return run
    return moved


def ping_approvers(context: AppContext, run: Run, plan: Plan) -> None:
    """Names the approvers in the card's thread, once: the card itself names nobody until somebody has approved, and
    Slack notifies nobody of an edit."""
    waiting = pending(context, run, plan)
    if not waiting.others:
        return
    name = notifications.link_to(context, run)
    hours = context.settings.policy.expires_s / 3600
    message = plan_views.ping(name, run, plan, waiting, hours)
    draft = Draft(
        kind="post",
        channel=run.channel,
        body=message.letter(),
        dedupe=f"approvers of run {run.id}",
        thread=notifications.card_of(context, run),
        topic="approvals",
    )
    context.send(draft)


def find_earlier_run(context: AppContext, plan: Plan, before: int | None = None) -> EarlierRun | None:
    """Returns the newest finished run on the plan's dataset and target, None if there is none. With `before`, only runs
    with a lower number count."""
    versions = context.store.datasets.versions(plan.dataset)
    ids = tuple(version.id for version in versions)
    for run in context.store.runs.done(ids):
        if before is not None and run.id >= before:
            continue
        other = plan_from_json(run.plan)
        if not begins_alike(other, plan):
            continue
        card = notifications.posted_result_card_of(context, run)
        name = context.link(card, f"run {run.id}")
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
    if tier is None or rules.unknown("approve"):
        return None
    if rules.policy.named("approve").anyone:
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
